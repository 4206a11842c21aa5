"""Mixed embeddings, and their gradients by the values and by the attention.

With weights M (rows, b) in the scratch and values V (b, d): out = M V, dV = M^T G, dM = G V^T. Each costs 2 b d
operations per row, and d bytes-per-element of it in device memory: memory-bound below b of about 200 in bfloat16.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..contract import Draw
from .host import device, shapes
from .host.blocks import Block, blocks, width
from .host.kernel import kernel
from .host.tune import tuned
from .products.columns import (
    Columns,
    columns_of,
    highest_mask,
    load_columns,
    mix_columns,
    mix_columns_with_zeros,
    score_unit,
)
from .products.dot import dot, nearest, round_operand
from .sums import AttentionGradient, Total, add_partial, add_up, fits
from .weights.sample import Sampler


class Rows(NamedTuple):
    """Gradients (r, n, d) by what is mixed."""

    pointer: Tensor
    location: int  # strides
    row: int
    feature: int


def rows_of(grad: Tensor) -> Rows:
    """grad (r, n, d) as kernels take it; of one location no stride, or it is compiled for again with another n."""
    location, row, feature = grad.stride()
    return Rows(grad, location if grad.shape[0] > 1 else 0, row, feature)


INTEGERS = ["stored", "rows", "tiles", "splits", "n", "b", "d", "first_location", "first"]


@kernel(do_not_specialize=INTEGERS)
def mix_kernel(
    values, drawn, out_ptr, first_location, first, rows, stored, tiles, n, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, OPERAND: tl.constexpr,
    ZEROS: tl.constexpr, SCORES: tl.constexpr,
):  # fmt: skip
    """out (r, n, d) = mu @ values, one tile (R, FEATURES) of it.

    ZEROS: there may be weights of zero, whose values count for nothing, NaN too. SCORES: some may be masked.
    """
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k, location = place * stored + row, place + first_location
    f = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    mixed = mix_columns(drawn.weights, k, values, place, f, d, WIDTH, DEPTH, R, FEATURES, OPERAND, True)
    if ZEROS:  # noqa: SIM102 (a constant, and a branch)
        if tl.max((mixed * 0.0 != 0.0).to(tl.int32)) != 0:
            mixed = mix_columns_with_zeros(drawn.weights, k, values, place, f, d, WIDTH, DEPTH, R, FEATURES, OPERAND)
    mixed *= tl.load(drawn.inverse + k)[:, None]
    if SCORES:
        mixed *= score_unit(OPERAND)
        mixed = tl.where(mixed < highest_mask(OPERAND), float("-inf"), mixed)
    mixed = nearest(mixed, out_ptr.dtype.element_ty)
    out = out_ptr + (location * n + first + row)[:, None] * d + f[None, :]
    tl.store(out, mixed, mask=(row < rows)[:, None] & (f < d)[None, :])


@kernel(do_not_specialize=INTEGERS)
def values_gradient_kernel(
    grad, drawn, partial_ptr,
    first_location, first, rows, stored, splits, b, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, HEIGHT: tl.constexpr,
    OPERAND: tl.constexpr, FIRST: tl.constexpr, IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Adds a super-block's grad^T mu to partial (places, splits, HEIGHT, WIDTH), or to the gradient (places, b, d)."""
    place = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    f = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    i = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    total = tl.zeros((FEATURES, DEPTH), tl.float32)
    grad_ptr = grad.pointer + (place + first_location) * grad.location
    for tile in range(split, tl.cdiv(rows, R), splits):
        row = tile * R + tl.arange(0, R)
        k, source = place * stored + row, first + row.to(tl.int64)
        g = tl.load(grad_ptr + source[None, :] * grad.row + f[:, None].to(tl.int64) * grad.feature,
                    mask=(row < rows)[None, :] & (f < d)[:, None], other=0.0)  # fmt: skip
        g = round_operand(g.to(tl.float32) * tl.load(drawn.inverse + k)[None, :], OPERAND)
        total = dot(g, tl.load(drawn.weights + k[:, None] * WIDTH + i[None, :]), total, OPERAND)
    add_partial(partial_ptr, total, place, f, i, b, d, FIRST, HEIGHT, WIDTH, IN_PLACE)


