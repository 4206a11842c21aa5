"""Sums in a fixed order: no atomics, the same bits in every run.

`add_up` reads each partial sum of a gradient once (4 bytes, 1 addition) and writes the gradient once; the targets' half
of it costs a product of 2 b b c operations in float32. Where even one partial sum is too large it is the gradient
itself. Gradients that cancel it makes exact, from sums over classes: 4 bytes for each of an example's parts.
`AttentionGradient` turns gradients by the weights into one by the attention: 8 bytes and 5 operations per weight.
`finish_loss` adds up row losses: where there is a gradient of scores, in one program of `add_up`.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .host import device, shapes
from .host.blocks import Block
from .host.constants import LN2
from .host.kernel import kernel
from .products.columns import begin, place_stride
from .products.dot import dot
from .products.targets import Target


class Grid(NamedTuple):
    """Tiles of each location: partial sums, scores."""

    pointer: Tensor
    place: int | None  # strides; None: that of all examples
    split: int
    example: int
    column: int


class Gram(NamedTuple):
    """M^T M (places, splits, width, width) for the weights M, and the targets that it is multiplied by.

    apart (places, splits, chunks, width): partial sums over all classes but an example's label, where it has one.
    """

    pointer: Tensor
    place: int  # strides
    split: int
    row: int
    target: Tensor
    example: int
    column: int
    mass: Tensor
    apart: Tensor | None


class Total(NamedTuple):
    """What a loss is made of, and where it goes."""

    sums: Tensor  # of row losses, float64: one of each program
    mass: Tensor | None  # of examples, where a loss without any target is NaN
    out: Tensor


class Losses(NamedTuple):
    """Where losses go: those of rows (r, n), or one number (); nowhere if only gradients are wanted."""

    rows: Tensor | None
    out: Tensor | None  # scale times the sum of rows
    scale: float
    checked: bool  # it is NaN if no example has a target

    def total(self, sums: Tensor, mass: Tensor) -> Total | None:
        """As kernels take it, where one number is wanted."""
        return None if self.out is None else Total(sums, mass if self.checked else None, self.out)

    def finish(self, sums: Tensor, mass: Tensor, b: int) -> None:
        """Writes the number, of b examples, in a launch of its own."""
        total = self.total(sums, mass)
        if total is not None:
            finish_kernel[(1,)](total, sums.numel(), self.scale, b, TILE=FINISH_TILE, **device.options(4, 1))


NO_LOSSES = Losses(None, None, 1.0, False)
FINISH_TILE, ATTENTION_TILE = 1024, 32


@triton.jit
def log_one_plus(x):
    """ln(1 + x) for x >= 0, small ones with all their digits."""
    t = x / (2.0 + x)
    square = t * t
    series = square * (square * (square * (square * (1.0 / 9.0) + 1.0 / 7.0) + 0.2) + 1.0 / 3.0)
    return tl.where(x < 0.5, 2.0 * (t + t * series), tl.log2(1.0 + x) * LN2)


@triton.jit
def add_to_sum(sums_ptr, loss, first_location, first):
    """Adds the losses of a tile to the sum of all tiles with this program's number, block by block.

    The first block, which has the most programs, writes them.
    """
    at = sums_ptr + tl.program_id(0)
    before = tl.load(at, mask=(first_location != 0) | (first != 0), other=0.0)
    tl.store(at, before + tl.sum(loss).to(tl.float64))


@triton.jit
def add_apart(apart_ptr, label_ptr, total, j, i, chunk, chunks, b, c, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """Adds to a program's sums (chunks, WIDTH) that of a tile over its classes but the examples' labels."""
    label = tl.load(label_ptr + i, mask=i < b, other=-1)
    label = tl.where((label >= 0) & (label < c), label, -1).to(tl.int32)
    others = (j[:, None] != label[None, :]) & (j < c)[:, None]
    found = tl.sum(tl.where(others, total, 0.0), 0)
    at = apart_ptr + (tl.program_id(0).to(tl.int64) * chunks + chunk) * WIDTH + i
    if not FIRST:
        found += tl.load(at)
    tl.store(at, found)


@triton.jit
def add_partial(pointer, total, place, j, i, b, c, FIRST: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
                IN_PLACE: tl.constexpr):  # fmt: skip
    """Adds to a program's partial sum, tile (j, i) of (HEIGHT, WIDTH), or to the gradient (b, c); writes it at FIRST.

    Each super-block's product begins at zero and is added here, to nearest: tensor cores truncate.
    """
    if IN_PLACE:
        inside = (j < c)[:, None] & (i < b)[None, :]
        at = pointer + (place * b + i[None, :]) * c + j[:, None]
        if not FIRST:
            total += tl.load(at, mask=inside, other=0.0)
        tl.store(at, total, mask=inside)
    else:
        at = pointer + (tl.program_id(0).to(tl.int64) * HEIGHT + j[:, None]) * WIDTH + i[None, :]
        if not FIRST:
            total += tl.load(at)
        tl.store(at, total)


@triton.jit
def finish_loss(total, count, scale, b, TILE: tl.constexpr):
    """The loss: scale * the sum of `count` sums; with masses NaN if no example has a target."""
    added = tl.zeros((TILE,), tl.float64)
    for start in range(0, count, TILE):
        k = start + tl.arange(0, TILE)
        added += tl.load(total.sums + k, mask=k < count, other=0.0)
    loss = (tl.sum(added) * scale).to(tl.float32)
    if total.mass is not None:
        found = tl.zeros((TILE,), tl.int32)
        for start in range(0, b, TILE):
            i = start + tl.arange(0, TILE)
            found = found | (tl.load(total.mass + i, mask=i < b, other=0.0) != 0).to(tl.int32)
        loss = tl.where(tl.max(found) == 0, float("nan"), loss)
    tl.store(total.out, loss)


@kernel(do_not_specialize=["count", "b"])
def finish_kernel(total, count, scale, b, TILE: tl.constexpr):
    """The loss, where there is nothing else to be done."""
    finish_loss(total, count, scale, b, TILE)


@kernel(do_not_specialize=["splits", "b", "c", "ignore_index", "count", "chunks"])
def add_up_kernel(
    partial, gram, chunks, scores, total_loss, count, out_ptr, scale_ptr, scale, splits, b, c, keep, uniform_part,
    ignore_index, LABELS: tl.constexpr, TILE: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """out (places, b, c) = scale * (sum over splits of partial - gram @ targets), zero where a score is -inf.

    total_loss: also the loss, by one of the programs.
    """
    if total_loss is not None:  # noqa: SIM102 (a constant, and a branch)
        if tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0:
            finish_loss(total_loss, count, scale, b, SUMS)
    place = tl.program_id(2).to(tl.int64)
    j = tl.program_id(0) * TILE + tl.arange(0, TILE)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    class_part, example_part = j[:, None].to(tl.int64), i[None, :].to(tl.int64)
    base = partial.pointer + place * partial.place + class_part * partial.column + example_part * partial.example
    real = (j < c)[:, None] & (i < b)[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)  # (classes, examples)
    for split in range(splits):
        total += tl.load(base + split * partial.split, mask=real, other=0.0)
    if gram is not None:
        if LABELS:
            own_label = tl.load(gram.target + i, mask=i < b, other=-1)
            same = tl.zeros((TILE,), tl.float32)
            others = tl.zeros((TILE,), tl.float32)
        for start in range(0, b, TILE):
            e = start + tl.arange(0, TILE)
            both = (e < b)[:, None] & (i < b)[None, :]
            at = gram.pointer + place * gram.place + e[:, None] * gram.row + i[None, :]
            products = tl.zeros((TILE, TILE), tl.float32)
            for split in range(splits):
                products += tl.load(at + split * gram.split, mask=both, other=0.0)
            if LABELS:
                label = tl.load(gram.target + e, mask=e < b, other=-1)
                mass = tl.load(gram.mass + e, mask=e < b, other=0.0)
                y = ((label[None, :] == j[:, None]) & (label[None, :] != ignore_index)).to(tl.float32) * keep
                y += mass[None, :] * uniform_part
                alike = label[:, None] == own_label[None, :]  # (examples, examples)
                weighted = products * mass[:, None]
                same += tl.sum(tl.where(alike, weighted, 0.0), 0)
                others += tl.sum(tl.where(alike, 0.0, weighted), 0)
            else:
                inside = (e < b)[None, :] & (j < c)[:, None]
                at = gram.target + e[None, :].to(tl.int64) * gram.example + class_part * gram.column
                y = tl.load(at, mask=inside, other=0.0).to(tl.float32)
                y = tl.where(tl.abs(y) < float("inf"), y, 0.0)  # what is none reaches the rows that mix it otherwise
                y = y * keep + tl.where(inside, uniform_part, 0.0)
            total -= dot(y, products, tl.zeros((TILE, TILE), tl.float32), "fp32")
        if LABELS:
            softmax = tl.zeros((TILE,), tl.float32)
            for start in range(0, splits * chunks, TILE):
                part = start + tl.arange(0, TILE)
                at = gram.apart + (place * (splits * chunks) + part[:, None]) * gram.row + i[None, :]
                inside = (part < splits * chunks)[:, None] & (i < b)[None, :]
                softmax += tl.sum(tl.load(at, mask=inside, other=0.0), 0)
            everywhere = (same + others) * uniform_part
            total = balanced(
                total, j, own_label, same * keep + everywhere, others * keep + everywhere * (c - 1), softmax
            )  # fmt: skip
        # One class: exactly nothing, whatever the rounding.
        total = tl.where(c == 1, total * 0.0, total)
    if scores is not None:
        at = begin(scores, place, b) + class_part * scores.column + example_part * scores.example
        total = tl.where(tl.load(at, mask=real, other=0.0) == float("-inf"), 0.0, total)
    if scale_ptr is not None:
        scale = scale * tl.load(scale_ptr)
    out = out_ptr + (place * b + i[:, None]) * c + j[None, :]
    tl.store(out, tl.trans(total) * scale, mask=(i < b)[:, None] & (j < c)[None, :])


@triton.jit
def balanced(total, j, label, half, rest, softmax):
    """total (classes, examples) with the element at each example's label anew, where it has lost its digits.

    It is softmax less target, summed over rows in two halves that agree where all is confident and right. An example's
    elements sum to zero: minus the sum of the others is the same. It rounds relative to their halves, so it is taken
    where the target's half is mostly at the label, and the two halves there cancel. half: that at the label; rest and
    softmax: those of the other classes.
    """
    cancels = (tl.abs(half) > tl.abs(rest))[None, :] & (tl.abs(total) * 16.0 < tl.abs(half)[None, :])
    return tl.where((j[:, None] == label[None, :]) & cancels, (rest - softmax)[None, :], total)


def fits(height: int, width: int) -> bool:
    """Whether partial sums (height, width) are kept apart from the gradient."""
    return 4 * height * width <= shapes.PARTIAL_BYTES


def add_up(
    partial: Tensor, out: Tensor, scale, gram: Tensor | None = None, target: Target | None = None,
    mass: Tensor | None = None, apart: Tensor | None = None, scores: Tensor | None = None, loss: Total | None = None,
) -> None:  # fmt: skip
    """out (places, b, c) from partial (places, splits, height, width), or in place from partial = out.

    scale: a float, or one element on the device. gram (places, splits, width, width), of it with a target, and apart
    (places, splits, chunks, width) of it with labels. Where scores (places, b, c) are -inf there is no gradient. loss:
    written too, with the same scale.
    """
    places, b, c = out.shape
    tile, in_place = shapes.ADD_UP_TILE, partial is out
    strides = (b * c, 0, c, 1) if in_place else (*partial.stride()[:2], 1, partial.stride(2))
    products, keep, uniform, ignore_index = None, 0.0, 0.0, 0
    if gram is not None and target is not None and mass is not None:
        products = _gram(gram, target, mass, apart)
        keep, uniform, ignore_index = target.keep, target.uniform, target.ignore_index
    given = None if scores is None else Grid(scores, place_stride(scores), 0, *scores.stride()[1:])
    scaled = isinstance(scale, Tensor)
    add_up_kernel[(shapes.ceil_div(c, tile), shapes.ceil_div(b, tile), places)](
        Grid(partial, *strides), products, 0 if apart is None else apart.shape[2],
        given, loss, 0 if loss is None else loss.sums.numel(), out, scale if scaled else None,
        1.0 if scaled else scale, 1 if in_place else partial.shape[1], b, c, keep, uniform, ignore_index,
        LABELS=target is not None and target.by_label, TILE=tile, SUMS=FINISH_TILE, **device.options(4, 1),
    )  # fmt: skip


def _gram(gram: Tensor, target: Target, mass: Tensor, apart: Tensor | None) -> Gram:
    """gram (places, splits, width, width) as kernels take it."""
    example, column = (1, 0) if target.by_label else target.values.stride()
    place, split, row, _ = gram.stride()
    return Gram(gram, place, split, row, target.values, example, column, mass, apart)


@kernel(do_not_specialize=["stored", "first", "splits", "b"])
def centre_kernel(
    attention_ptr, plain_ptr, gradient_ptr, partial_ptr, stored, first, splits, b, WIDTH: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Adds to partial (places, splits, WIDTH) sums over rows of plain_i (g_i - sum_j mu_j g_j) for g = d loss / d mu.

    The first block writes them. mu is attention times plain: weights in the scratch are rounded.
    """
    place = (tl.program_id(0) // splits).to(tl.int64)
    i = tl.arange(0, B)
    attention = tl.load(attention_ptr + place * b + i, mask=i < b, other=0.0)
    total = tl.zeros((B,), tl.float32)
    for tile in range(tl.program_id(0) % splits, tl.cdiv(stored, R), splits):
        k = place * stored + tile * R + tl.arange(0, R)
        at = k[:, None] * WIDTH + i[None, :]
        inside = ((tile * R + tl.arange(0, R)) < stored)[:, None] & (i < WIDTH)[None, :]
        plain = tl.load(plain_ptr + at, mask=inside, other=0.0)
        # Without attention `plain` may be infinite.
        mu = tl.where(attention[None, :] == 0, 0.0, plain * attention[None, :])
        g = tl.load(gradient_ptr + at, mask=inside, other=0.0)
        centred = g - tl.sum(tl.where(mu == 0, 0.0, mu * g), 1)[:, None]  # of no weight: g may be NaN
        # An example alone in its row has no gradient, whatever the rounding: `plain` may be 1e38.
        centred = tl.where((tl.max(mu, 1) == tl.sum(mu, 1))[:, None], 0.0, centred)
        total += tl.sum(tl.where((centred == 0) | (plain == 0), 0.0, plain * centred), 0)
    at = partial_ptr + tl.program_id(0).to(tl.int64) * WIDTH + i
    if first != 0:
        total += tl.load(at, mask=i < WIDTH, other=0.0)
    tl.store(at, total, mask=i < WIDTH)


@kernel(do_not_specialize=["splits", "b"])
def attention_kernel(
    partial_ptr, out_ptr, scale_ptr, scale, splits, b, WIDTH: tl.constexpr, SPLITS: tl.constexpr, TILE: tl.constexpr
):
    """out (places, b) = scale * the sum over splits of partial (places, splits, WIDTH)."""
    i = tl.program_id(0) * TILE + tl.arange(0, TILE)
    place = tl.program_id(1).to(tl.int64)
    total = tl.zeros((SPLITS, TILE), tl.float32)
    for start in range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        at = partial_ptr + (place * splits + split[:, None]) * WIDTH + i[None, :]
        total += tl.load(at, mask=(split < splits)[:, None] & (i < b)[None, :], other=0.0)
    if scale_ptr is not None:
        scale = scale * tl.load(scale_ptr)
    tl.store(out_ptr + place * b + i, tl.sum(total, 0) * scale, mask=i < b)


class AttentionGradient:
    """That of the attention from those of the weights, added up over the blocks of some locations."""

    def __init__(self, out: Tensor, attention: Tensor, scale) -> None:
        """out (r, b): scale, a float or one element on the device, times the sum."""
        self.out, self.attention, self.scale = out, attention, scale

    def add(self, block: Block) -> None:
        """The part of a block; out after the last one of these locations."""
        if block.plain is None or block.gradient is None:
            raise ValueError("block: drawn without what attention gradients need")
        (places, stored, width), b = block.plain.shape, self.out.shape[1]
        examples = shapes.power_of_two(width)
        rows = max(1, 4096 // examples)
        if block.first == 0:
            most = min(device.programs(self.out) * 4, shapes.PARTIAL_BYTES // (4 * width)) // places
            splits = max(1, min(shapes.ceil_div(stored, rows), most))
            self.partial = self.out.new_empty((places, splits, width))
        here = slice(block.first_location, block.first_location + places)
        splits = self.partial.shape[1]
        centre_kernel[(places * splits,)](
            self.attention[here], block.plain, block.gradient, self.partial, stored, block.first, splits,
            b, WIDTH=width, R=rows, B=examples, **device.options(4, 1),
        )  # fmt: skip
        if block.last:
            scaled = isinstance(self.scale, Tensor)
            attention_kernel[(shapes.ceil_div(b, ATTENTION_TILE), places)](
                self.partial, self.out[here], self.scale if scaled else None, 1.0 if scaled else self.scale, splits, b,
                WIDTH=width, SPLITS=64, TILE=ATTENTION_TILE, **device.options(4, 1),
            )  # fmt: skip
