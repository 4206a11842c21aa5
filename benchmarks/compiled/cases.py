"""The configurations that the launchers use, as cases to be compiled ahead of time by `aot`.

They are those for b = 128 examples, and for b = 1024 where these differ; of the fused loss every padded shape.
"""

from dataclasses import dataclass, replace
from typing import Any

from triton.backends.compiler import GPUTarget

from multimix_kernels.backends.triton import mix, soft
from multimix_kernels.backends.triton.host import shapes
from multimix_kernels.backends.triton.mixed.large import gradient_kernel, normaliser_kernel, weights_gradient_kernel
from multimix_kernels.backends.triton.mixed.small import mixed_small_kernel
from multimix_kernels.backends.triton.products.operands import prepare_kernel
from multimix_kernels.backends.triton.sums import (
    ATTENTION_TILE,
    FINISH_TILE,
    add_up_kernel,
    attention_kernel,
    centre_kernel,
    finish_kernel,
)
from multimix_kernels.backends.triton.weights.sample import sample_kernel
from multimix_kernels.backends.triton.weights.stream import ACCURATE, HARDWARE, LOG_SPACE

TARGETS = {
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 86, 89, 90, 100, 120)},
    **{arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942")},
}
B, MANY = 128, 1024  # examples
SMALL_SHAPES = [(b, c) for b in (16, 32, 64, 128, 256) for c in (16, 32, 64, 128, 256)]  # padded examples, classes
REPRESENTATIVE = {"mixed_small c=100", "normaliser", "gradient", "soft"}  # and the first sampler
DRAW = dict(SUBSET=False)
ALONE = dict(CLASSES=0, EXAMPLES=0, CHUNK=0, LABELS=False, NAN=False)  # weights, and no operands beside them
BESIDE = dict(PREPARING=True, CLASSES=1024, EXAMPLES=2, CHUNK=256, LABELS=True)


@dataclass(frozen=True)
class Case:
    """A kernel at one configuration."""

    name: str
    kernel: Any
    operand: str
    constants: dict  # and flags, which say what the arguments are: see `arguments`
    warps: int
    stages: int
    products: bool = True
    variant: bool = False  # of other operands than contiguous ones, labels, and no attention
    representative: bool = False  # one of the few that stand for all
    another_shape: bool = False  # which a case that is none has the same program of, but for sizes

    def but(self, name: str, **constants) -> "Case":
        """The same kernel with other constants; None: an argument instead."""
        merged = {key: value for key, value in (self.constants | constants).items() if value is not None}
        return replace(self, name=f"{self.name}, {name}", constants=merged, variant=True)

    def launched(self, **options) -> "Case":
        """The same kernel launched in another way."""
        return replace(self, **options)

    @property
    def needs_matrix_instructions(self) -> bool:
        """IEEE float32 has none on NVIDIA GPUs."""
        return self.products and self.operand != "fp32"