@kernel(do_not_specialize=INTEGERS)
def weights_gradient_kernel(
    grad, values, out_ptr, first_location, first, rows, stored, tiles, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, OPERAND: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    """out (places, stored, WIDTH) = grad @ values^T, of scores, and added to what is there, if ADD."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    i = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    grad_ptr = grad.pointer + (place + first_location) * grad.location
    source = first + row.to(tl.int64)
    at = (place * stored + row)[:, None] * WIDTH + i[None, :]
    total = tl.zeros((R, DEPTH), tl.float32)
    for start in range(0, d, FEATURES):
        f = start + tl.arange(0, FEATURES)
        g = tl.load(grad_ptr + source[:, None] * grad.row + f[None, :].to(tl.int64) * grad.feature,
                    mask=(row < rows)[:, None] & (f < d)[None, :], other=0.0)  # fmt: skip
        v = load_columns(values, place, i[None, :], f[:, None], d, WIDTH, True)  # (FEATURES, DEPTH)
        total = dot(round_operand(g, OPERAND), round_operand(v, OPERAND), total, OPERAND)
    if ADD:
        total = tl.load(out_ptr + at) + total * score_unit(OPERAND)
    tl.store(out_ptr + at, total)


@dataclass(frozen=True)
class Sizes:
    """Of tiles over rows, examples and features."""

    shape: shapes.Large
    operand: str
    width: int
    depth: int
    features: int

    @property
    def columns(self) -> int:
        """Tiles over examples."""
        return self.width // self.depth

    @property
    def options(self) -> dict:
        """Keyword arguments of a launch."""
        sizes = dict(WIDTH=self.width, DEPTH=self.depth, R=self.shape.rows, FEATURES=self.features)
        return sizes | dict(OPERAND=self.operand) | device.options(self.shape.warps, self.shape.stages)


def sizes_for(table: dict[str, shapes.Large], operand: str, b: int, d: int) -> Sizes:
    """Of b examples with d features."""
    shape, wide = table[operand], width(b)
    return Sizes(shape, operand, wide, min(wide, shape.depth), min(shapes.power_of_two(max(16, d)), shape.classes))


def pack(values: Tensor, left_out: Tensor | None, wide: int, features: int) -> Columns:
    """Values (L, b, d) padded to (L, wide, features) if that is not too large; zeros for those of ignored examples."""
    places, b, d = values.shape
    if places * wide * features * values.itemsize > shapes.PACKED_BYTES:
        kept = values.new_zeros((wide,), dtype=torch.int8)
        kept[:b] = 1 if left_out is None else left_out == 0
        return columns_of(values, kept)
    packed = values.new_zeros((places, wide, features))
    packed[:, :b, :d] = values if left_out is None else values.masked_fill((left_out != 0).unsqueeze(1), 0)
    return columns_of(packed)


def launch_mix(
    values: Columns, block: Block, out: Tensor, sizes: Sizes, first_location: int, first: int, zeros: bool,
    scores: bool = False,
) -> None:  # fmt: skip
    """Fills rows first ... of the locations first_location ... of out (r, n, d)."""
    _, n, d = out.shape
    tiles = block.stored // sizes.shape.rows
    mix_kernel[(block.places * tiles, shapes.ceil_div(d, sizes.features))](
        values, block.drawn, out, first_location, first, block.rows, block.stored, tiles, n, d,
        ZEROS=zeros, SCORES=scores, **sizes.options,
    )  # fmt: skip


class ValuesGradient:
    """mu^T grad, added up over the blocks of some locations."""

    def __init__(self, out: Tensor, sizes: Sizes, block: Block, most: int) -> None:
        """out (L, b, d) is that of the locations of this first block; at most `most` partial sums fit."""
        self.out, self.sizes = out, sizes
        self.chunks = shapes.ceil_div(out.shape[2], sizes.features)
        programs = device.programs(out) * sizes.shape.occupancy
        splits = programs // (block.places * self.chunks * sizes.columns)
        self.height = self.chunks * sizes.features
        self.in_place = not fits(self.height, sizes.width)
        self.splits = (
            1 if self.in_place else max(1, min(splits, most // block.places, block.stored // sizes.shape.rows))
        )
        shape = (block.places, self.splits, self.height, sizes.width)
        self.partial = out if self.in_place else out.new_empty(shape)

    def add(self, grad: Tensor, block: Block, first_location: int, first: int) -> None:
        """The part of a block, whose grad is that of rows first ... of the locations first_location ..."""
        _, b, d = self.out.shape
        values_gradient_kernel[(block.places * self.splits, self.chunks, self.sizes.columns)](
            rows_of(grad), block.drawn, self.partial, first_location, first,
            block.rows, block.stored, self.splits, b, d, HEIGHT=self.height, FIRST=block.first == 0,
            IN_PLACE=self.in_place, **self.sizes.options,
        )  # fmt: skip

    def finish(self, scale, scores: Tensor | None = None, loss: Total | None = None) -> None:
        """Writes scale times the sum, and a loss; nothing where scores are -inf."""
        add_up(self.partial, self.out, scale, scores=scores, loss=loss)


def launch_weights_gradient(
    grad: Tensor, values: Columns, block: Block, sizes: Sizes, first_location: int, first: int, add: bool
) -> None:
    """Fills the block's gradient by the weights, or adds to it."""
    tiles = block.stored // sizes.shape.rows
    weights_gradient_kernel[(block.places * tiles, sizes.columns)](
        rows_of(grad), values, block.gradient, first_location, first, block.rows, block.stored, tiles,
        grad.shape[2], ADD=add, **sizes.options,
    )  # fmt: skip


def most_places(height: int, wide: int) -> int:
    """Locations whose partial sums (height, wide) fit, one each."""
    return max(1, shapes.PARTIAL_BYTES // (4 * height * wide))


def mix(values, attention, ignored, draw):
    """Convex combinations (r, n, d)."""
    sampler = Sampler(values.shape[1], attention, ignored, Draw(*draw))
    return tuned("mix", values, sampler.b, sampler.draw.n, sampler.flags, lambda: _mix(values, sampler))


def _mix(values: Tensor, sampler: Sampler) -> Tensor:
    r, b, d = values.shape
    out = values.new_empty((r, sampler.draw.n, d))
    sizes = sizes_for(shapes.family(values).two_accumulators, device.operand(values), b, d)
    height = shapes.ceil_div(d, sizes.features) * sizes.features
    most = most_places(height, sizes.width)
    with device.on_device(values):
        for block in blocks(sampler, r, values.dtype, sizes.operand, False, most):
            if block.first == 0:
                here = slice(block.first_location, block.first_location + block.places)
                packed = pack(values[here], sampler.left_out, sizes.width, height)
            launch_mix(packed, block, out, sizes, block.first_location, block.first, sampler.zeros)
    return out


def mix_backward(grad, values, want_values, want_attention, attention, ignored, draw):
    """Gradients of values (r, b, d) and attention (r, b), in float32."""
    sampler = Sampler(values.shape[1], attention, ignored, Draw(*draw))
    want = want_values, want_attention
    flags = (want, sampler.flags)
    return tuned(
        "mix_backward", values, sampler.b, sampler.draw.n, flags, lambda: _mix_backward(grad, values, want, sampler)
    )


def _mix_backward(grad: Tensor, values: Tensor, want: tuple[bool, bool], sampler: Sampler) -> tuple[Tensor, Tensor]:
    r, b, d = values.shape
    want_values, want_attention = want
    grad_values = values.new_empty((r, b, d) if want_values else (0,), dtype=torch.float32)
    grad_attention = values.new_empty((r, b) if want_attention else (0,), dtype=torch.float32)
    family, operand = shapes.family(values), device.operand(values)
    sizes, two = (sizes_for(table, operand, b, d) for table in (family.large, family.two_accumulators))
    if not fits(d + sizes.features, sizes.width):
        sizes = two
    height = shapes.ceil_div(d, sizes.features) * sizes.features
    most = most_places(height, sizes.width)
    by_weights = AttentionGradient(grad_attention, sampler.attended, 1.0) if want_attention else None
    with device.on_device(values):
        for block in blocks(sampler, r, values.dtype, operand, want_attention, most):
            here = slice(block.first_location, block.first_location + block.places)
            place = block.first_location, block.first
            if block.first == 0 and want_values:
                total = ValuesGradient(grad_values[here], sizes, block, most)
            if block.first == 0 and want_attention:
                packed = pack(values[here], sampler.left_out, sizes.width, height)
            if want_values:
                total.add(grad, block, *place)
                if block.last:
                    total.finish(1.0)
            if by_weights is not None:
                launch_weights_gradient(grad, packed, block, two, *place, add=False)
                by_weights.add(block)
    return grad_values, grad_attention
