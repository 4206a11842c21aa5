"""What stands before and after the kernels of a loss, in one launch each: operands prepared, row losses added up.

`prepare` reads scores and targets once and writes them padded, with zeros for what ignored examples hold: NaN there
must not reach a sum. `finish` adds up the sums of the programs in a fixed order. Bytes: twice those of scores and
targets, 8 for each program; operations: one addition per score. What they cost does not depend on n.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..host import shapes as config
from ..products.dot import nearest
from ..products.targets import Target
from ..weights.stream import LOWEST


@triton.jit
def load_padded(pointer, x_example, x_class, i, j, kept_ptr, c, PACKED: tl.constexpr):
    """Elements (i, j) that broadcast, of padded scores; or of scores in place, with zeros for what is left out."""
    if PACKED:
        result = tl.load(pointer + i * x_example + j * x_class)
    else:
        kept = tl.load(kept_ptr + i) != 0
        at = i.to(tl.int64) * x_example + j.to(tl.int64) * x_class
        result = tl.load(pointer + at, mask=kept & (j < c), other=0.0)
    return result


@triton.jit(do_not_specialize=["b", "c", "ignore_index", "x_location"])
def prepare_kernel(
    scores_ptr, x_location, x_example, x_class, packed_ptr, p_class, p_example, sums_ptr, on_target_ptr,
    target_ptr, t_example, t_class, targets_ptr, y_class, y_example, mass_ptr, kept_ptr, ignored_ptr,
    keep, smoothing, ignore_index, b, c,
    WIDTH: tl.constexpr, CLASSES: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr,
    LABELS: tl.constexpr, SCORES: tl.constexpr, PACKED: tl.constexpr, ON_TARGET: tl.constexpr,
    TARGETS: tl.constexpr, IGNORED: tl.constexpr,
):  # fmt: skip
    """Of examples i at a location: padded scores, sums, A_i. Of examples i: padded targets, masses, whether kept."""
    i = tl.program_id(0) * R + tl.arange(0, R)
    place = tl.program_id(1).to(tl.int64)
    once = place * WIDTH + i < WIDTH  # at the first location only
    exists = i < b
    real = exists
    if IGNORED:
        real = exists & (tl.load(ignored_ptr + i, mask=exists, other=1) == 0)
    if LABELS:
        label = tl.load(target_ptr + i, mask=exists, other=ignore_index)
        lost = label == ignore_index
    far = i.to(tl.int64)[:, None]
    total = tl.zeros((R, CHUNK), tl.float32)
    mass = tl.zeros((R, CHUNK), tl.float32)
    scores_ptr += place * x_location + far * x_example
    for start in range(0, CLASSES, CHUNK):
        j = start + tl.arange(0, CHUNK)
        wide = j.to(tl.int64)[None, :]
        inside = (j < c)[None, :]
        stored = (i < WIDTH)[:, None] & (j < CLASSES)[None, :]
        if SCORES:
            s = tl.load(scores_ptr + wide * x_class, mask=real[:, None] & inside, other=0.0)
            # A class masked with -inf costs nothing without smoothing; then the sums are any shift.
            masked = (s == float("-inf")) & (smoothing == 0)
            total += tl.where(masked, 0.0, s.to(tl.float32))
            if PACKED:
                tl.store(packed_ptr + place * (WIDTH * CLASSES) + far * p_example + wide * p_class, s, mask=stored)
        if TARGETS or not LABELS:
            if LABELS:
                y = ((label[:, None] == j[None, :]) & ~lost[:, None] & inside).to(tl.float32)
            else:
                at = target_ptr + far * t_example + wide * t_class
                y = tl.load(at, mask=exists[:, None] & inside, other=0.0).to(tl.float32)
            if TARGETS:
                rounded = nearest(y, targets_ptr.dtype.element_ty)
                tl.store(targets_ptr + far * y_example + wide * y_class, rounded, mask=stored & once[:, None])
                y = rounded.to(tl.float32)
            mass += y
    if SCORES:
        sums = tl.sum(total, 1)
        tl.store(sums_ptr + place * b + i, sums, mask=exists)
        if ON_TARGET:
            # In float32 of scores less their mean over classes: less cancels in the loss.
            mean = sums / c if OPERAND == "fp32" else sums * 0.0
            for start in range(0, WIDTH, CHUNK):
                k = start + tl.arange(0, CHUNK)
                other = tl.load(target_ptr + k, mask=k < b, other=ignore_index)
                known = (other != ignore_index) & (other >= 0) & (other < c)
                known = real[:, None] & known[None, :]
                s = tl.load(scores_ptr + other[None, :] * x_class, mask=known, other=0.0).to(tl.float32)
                s = nearest(tl.where(known, s - mean[:, None], 0.0), on_target_ptr.dtype.element_ty)
                at = (place * WIDTH + far) * WIDTH + k[None, :]
                tl.store(on_target_ptr + at, s, mask=(i < WIDTH)[:, None] & (k < WIDTH)[None, :])
    if LABELS:
        weight = tl.where(lost, 0.0, tl.where((label >= 0) & (label < c), 1.0, float("nan")))
    else:
        weight = tl.where(exists, tl.sum(mass, 1) * keep + smoothing, 0.0)
    tl.store(mass_ptr + i, weight, mask=once)
    tl.store(kept_ptr + i, real.to(tl.int8), mask=once)


@triton.jit(do_not_specialize=["count", "b"])
def finish_kernel(
    sums_ptr, count, scale, mass_ptr, b, out_ptr, CHECKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out = scale * the sum of `count` float64 sums; CHECKED: NaN if no example has a target."""
    total = tl.zeros((TILE,), tl.float64)
    for start in range(0, count, TILE):
        k = start + tl.arange(0, TILE)
        total += tl.load(sums_ptr + k, mask=k < count, other=0.0)
    loss = (tl.sum(total) * scale).to(tl.float32)
    if CHECKED:
        found = tl.zeros((TILE,), tl.int32)
        for start in range(0, b, TILE):
            i = start + tl.arange(0, TILE)
            found = found | (tl.load(mass_ptr + i, mask=i < b, other=0.0) != 0).to(tl.int32)
        loss = tl.where(tl.max(found) == 0, float("nan"), loss)
    tl.store(out_ptr, loss)


