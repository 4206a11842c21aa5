"""The cases: sizes that people train with, and random problems of those sizes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import multimix_kernels as mk

MODES = ("forward", "full")  # full: forward and backward
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
ALPHA = (0.5, 2.0)


@dataclass(frozen=True)
class Case:
    """b examples, d embedding dimensions, c classes, and the grid of locations if dense."""

    name: str
    b: int
    d: int
    c: int
    spatial: tuple[int, ...] = ()
    n: tuple[int, ...] = (10**3, 10**4, 10**5, 10**6)  # interpolated examples per location

    @property
    def r(self) -> int:
        """Locations."""
        return torch.Size(self.spatial).numel()

    @property
    def dense(self) -> bool:
        """Whether it is Dense MultiMix."""
        return bool(self.spatial)


CASES = {
    case.name: case
    for case in (
        Case("cifar10-r18", 128, 512, 10),
        Case("cifar100-r18", 128, 512, 100),
        Case("imagenet-r50", 128, 2048, 1000),
        Case("vit-s", 128, 384, 1000),
        Case("dense-cifar100", 128, 512, 100, (4, 4), (10**3, 10**4)),
        Case("dense-imagenet", 128, 2048, 1000, (7, 7), (10**3, 10**4)),
    )
}


@dataclass(frozen=True)
class Problem:
    """The operands of one step. The same case, dtype and device always give the same numbers."""

    case: Case
    n: int
    mode: str
    z: Tensor  # (b, d, *spatial)
    target: Tensor  # (b,)
    weight: Tensor  # (c, d)
    bias: Tensor  # (c,)

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are taken of."""
        return self.z, self.weight, self.bias

    @property
    def device(self) -> torch.device:
        """Where the operands are."""
        return self.z.device

    def detached(self, dtype: torch.dtype | None = None) -> "Problem":
        """Fresh leaves with the same numbers, in the given dtype."""
        leaves = (x.detach().to(dtype or x.dtype).clone() for x in self.parameters)
        z, weight, bias = (x.requires_grad_(self.mode == "full") for x in leaves)
        return replace(self, z=z, weight=weight, bias=bias)


def make_problem(case: Case, n: int, mode: str, dtype: torch.dtype, device: torch.device) -> Problem:
    """Random embeddings as they leave a ReLU, random labels, and a classifier with scores of order one."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(case.b, case.d, *case.spatial, generator=generator).relu_()
    weight = torch.randn(case.c, case.d, generator=generator) * (4 / case.d) ** 0.5
    bias = torch.randn(case.c, generator=generator) * 0.1
    target = torch.randint(case.c, (case.b,), generator=generator).to(device)
    z, weight, bias = (x.to(device, dtype).requires_grad_(mode == "full") for x in (z, weight, bias))
    return Problem(case, n, mode, z, target, weight, bias)


def our_loss(problem: Problem, backend: str, **options) -> Tensor:
    """The loss by the public function of this library."""
    function = mk.dense_multimix_cross_entropy if problem.case.dense else mk.multimix_cross_entropy
    return function(
        problem.z, problem.target, problem.weight, problem.bias,
        n=problem.n, alpha=ALPHA, backend=backend, **options,
    )  # fmt: skip
