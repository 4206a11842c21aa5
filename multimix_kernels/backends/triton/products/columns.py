"""Matrices that are read in tiles, and their products with the weights of the scratch.

Scores go into products less a shift of their example, which changes no softmax, and with finite numbers in the place of
masks and of what is none: zero times them is zero. `prepare` says what else they cost.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..host.constants import FLOOR, FLOOR_16, LARGEST_MASK, LARGEST_MASK_16, MASKED, MASKED_16, SCALE_16
from .dot import dot, round_operand


class Columns(NamedTuple):
    """A matrix (examples, columns) of each location: padded, or in place."""

    pointer: Tensor
    place: int  # strides
    example: int
    column: int
    kept: Tensor | None = None  # in place: int8 (width,), which examples are there and not ignored
    shift: Tensor | None = None  # in place, of scores: (places, width)


def columns_of(x: Tensor, kept: Tensor | None = None, shift: Tensor | None = None) -> Columns:
    """x (places, examples, columns) as kernels take it."""
    place, example, column = x.stride()
    return Columns(x, place if x.shape[0] > 1 else 0, example, column, kept, shift)


def place_stride(x: Tensor) -> int | None:
    """Of x (places, b, columns); None if it is that of b examples, or there is one place only.

    Triton compiles for what divides the numbers of a record: such a stride would be compiled for again with another b.
    """
    places, b, _ = x.shape
    place, example, _ = x.stride()
    return None if places == 1 or place == b * example else place


@triton.jit
def begin(x, place, b):
    """Where a place, in 64 bits, begins in a matrix whose stride is that of `place_stride`."""
    return x.pointer + place * (b.to(tl.int64) * x.example if x.place is None else x.place)


@triton.jit
def is_score(s):
    """Whether it is neither a mask, nor infinite, nor NaN."""
    mask: tl.constexpr = LARGEST_MASK_16 if s.dtype == tl.float16 else LARGEST_MASK
    wide = s.to(tl.float32)
    return (wide > mask) & (wide < float("inf"))


@triton.jit
def finite_score(s, shift, NAN: tl.constexpr):
    """s less the shift in float32; the lowest number for a mask; for NaN and infinity zero, or NaN."""
    lowest: tl.constexpr = FLOOR_16 if s.dtype == tl.float16 else FLOOR
    nothing: tl.constexpr = float("nan") if NAN else 0.0
    wide = s.to(tl.float32)
    score = tl.where(is_score(s), tl.maximum(wide - shift, lowest), lowest)
    return tl.where(wide < float("inf"), score, nothing)


@triton.jit
def score_unit(OPERAND: tl.constexpr):
    """What mixed operands of scores are multiplied by to be logits."""
    unit: tl.constexpr = 1.0 / SCALE_16 if OPERAND == "fp16" else 1.0
    return unit


@triton.jit
def highest_mask(OPERAND: tl.constexpr):
    """Mixed scores below are those of a masked class."""
    highest: tl.constexpr = MASKED_16 if OPERAND == "fp16" else MASKED
    return highest


@triton.jit
def load_columns(x, place, i, j, c, WIDTH: tl.constexpr, NAN: tl.constexpr):
    """Elements (i, j) that broadcast, of scores as operands. Past c: zeros, or a mask. NAN: they stay what they are."""
    if x.kept is None:
        result = tl.load(x.pointer + place * x.place + i * x.example + j * x.column)
    else:
        inside = (tl.load(x.kept + i) != 0) & (j < c)
        at = place * x.place + i.to(tl.int64) * x.example + j.to(tl.int64) * x.column
        result = tl.load(x.pointer + at, mask=inside, other=0.0)
        if x.shift is not None:
            lowest: tl.constexpr = FLOOR_16 if result.dtype == tl.float16 else FLOOR
            score = finite_score(result, tl.load(x.shift + place * WIDTH + i), NAN)
            scale: tl.constexpr = SCALE_16 if result.dtype == tl.float16 else 1.0
            result = tl.where(j < c, score, lowest) * scale
    return result


@triton.jit
def mix_columns(weights_ptr, k, x, place, j, c, WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
                COLUMNS: tl.constexpr, OPERAND: tl.constexpr, NAN: tl.constexpr):  # fmt: skip
    """weights (rows k, WIDTH) @ x (WIDTH, columns j): (ROWS, COLUMNS), not yet divided by the weights' sums."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :])  # (ROWS, DEPTH)
        s = load_columns(x, place, i[:, None], j[None, :], c, WIDTH, NAN)  # (DEPTH, COLUMNS)
        total = dot(w, round_operand(s, OPERAND), total, OPERAND)
    return total


@triton.jit
def mix_columns_with_zeros(weights_ptr, k, x, place, j, c, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
                           ROWS: tl.constexpr, COLUMNS: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """The same, where a weight of zero times NaN or infinity is zero; three products."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    above = tl.zeros((ROWS, COLUMNS), tl.float32)
    below = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :])  # (ROWS, DEPTH)
        s = load_columns(x, place, i[:, None], j[None, :], c, WIDTH, True).to(tl.float32)  # (DEPTH, COLUMNS)
        finite = tl.where((s < float("inf")) & (s > float("-inf")), s, 0.0)
        total = dot(w, round_operand(finite, OPERAND), total, OPERAND)
        taken = round_operand((w != 0).to(tl.float32), OPERAND)
        above = dot(taken, round_operand(tl.where(s < float("inf"), 0.0, 1.0), OPERAND), above, OPERAND)
        below = dot(taken, round_operand(tl.where(s > float("-inf"), 0.0, 1.0), OPERAND), below, OPERAND)
    total += tl.where(above > 0, float("inf"), 0.0)
    return total - tl.where(below > 0, float("inf"), 0.0)
