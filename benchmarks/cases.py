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
    """b examples, d embedding dimensions, c classes, and the grid of locations if dense; d 0: scores are given."""

    name: str  # in files and commands
    label: str  # for readers
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

    @property
    def from_scores(self) -> bool:
        """Whether the step begins with class scores: there is no linear head, and dense attention is uniform."""
        return self.d == 0


CASES = {
    case.name: case
    for case in (
        Case("cifar10-r18", "CIFAR-10, ResNet-18 (10 classes)", 128, 512, 10),
        Case("cifar100-r18", "CIFAR-100, ResNet-18 (100 classes)", 128, 512, 100),
        Case("imagenet-r50", "ImageNet, ResNet-50 (1000 classes)", 128, 2048, 1000),
        Case("vit-s", "ImageNet, ViT-S (1000 classes)", 128, 384, 1000),
        Case("dense-cifar100", "dense, 4x4: CIFAR-100, ResNet-18", 128, 512, 100, (4, 4), (10**3, 10**4)),
        Case("dense-imagenet", "dense, 7x7: ImageNet, ResNet-50", 128, 2048, 1000, (7, 7), (10**3, 10**4)),
        # Mixtures of few examples cost so little that the linear head would hide them.
        Case("scores-10", "scores of 10 classes", 128, 0, 10, n=(10**5,)),
        Case("scores-100", "scores of 100 classes", 128, 0, 100, n=(128, 10**4)),  # n = b: as many as manifold mixup
        Case("scores-1000", "scores of 1000 classes", 128, 0, 1000, n=(10**4,)),
        Case("dense-scores-10", "dense scores, 7x7, of 10 classes", 128, 0, 10, (7, 7), n=(64,)),
    )
}
FEW = (2, 4, 16)  # examples in each mixture: what cases from scores are measured with, beside all b


@dataclass(frozen=True)
class Problem:
    """The operands of one step. The same case, dtype and device always give the same numbers."""

    case: Case
    n: int
    mode: str
    z: Tensor  # (b, d, *spatial), or scores (b, c, *spatial)
    target: Tensor  # (b,)
    weight: Tensor | None  # (c, d); None from scores
    bias: Tensor | None  # (c,); None from scores
    m: int | None = None  # examples in each mixture; None: all

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What gradients are taken of."""
        return tuple(x for x in (self.z, self.weight, self.bias) if x is not None)

    @property
    def device(self) -> torch.device:
        """Where the operands are."""
        return self.z.device

    def detached(self, dtype: torch.dtype | None = None) -> "Problem":
        """Fresh leaves with the same numbers, in the given dtype."""
        leaves = [x.detach().to(dtype or x.dtype).clone().requires_grad_(self.mode == "full") for x in self.parameters]
        return replace(self, **dict(zip(("z", "weight", "bias"), leaves, strict=False)))


def make_problem(
    case: Case, n: int, mode: str, dtype: torch.dtype, device: torch.device, m: int | None = None
) -> Problem:
    """Random embeddings as they leave a ReLU, random labels, and a classifier with scores of order one."""
    generator = torch.Generator().manual_seed(0)
    if case.from_scores:
        leaves = [torch.randn(case.b, case.c, *case.spatial, generator=generator) * 2**0.5]
    else:
        leaves = [
            torch.randn(case.b, case.d, *case.spatial, generator=generator).relu_(),
            torch.randn(case.c, case.d, generator=generator) * (4 / case.d) ** 0.5,
            torch.randn(case.c, generator=generator) * 0.1,
        ]
    target = torch.randint(case.c, (case.b,), generator=generator).to(device)
    z, weight, bias = *(x.to(device, dtype).requires_grad_(mode == "full") for x in leaves), *[None] * (3 - len(leaves))
    return Problem(case, n, mode, z, target, weight, bias, m)


def our_loss(problem: Problem, backend: str, **options) -> Tensor:
    """The loss by the public function of this library."""
    options |= dict(n=problem.n, m=problem.m, alpha=ALPHA, backend=backend)
    if problem.weight is None:
        return mk.mixed_cross_entropy(problem.z, problem.target, **options)
    function = mk.dense_multimix_cross_entropy if problem.case.dense else mk.multimix_cross_entropy
    return function(problem.z, problem.target, problem.weight, problem.bias, **options)