def family_of(target: str) -> shapes.Family:
    """The family of a target."""
    if TARGETS[target].backend == "hip":
        return shapes.CDNA
    return shapes.FAMILIES.get(TARGETS[target].arch // 10, shapes.NVIDIA)


def cases_of(target: str) -> list[Case]:
    """The configurations in use on a target; float32 has one precision on AMD GPUs."""
    family = family_of(target)
    return cases(family, ("bf16", "fp32") if family is shapes.CDNA else ("bf16", "tf32", "fp32"))


def cases(family: shapes.Family, operands: tuple[str, ...] = ("bf16", "tf32", "fp32")) -> list[Case]:
    """The configurations in use."""
    found = []
    kinds = {"hardware": HARDWARE, "accurate": ACCURATE, "log space": LOG_SPACE}
    for name, kind in kinds.items():
        if kind.value == HARDWARE.value and family.lanes != 32:
            continue
        tile = family.sampler(B, kind.value == LOG_SPACE.value)
        constants = dict(
            E=tile.registers, R=tile.rows, C=tile.groups, KIND=kind.value, **DRAW, OPERAND="bf16", SCRATCH=True,
            PLAIN=False, WIDTH=B, ASSEMBLY=family.lanes == 32, **ALONE,
        )  # fmt: skip
        drawn = Case(f"sample, {name}", sample_kernel, "bf16", constants, tile.warps, 1, False)
        found += [
            drawn,
            drawn.but("attention", ATTENTION=True),
            drawn.but("operands beside", **BESIDE),
            drawn.but("subset, attention", SUBSET=True, ATTENTION=True, PLAIN=True),
            drawn.but("output", SCRATCH=False, IGNORED=False, OPERAND="fp32").launched(operand="fp32"),
        ]
        if kind.value == LOG_SPACE.value:
            found.append(drawn.but("alpha of each example, attention", PER_EXAMPLE=True, ATTENTION=True))
    for operand in operands:
        found += _products(family, operand)
    sums = dict(LABELS=True, TILE=shapes.ADD_UP_TILE, SUMS=FINISH_TILE)
    found.append(Case("add_up", add_up_kernel, "fp32", sums, 4, 1, False))
    ready = dict(WIDTH=B, CLASSES=1024, R=2, CHUNK=1024, OPERAND="bf16", LABELS=True, NAN=False)
    found.append(Case("prepare", prepare_kernel, "bf16", ready, 4, 1, False))
    found.append(Case("finish", finish_kernel, "bf16", dict(TILE=FINISH_TILE), 4, 1, False))
    total = dict(WIDTH=B, SPLITS=64, TILE=ATTENTION_TILE)
    found.append(Case("attention", attention_kernel, "bf16", total, 4, 1, False))
    found.append(Case("centre", centre_kernel, "bf16", dict(WIDTH=B, R=32, B=B), 4, 1, False))
    few = REPRESENTATIVE | {found[0].name}
    return [replace(case, representative=case.name in few and case.operand == "bf16") for case in found]


def _products(family: shapes.Family, operand: str) -> list[Case]:
    """The kernels with matrix products: of contiguous rows and labels, and then of other operands."""
    found = []
    kinds, usual = set(), []
    for name, b, c in (("mixed_small c=10", B, 10), ("mixed_small c=100", B, 100), ("mixed_small b=64", 64, 10)):
        small = family.mixed_small(b, c, operand)
        if small is not None:
            found += _mixed_small(name, small, family, operand)
            kinds.add(_kind(small))
            usual.append(small)
    for b, c in SMALL_SHAPES:
        small = family.mixed_small(b, c, operand)
        if small is not None and small not in usual:
            plain, *_ = _mixed_small(f"mixed_small {b} x {c}", small, family, operand)
            found.append(replace(plain, another_shape=_kind(small) in kinds))
            kinds.add(_kind(small))

    def case(name, kernel, shape, columns, b=B, **constants):
        sizes = {"WIDTH": b, "DEPTH": min(b, shape.depth), "R": shape.rows, columns: shape.classes, "OPERAND": operand}
        return Case(name, kernel, operand, sizes | constants, shape.warps, shape.stages)

    large, two, softs = family.large[operand], family.two_accumulators[operand], family.soft[operand]
    labels = dict(LABELS=True)
    values = dict(ZEROS=False, SCORES=False)
    total = dict(HEIGHT=1152, FIRST=False, IN_PLACE=False)
    soft_case = dict(UNIT=8, OUT_UNIT=8)
    wide = dict(WIDE=True)
    normaliser = case("normaliser", normaliser_kernel, large, "CLASSES", **labels, ROWS=False)
    gradient = case("gradient", gradient_kernel, large, "CLASSES", **labels, **total)
    by_weights = case("weights gradient", weights_gradient_kernel, two, "CLASSES", **labels)
    softened = case("soft", soft.soft_kernel, softs, "CLASSES", **soft_case)
    mixed = case("mix", mix.mix_kernel, two, "FEATURES", **values)
    mixed_by_values = case("mix values gradient", mix.values_gradient_kernel, large, "FEATURES", **total)
    mixed_by_weights = case("mix weights gradient", mix.weights_gradient_kernel, two, "FEATURES", ADD=False)
    found += [
        normaliser,
        gradient,
        by_weights,
        softened,
        mixed,
        mixed_by_values,
        mixed_by_weights,
        case("mix many", mix.mix_kernel, two, "FEATURES", MANY, **wide, ZEROS=False, SCORES=True),
        case("soft many", soft.soft_kernel, softs, "CLASSES", MANY, **wide, **soft_case),
        case("mix values gradient many", mix.values_gradient_kernel, two, "FEATURES", MANY, **wide, **total),
    ]
    # Too large for a copy and for partial sums.
    in_place, unpacked, probabilities = dict(IN_PLACE=True), dict(PACKED=False), dict(LABELS=False)
    tile = dict(R=two.rows, DEPTH=min(B, two.depth))
    small_tile = dict(warps=two.warps, stages=two.stages)
    return found + [
        normaliser.but("probabilities, rows", **probabilities, ROWS=True),
        normaliser.but("few rows", R=16),
        normaliser.but("in place", **unpacked, **tile, CLASSES=two.classes).launched(**small_tile),
        gradient.but("probabilities, upstream", **probabilities, WEIGHTED=True),
        gradient.but("in place", **unpacked, **in_place, **tile, CLASSES=two.classes).launched(**small_tile),
        by_weights.but("probabilities, upstream", **probabilities, WEIGHTED=True),
        by_weights.but("in place", **unpacked),
        softened.but("loss only", ROWS=True, GRADIENT=False).launched(products=False),
        softened.but("upstream, weights", WEIGHTED=True, WEIGHTS=True, SCALED=True),
        softened.but("probabilities", **probabilities, WEIGHTED=True, WEIGHTS=True),
        softened.but("probabilities in place", **probabilities, **unpacked, WEIGHTS=True).launched(stages=1),
        mixed.but("in place", **unpacked),
        mixed.but("subset", ZEROS=True),
        mixed_by_values.but("in place", **in_place, **tile, FEATURES=two.classes).launched(**small_tile),
        mixed_by_weights.but("in place", **unpacked, ADD=True),
    ]


def _kind(small: shapes.Small) -> tuple:
    """What decides on the instructions of its products: warps, and enough classes for those of warp groups."""
    return small.pair.warps, small.classes >= 64


def _mixed_small(name: str, small: shapes.Small, family: shapes.Family, operand: str) -> list[Case]:
    pair = small.pair
    constants = dict(
        E=pair.registers, R=pair.rows, G=pair.groups, CLASSES=small.classes, EXAMPLES=small.examples,
        KIND=HARDWARE.value if family.lanes == 32 else ACCURATE.value, OPERAND=operand, LABELS=True,
    )  # fmt: skip
    plain = Case(name, mixed_small_kernel, operand, constants, pair.warps, 1)
    return [
        plain,
        plain.but("rows", ROWS=True, GRADIENT=False),
        plain.but("attention, upstream", ATTENTION=True, WEIGHTED=True),
        plain.but(
            "attention, accurate, probabilities", ATTENTION=True, KIND=ACCURATE.value, LABELS=False, IGNORED=False
        ),
    ]