@dataclass
class Prepared:
    """Operands of kernels, at some locations: L places, `width` examples and `classes` columns with the padding."""

    scores: Tensor  # (L, width, classes), or transposed; in place where `packed` is not
    strides: tuple[int, int]  # of examples and of classes
    place_stride: int
    packed: bool
    sums: Tensor  # (L, b): over classes
    on_target: Tensor  # (L, width, width): the products of each example's scores with each example's target
    targets: Tensor  # (width, classes), or transposed: not smoothed
    mass: Tensor  # (width,): of each smoothed target; 0 of an ignored one, NaN of a label that does not exist
    kept: Tensor  # (width,): whether there is such an example and it is not ignored


def prepare(
    scores: Tensor | None, target: Target, ignored: Tensor | None, width: int, classes: int, operand: str, *,
    transposed: bool = False, on_target: bool = False, targets: torch.dtype | None = None,
) -> Prepared:  # fmt: skip
    """One launch. scores (L, b, c) or None; targets: the dtype in which padded targets are wanted, if they are.

    ignored (b,) int8.
    """
    b, like = target.values.shape[0], target.values
    places = 1 if scores is None else scores.shape[0]
    packed = scores is not None and places * width * classes * scores.itemsize <= config.PACKED_BYTES
    mass, kept = like.new_empty((width,), dtype=torch.float32), like.new_empty((width,), dtype=torch.int8)
    shape = (classes, width) if transposed else (width, classes)
    strides = (1, width) if transposed else (classes, 1)
    y = mass if targets is None else like.new_empty(shape, dtype=targets)
    x, sums, a = mass, mass, mass
    if scores is not None:
        x = scores.new_empty((places, *shape)) if packed else scores
        sums = scores.new_empty((places, b), dtype=torch.float32)
        a = scores.new_empty((places, width, width)) if on_target else mass
    t_strides = (1, 0) if target.by_label else like.stride()
    gather = on_target and target.by_label
    chunk = min(1024, config.power_of_two(max(classes, width)))
    rows = min(width, 2048 // chunk)
    prepare_kernel[(triton.cdiv(width, rows), places)](
        mass if scores is None else scores, *((0, 0, 0) if scores is None else scores.stride()), x, *strides[::-1],
        sums, a, like, *t_strides, y, *strides[::-1], mass, kept,
        mass if ignored is None else ignored, target.keep, 1 - target.keep, target.ignore_index,
        b, target.c, WIDTH=width, CLASSES=classes, R=rows, CHUNK=chunk,
        OPERAND=operand, LABELS=target.by_label, SCORES=scores is not None, PACKED=packed, ON_TARGET=gather,
        TARGETS=targets is not None, IGNORED=ignored is not None, **config.options(4, 1),
    )  # fmt: skip
    if on_target and not gather and scores is not None:
        kept_scores = scores if ignored is None else scores.masked_fill(ignored.bool().unsqueeze(1), 0)
        _products_with_targets(kept_scores, target, sums if operand == "fp32" else None, a)
    if scores is not None and not packed:
        place_stride, strides = scores.stride(0), (scores.stride(1), scores.stride(2))
    else:
        place_stride = width * classes
    return Prepared(x, strides, place_stride, packed, sums, a, y, mass, kept)


def _products_with_targets(scores: Tensor, target: Target, sums: Tensor | None, out: Tensor) -> None:
    """Of probabilities, some classes at a time: copies in float32 stay small. sums: less the mean over classes."""
    b, c = target.values.shape
    total = scores.new_zeros((scores.shape[0], b, b), dtype=torch.float32)
    some = max(1, (1 << 20) // (scores.shape[0] * b))
    for first in range(0, c, some):
        s = scores[..., first : first + some].float().clamp(min=LOWEST.value)  # of a masked class
        if sums is not None:
            s = s - (sums / c).unsqueeze(-1)
        total += s @ target.values[:, first : first + some].float().T
    out.zero_()
    out[:, :b, :b] = total


def finish(sums: Tensor, scale: float, mass: Tensor | None, b: int) -> Tensor:
    """The loss, from the sums (float64) of programs. mass: where a loss without any target is NaN."""
    out = sums.new_empty((), dtype=torch.float32)
    finish_kernel[(1,)](
        sums, sums.numel(), scale, sums if mass is None else mass, b, out, CHECKED=mass is not None, TILE=1024,
        **config.options(4, 1),
    )  # fmt: skip
    return out
