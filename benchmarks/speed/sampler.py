"""The sampler alone: Dirichlet weights by this library, by torch.distributions, and by NumPy."""

from collections.abc import Callable

import torch

import multimix_kernels as mk

from ..cases import ALPHA
from .timing import Budget, measure

B = 128
GAMMAS = 10**7
_PILOT = 10**5


def samplers(device: torch.device, backends: list[str]) -> dict[str, Callable[[int], object]]:
    """Functions of n that draw (n, B) weights, by name. NumPy's use one thread and are for the CPU."""
    found: dict[str, Callable[[int], object]] = {
        backend: lambda n, backend=backend: mk.sample_dirichlet(n, B, alpha=ALPHA, device=device, backend=backend)
        for backend in backends
    }
    low, high = ALPHA

    def torch_dirichlet(n):
        alpha = torch.rand(n, 1, device=device) * (high - low) + low
        return torch.distributions.Dirichlet(alpha.expand(n, B), validate_args=False).sample()

    found["torch Dirichlet"] = torch_dirichlet
    if device.type != "cpu":
        return found
    import numpy as np  # which a machine with a GPU may lack

    rng = np.random.default_rng(0)
    # One concentration for all rows: Generator.dirichlet takes no more. Not 1, which is a special case there.
    concentrations = np.full(B, (low + high) / 2)
    found["numpy dirichlet"] = lambda n: rng.dirichlet(concentrations, n)

    def standard_gamma(n):
        draws = rng.standard_gamma(rng.uniform(low, high, (n, 1)).astype(np.float32), (n, B), dtype=np.float32)
        return draws / draws.sum(1, keepdims=True)

    found["numpy standard_gamma"] = standard_gamma
    return found


def measure_samplers(
    device: torch.device, backends: list[str], budget: Budget, limit: float, progress: Callable[[str], None]
) -> list[dict]:
    """Rows with M gammas/s. A sampler too slow for the full size is measured at a smaller one."""
    steps, sizes, rows = {}, {}, []
    for name, sample in samplers(device, backends).items():
        progress(name)
        pilot = measure({name: lambda sample=sample: sample(_PILOT // B)}, Budget(0.0, 1, 1), device)[name]
        if pilot.error:
            rows.append({"kind": "sampler", "peer": name, "ours": name in backends, "status": pilot.error})
            continue
        # The specification runs out of cache long before the full size.
        slow = name == "reference" or pilot.median * GAMMAS / _PILOT > limit
        n = (_PILOT if slow else GAMMAS) // B
        steps[name], sizes[name] = lambda n=n, sample=sample: sample(n), n
    for name, timing in measure(steps, budget, device, progress).items():
        row = {"kind": "sampler", "peer": name, "ours": name in backends, "gammas": sizes[name] * B}
        if timing.error:
            rows.append(row | {"status": timing.error})
            continue
        low, high = timing.quartiles
        rows.append(
            row
            | {"status": "ok", "median_s": timing.median, "q1_s": low, "q3_s": high}
            | {"repetitions": len(timing.seconds), "mega_gammas_per_s": sizes[name] * B / timing.median / 1e6}
        )
    return rows
