"""Times of one step of each operation: by each backend, and in the paper's order with torch's own Dirichlet draw."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends.verdicts.device import Device
from ..backends.verdicts.plan import DTYPES
from ..functional import multimix, multimix_cross_entropy, sample_dirichlet
from .cases import SEED

PAPER = "paper"


class Shape(NamedTuple):
    """Examples, dimensions, classes, interpolations."""

    b: int
    d: int
    c: int
    n: int

    def __str__(self) -> str:
        return f"b {self.b}, d {self.d}, c {self.c}, n {self.n}"


SHAPES = (Shape(128, 512, 10, 10_000), Shape(128, 512, 100, 10_000), Shape(128, 2048, 1000, 10_000))
SIMULATED = (Shape(8, 4, 5, 16),)


def shapes(device: Device) -> tuple[Shape, ...]:
    """Those of image classifiers, or a small one where every thread is simulated."""
    return SIMULATED if device.simulated else SHAPES


def seconds(device: Device, backend: str, operation: str, kind: str, shape: Shape) -> float:
    """Of a step: loss and gradients, or the weights. The precision is set by the caller."""
    step = _step(device.torch_device, backend, operation, DTYPES[kind], shape)
    return device.seconds(step, *((1,) if device.simulated else ()))


def _step(device: torch.device, backend: str, operation: str, dtype: torch.dtype, shape: Shape) -> Callable[[], object]:
    b, d, c, n = shape
    generator = torch.Generator().manual_seed(SEED)

    def randn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device, dtype).requires_grad_()

    z, weight, bias = randn(b, d), randn(c, d), randn(c)
    target = (torch.arange(b) % c).to(device)
    options: dict[str, Any] = dict(n=n, seed=SEED, backend=backend)

    def draw() -> Tensor:
        alpha = torch.empty(n, 1, device=device).uniform_(0.5, 2.0)
        return torch._sample_dirichlet(alpha.expand(n, b).contiguous()).to(dtype)

    def loss() -> Tensor:
        if backend == PAPER:
            mixing = draw()
            mixed = mixing @ F.one_hot(target, c).to(dtype)
            return F.cross_entropy(F.linear(mixing @ z, weight, bias), mixed)
        if operation == "mixed_cross_entropy":
            return multimix_cross_entropy(z, target, weight, bias, **options)
        mixture = multimix(z, **options)
        return mixture.cross_entropy(F.linear(mixture.embeddings, weight, bias), target)

    if operation != "sample":
        return lambda: torch.autograd.grad(loss(), (z, weight, bias))
    if backend == PAPER:
        return draw
    return lambda: sample_dirichlet(n, b, device=device, dtype=dtype, seed=SEED, backend=backend)
