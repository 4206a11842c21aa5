"""Floors: the least time a step can take on this machine, from its own measured rates.

The work that no order of computing can avoid is two products of 2nrbc operations (one without gradients), those of the
linear layer, one exponential for each of nrc scores, and one gamma variate for each of nrb weights. A rate here is the
best of several repetitions of nothing but that kind of work.
"""

from dataclasses import dataclass

import torch

import multimix_kernels as mk

from ..cases import ALPHA, Case
from .timing import Budget, measure


@dataclass(frozen=True)
class Rates:
    """Per second: floating-point operations of matrix products, exponentials, gamma variates."""

    products: float
    exponentials: float
    gammas: float

    def parts(self, case: Case, n: int, mode: str, m: int | None = None) -> dict[str, float]:
        """Seconds of each part of the floor. With m examples in each mixture only these are multiplied and drawn."""
        full = mode == "full"
        rows, m = n * case.r, m or case.b
        mixing = (2 if full else 1) * 2 * rows * m * case.c
        linear = (3 if full else 1) * 2 * case.b * case.r * case.d * case.c
        return {
            "products": (mixing + linear) / self.products,
            "exponentials": rows * case.c / self.exponentials,
            "gammas": rows * m / self.gammas,
        }


def measure_rates(device: torch.device, dtype: torch.dtype, backend: str) -> Rates:
    """This machine's ceilings. Gammas are those of a backend's sampler."""
    size = 8192 if device.type == "cuda" else 2048
    x, y = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(x)
    products = _best(lambda: torch.matmul(x, y, out=out), device)
    exponentials = _exponentials_per_second(device)
    n = 1000 if backend == "reference" else 20_000 if device.type == "cpu" else 1_000_000
    gammas = _best(lambda: mk.sample_dirichlet(n, 128, alpha=ALPHA, device=device, backend=backend), device)
    return Rates(2 * size**3 / products, exponentials, n * 128 / gammas)


def _exponentials_per_second(device: torch.device) -> float:
    """torch.exp with source and destination in cache: 512 KiB each, or a quarter of a GPU's L2 each."""
    cuda = device.type == "cuda"
    count = torch.cuda.get_device_properties(device).L2_cache_size // 16 if cuda else 2**17
    scores = torch.randn(count, device=device)
    powers = torch.empty_like(scores)

    def rate():
        return count / _best(lambda: torch.exp(scores, out=powers), device)

    if cuda:
        # torch.exp waits for the L2 there; the special function units do 16 per cycle and multiprocessor.
        found = torch.cuda.get_device_properties(device)
        return max(rate(), 16.0 * found.multi_processor_count * 1e3 * getattr(found, "clock_rate", 0))
    # A call lasts microseconds: on a busy machine the threads wait for each other longer than they work.
    threads, found = torch.get_num_threads(), rate()
    try:
        torch.set_num_threads(1)
        return max(found, rate())
    finally:
        torch.set_num_threads(threads)


def _best(step, device: torch.device) -> float:
    timing = measure({"floor": step}, Budget(seconds=0.5, least=5, most=200), device)["floor"]
    if timing.error:
        raise RuntimeError(f"a floor could not be measured: {timing.error}")
    return min(timing.seconds)
