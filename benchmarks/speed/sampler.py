"""The sampler alone: Dirichlet weights by this library, by torch.distributions, and by NumPy."""

from collections.abc import Callable

import torch

import multimix_kernels as mk

from ..cases import ALPHA, FEW
from .timing import Budget, measure

B = 128
GAMMAS = 10**7
_PILOT = 10**5
Sampler = tuple[int, Callable[[int], object]]  # examples in each mixture, and a function of n that draws (n, B)


def samplers(device: torch.device, backends: list[str]) -> dict[str, Sampler]:
    """Samplers by name, ours for few examples too. NumPy's use one thread and are for the CPU."""
    found: dict[str, Sampler] = {}
    for backend in backends:
        for m in (B, *FEW):
            options = dict(m=m, alpha=ALPHA, device=device, backend=backend)
            name = backend if m == B else f"{backend}, m = {m}"
            found[name] = m, lambda n, options=options: mk.sample_dirichlet(n, B, **options)
    low, high = ALPHA

    def torch_dirichlet(n):
        alpha = torch.rand(n, 1, device=device) * (high - low) + low
        return torch.distributions.Dirichlet(alpha.expand(n, B), validate_args=False).sample()

    found["torch Dirichlet"] = B, torch_dirichlet
    if device.type != "cpu":
        return found
    import numpy as np  # which a machine with a GPU may lack

    rng = np.random.default_rng(0)
    # One concentration for all rows: Generator.dirichlet takes no more. Not 1, which is a special case there.
    concentrations = np.full(B, (low + high) / 2)
    found["numpy dirichlet"] = B, lambda n: rng.dirichlet(concentrations, n)

    def standard_gamma(n):
        draws = rng.standard_gamma(rng.uniform(low, high, (n, 1)).astype(np.float32), (n, B), dtype=np.float32)
        return draws / draws.sum(1, keepdims=True)

    found["numpy standard_gamma"] = B, standard_gamma
    return found


def measure_samplers(
    device: torch.device, backends: list[str], budget: Budget, limit: float, progress: Callable[[str], None]
) -> list[dict]:
    """Rows with M gammas/s. A sampler too slow for the full size is measured at a smaller one."""
    found = samplers(device, backends)
    steps, sizes, rows = {}, {}, []

    def add(name: str, **fields) -> None:
        m = found[name][0]
        rows.append({"kind": "sampler", "peer": name, "ours": name.split(",")[0] in backends, "b": B, "m": m} | fields)

    for name, (_, sample) in found.items():
        progress(name)
        pilot = measure({name: lambda sample=sample: sample(_PILOT // B)}, Budget(0.0, 1, 1), device)[name]
        if pilot.error:
            add(name, status=pilot.error)
            continue
        # The specification runs out of cache long before the full size.
        slow = name.startswith("reference") or pilot.median * GAMMAS / _PILOT > limit
        n = (_PILOT if slow else GAMMAS) // B
        steps[name], sizes[name] = lambda n=n, sample=sample: sample(n), n
    for name, timing in measure(steps, budget, device, progress).items():
        m, n = found[name][0], sizes[name]
        if timing.error:
            add(name, gammas=n * m, status=timing.error)
            continue
        low, high = timing.quartiles
        times = {"status": "ok", "median_s": timing.median, "q1_s": low, "q3_s": high}
        rates = {"mega_gammas_per_s": n * m / timing.median / 1e6, "mega_rows_per_s": n / timing.median / 1e6}
        add(name, gammas=n * m, repetitions=len(timing.seconds), **times, **rates)
    return rows
