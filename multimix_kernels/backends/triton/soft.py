"""Soft-target cross-entropy of any head's logits, against targets that are never written out.

For each row k and example i the cost of i's target, and what follows:
  H_ki = sum_c y_ic (lse_k - l_kc)      loss_k = sum_i M_ki H_ki      dM = H      dl = T softmax - M Y
for labels by a gather, for probabilities by a product. Logits are read less the row's largest, which changes nothing.

Cost per row: logits read twice and gradients written once (the second read comes from the L2 cache), b gathers or
2 b c operations, 2 b c for the gradient's targets; 2 c exponentials. Memory-bound for c of a hundred and more.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .host import device, shapes
from .host.blocks import Block, blocks, width
from .host.constants import FLOOR, LEAST, LEAST_LOGIT_16, LOG2E
from .host.kernel import kernel
from .products.columns import Columns, load_columns, mix_columns
from .products.dot import dot, round_operand
from .products.operands import Prepared, prepare
from .products.targets import Target, Upstream, row_factor
from .sums import AttentionGradient, Losses, add_to_sum, log_one_plus
from .weights.sample import Sampler


class Outputs(NamedTuple):
    """Where results go, those that are wanted."""

    rows: Tensor | None  # (r, n)
    sums: Tensor  # of the programs
    gradient: Tensor | None
    weights_gradient: Tensor | None  # (places, stored, width)
    scale: Tensor | None  # of gradients: an element on the device


class Targets(NamedTuple):
    """Labels, or probabilities as columns; one of them."""

    labels: Tensor | None
    columns: Columns | None
    mass: Tensor


class Logits(NamedTuple):
    """Those of one location: rows first ... , less what is outside; grouped inside a kernel, as counts change."""

    pointer: Tensor
    row: int  # strides
    column: int
    first: int
    rows: int  # real ones
    c: int


@triton.jit
def load_logits(x, row, j, PADDING: tl.constexpr):
    """Logits (R, CLASSES) in float32; zeros past the rows, PADDING past the classes."""
    at = x.pointer + (x.first + row.to(tl.int64))[:, None] * x.row + j[None, :].to(tl.int64) * x.column
    inside = (row < x.rows)[:, None] & (j < x.c)[None, :]
    logits = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return logits if PADDING == 0.0 else tl.where((j < x.c)[None, :], logits, PADDING)


@triton.jit
def normalise(x, row, uniform_part, R: tl.constexpr, CLASSES: tl.constexpr, SHIFT: tl.constexpr):
    """Of each row (R,): the largest logit, the sum of the other exponentials relative to it, and two more.

    Those are the sum of what logits are below it, if smoothed, and a shift: the largest logit; the mean of those that
    are not masked; zero; or, if "exact", zero unless subtracting the largest loses nothing.
    """
    top = tl.full((R,), LEAST, tl.float32)
    bottom = tl.full((R,), float("inf"), tl.float32)
    z = tl.zeros((R,), tl.float32)
    below = tl.zeros((R,), tl.float32)
    seen = tl.zeros((R,), tl.float32)
    distance = tl.zeros((R,), tl.float32)
    for start in range(0, x.c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = load_logits(x, row, j, float("-inf"))  # (R, CLASSES)
        higher = tl.maximum(top, tl.max(logits, 1))
        z = z * tl.exp2((top - higher) * LOG2E) + tl.sum(tl.exp2((logits - higher[:, None]) * LOG2E), 1)
        if uniform_part != 0:
            below += tl.where(start == 0, 0.0, (higher - top) * start)
            below += tl.sum(tl.where((j < x.c)[None, :], higher[:, None] - logits, 0.0), 1)
        if SHIFT == "exact":
            bottom = tl.minimum(bottom, tl.min(tl.where(logits > -1e30, logits, float("inf")), 1))
        elif SHIFT == "mean":
            score = logits > -1e30
            distance += (higher - top) * seen + tl.sum(tl.where(score, higher[:, None] - logits, 0.0), 1)
            seen += tl.sum(tl.where(score, 1.0, 0.0), 1)
        top = higher
    others = z - 1.0
    if tl.min(z) < 1.125:  # read again: beside the largest, small ones keep no digits
        others = tl.where(z < 1.125, 0.0, others)
        for start in range(0, x.c, CLASSES):
            j = start + tl.arange(0, CLASSES)
            logits = load_logits(x, row, j, float("-inf"))
            lower = (logits < top[:, None]) & (z < 1.125)[:, None]
            others += tl.sum(tl.where(lower, tl.exp2((logits - top[:, None]) * LOG2E), 0.0), 1)
    shift = top
    if SHIFT == "exact":
        shift = tl.where(
            (tl.minimum(top, -bottom) > 0) | (tl.minimum(tl.abs(top), tl.abs(bottom)) < top - bottom), 0.0, top
        )
    elif SHIFT == "mean":
        shift = top - distance / tl.maximum(seen, 1.0)
    elif SHIFT == "none":
        shift = top * 0.0
    return top, others, below, shift


@triton.jit
def on_target(x, row, target, i, top, rest, shift, below, keep, uniform_part, ignore_index, place, b,
              R: tl.constexpr, DEPTH: tl.constexpr, CLASSES: tl.constexpr, OPERAND: tl.constexpr,
              WIDTH: tl.constexpr):  # fmt: skip
    """What the targets of examples i cost in each row: (R, DEPTH)."""
    inside = i < b
    mass = tl.load(target.mass + i, mask=inside, other=0.0)[None, :]
    if target.labels is not None:
        label = tl.load(target.labels + i, mask=inside, other=-1)
        known = inside & (label >= 0) & (label < x.c) & (label != ignore_index)
        at = x.pointer + (x.first + row.to(tl.int64))[:, None] * x.row + label[None, :] * x.column
        hit = tl.load(at, mask=(row < x.rows)[:, None] & known[None, :], other=0.0).to(tl.float32)
        cost = tl.where(known[None, :], ((top[:, None] - hit) + rest[:, None]) * keep, 0.0)
        spread = mass * uniform_part
    else:
        lowest: tl.constexpr = LEAST_LOGIT_16 if OPERAND == "fp16" else FLOOR
        hit = tl.zeros((R, DEPTH), tl.float32)
        for start in range(0, x.c, CLASSES):
            j = start + tl.arange(0, CLASSES)
            logits = load_logits(x, row, j, 0.0)
            logits = tl.where(j[None, :] < x.c, tl.maximum(logits - shift[:, None], lowest), 0.0)  # (R, CLASSES)
            y = load_columns(target.columns, place * 0, i[None, :], j[:, None], x.c, WIDTH, False)  # (CLASSES, DEPTH)
            hit = dot(round_operand(logits, OPERAND), round_operand(y, OPERAND), hit, OPERAND)
        cost = (mass - uniform_part * x.c) * ((top - shift) + rest)[:, None] - hit * keep
        if OPERAND != "fp16":
            cost = tl.where(hit < -(2.0**80), float("inf"), cost)  # a target on a masked class
        spread = tl.where(inside, uniform_part, 0.0)[None, :]
    if uniform_part != 0:
        cost += spread * (below + rest * x.c)[:, None]
    return cost, mass


@triton.jit
def mixed_targets(drawn, k, target, j, place, b, c, ignore_index, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
                  R: tl.constexpr, CLASSES: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """Targets of classes j before smoothing, mixed by the weights of the scratch: (R, CLASSES)."""
    if target.labels is not None:
        mixed = tl.zeros((R, CLASSES), tl.float32)
        for start in range(0, WIDTH, DEPTH):
            i = start + tl.arange(0, DEPTH)
            label = tl.load(target.labels + i, mask=i < b, other=-1)
            y = ((label[:, None] == j[None, :]) & (label != ignore_index)[:, None]).to(tl.float32)  # (DEPTH, CLASSES)
            w = tl.load(drawn.weights + k[:, None] * WIDTH + i[None, :])
            mixed = dot(w, round_operand(y, OPERAND), mixed, OPERAND)
    else:
        mixed = mix_columns(drawn.weights, k, target.columns, place * 0, j, c, WIDTH, DEPTH, R, CLASSES, OPERAND, False)
    return mixed


INTEGERS = [
    "l_units", "stored", "rows", "tiles", "n", "b", "c", "first_location", "first", "l_first_location", "l_first",
    "o_rows",
]  # fmt: skip


@kernel(do_not_specialize=[*INTEGERS, "ignore_index"])
def soft_kernel(
    logits_ptr, l_location, l_column, l_units, l_first_location, l_first, o_rows, target, keep, uniform_part,
    ignore_index, drawn, upstream, out, scale, first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, OPERAND: tl.constexpr,
    UNIT: tl.constexpr, OUT_UNIT: tl.constexpr,
):  # fmt: skip
    """Row losses; their sum over the tile, added to sums; gradients by logits; d loss / d mu (places, stored, WIDTH).

    Logits, and their gradients with o_rows rows to a location, begin at l_first_location and l_first.
    """
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    real = row < rows
    k, location = place * stored + row, place + first_location
    # Strides in units, so that the compiler sees how wide loads and stores may be.
    base = logits_ptr + (place + l_first_location) * l_location
    x = Logits(base, l_units.to(tl.int64) * UNIT, l_column, l_first, rows, c)
    # Differences of logits in low precision need more digits than they have. What is rounded anyway, logits as targets,
    # loses least times differences from the mean; in float16, where masks are scores, there is none.
    ROUNDED: tl.constexpr = logits_ptr.dtype.element_ty == tl.float32 and OPERAND != "fp16"
    AGAINST: tl.constexpr = "none" if target.labels is not None else ("mean" if ROUNDED else "exact")
    SHIFT: tl.constexpr = "largest" if OPERAND == "fp32" else AGAINST
    top, others, below, shift = normalise(x, row, uniform_part, R, CLASSES, SHIFT)
    rest = log_one_plus(others)
    inverse = tl.load(drawn.inverse + k)
    factor = row_factor(upstream, location, first, row, rows)
    share = tl.zeros((R,), tl.float32)
    counted = tl.zeros((R, 16), tl.float32)
    loss = tl.zeros((R,), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        cost, mass = on_target(
            x, row, target, i, top, rest, shift, below, keep, uniform_part, ignore_index, place, b,
            R, DEPTH, CLASSES, OPERAND, WIDTH,
        )  # fmt: skip
        at = k[:, None] * WIDTH + i[None, :]
        stored_weights = tl.load(drawn.weights + at)  # (R, DEPTH)
        w = stored_weights.to(tl.float32) * inverse[:, None]
        if target.labels is None:  # probabilities of an example without weight may be NaN
            share += tl.sum(tl.where(w == 0, 0.0, w * mass), 1)
        else:
            share += tl.sum(w * mass, 1)
        if target.labels is not None:
            # To the last bit as targets are mixed: where they agree nothing is left of softmax less target.
            ones = tl.broadcast_to(tl.trans(mass), (DEPTH, 16))
            counted = dot(stored_weights, round_operand(ones, OPERAND), counted, OPERAND)
        loss += tl.sum(tl.where(w == 0, 0.0, w * cost), 1)  # of a masked class too
        if out.weights_gradient is not None:
            g = tl.where(cost < float("inf"), cost, 0.0) * factor[:, None]
            tl.store(out.weights_gradient + at, tl.where((c == 1) | (i >= b)[None, :], 0.0, g))
    loss += share * 0.0  # a label that does not exist has a NaN mass
    loss = tl.where(c == 1, share * 0.0, loss)
    loss = tl.where(real, loss, 0.0)
    if out.rows is not None:
        tl.store(out.rows + location * n + first + row, loss, mask=real)
    add_to_sum(out.sums, loss, first_location, first)
    if out.gradient is not None:
        if out.scale is not None:
            scale = scale * tl.load(out.scale)
        spread = (share if target.labels is not None else tl.where(inverse == 0, 0.0, 1.0)) * uniform_part
        if target.labels is not None:
            share = tl.max(counted, 1) * inverse + share * 0.0
        factor *= scale / (1.0 + others)
        factor = tl.where(c == 1, 0.0, factor)
        o_row = (c // OUT_UNIT) * OUT_UNIT
        for start in range(0, c, CLASSES):
            j = start + tl.arange(0, CLASSES)
            mixed = mixed_targets(drawn, k, target, j, place, b, c, ignore_index, WIDTH, DEPTH, R, CLASSES, OPERAND)
            mixed = mixed * (inverse * keep)[:, None] + spread[:, None]
            logits = load_logits(x, row, j, 0.0)  # (R, CLASSES)
            exponential = tl.exp2((logits - top[:, None]) * LOG2E)
            # T softmax - mixed, without the difference of two numbers near one.
            delta = (exponential * share[:, None] - mixed - mixed * others[:, None]) * factor[:, None]
            delta = tl.where(logits == float("-inf"), 0.0, delta)
            at = ((place + l_first_location) * o_rows + l_first + row.to(tl.int64))[:, None] * o_row + j[None, :]
            tl.store(out.gradient + at, delta, mask=real[:, None] & (j < c)[None, :])


def target_for(target: Target, left_out, wide: int, c: int, classes: int, dtype: torch.dtype) -> Prepared:
    """Masses, and of probabilities padded targets, if that is not too large."""
    width_of_all = -(-c // classes) * classes
    padded = not target.by_label and wide * width_of_all * dtype.itemsize <= shapes.PACKED_BYTES
    return prepare(None, target, left_out, wide, width_of_all, "", targets=dtype if padded else None)


def launch_block(
    logits, l_first_location: int, l_first: int, target: Target, ready: Prepared, block: Block, sampler: Sampler,
    operand: str, rows, sums, upstream: Upstream | None, scale, gradient, want_weights: bool,
) -> None:  # fmt: skip
    """One super-block; its logits and their gradient (contiguous) begin at the given location and row."""
    _, _, c = logits.shape
    shape, wide = shapes.family(logits).soft[operand], width(sampler.b)
    depth, classes = min(wide, shape.depth), min(shapes.power_of_two(max(16, c)), shape.classes)
    scaled, tiles = isinstance(scale, torch.Tensor), block.stored // shape.rows
    location_stride = logits.stride(0) if logits.shape[0] > 1 else 0
    aligned = logits.stride(2) == 1 and location_stride * logits.itemsize % 16 == 0
    unit = shapes.unit(logits.stride(1)) if aligned else 1
    in_place = ready.targets is not None and ready.targets.kept is not None
    by_label = target.by_label
    targets = Targets(target.values if by_label else None, None if by_label else ready.targets, ready.examples.mass)
    out = Outputs(rows, sums, gradient, block.gradient if want_weights else None, scale if scaled else None)
    soft_kernel[(block.places * tiles,)](
        logits, location_stride, logits.stride(2), logits.stride(1) // unit, l_first_location, l_first,
        logits.shape[1], targets, target.keep, target.uniform, target.ignore_index, block.drawn, upstream, out,
        1.0 if scaled else scale, block.first_location, block.first, block.rows, block.stored, tiles, sampler.draw.n,
        sampler.b, c, WIDTH=wide, DEPTH=depth, R=shape.rows, CLASSES=classes, OPERAND=operand, UNIT=unit,
        OUT_UNIT=shapes.unit(c), **device.options(shape.warps, 1 if in_place else shape.stages),
    )  # fmt: skip


def new_sums(block: Block, rows: int) -> Tensor:
    """A sum for each tile of the first, largest block."""
    return block.inverse.new_empty((block.places * (block.stored // rows),), dtype=torch.float64)


def launch(logits, target: Target, sampler: Sampler, losses: Losses, upstream: Upstream | None, scale, gradient,
           grad_attention) -> None:  # fmt: skip
    """Fills losses, gradient (r, n, c), grad_attention (r, b), where given."""
    r, _, c = logits.shape
    operand, wide = device.operand(logits), width(sampler.b)
    shape = shapes.family(logits).soft[operand]
    want_weights = grad_attention is not None
    by_weights = AttentionGradient(grad_attention, sampler.attended, scale) if want_weights else None
    with device.on_device(logits):
        classes = min(shapes.power_of_two(max(16, c)), shape.classes)
        ready = target_for(target, sampler.left_out, wide, c, classes, logits.dtype)
        sums = None
        for block in blocks(sampler, r, logits.dtype, operand, want_weights, r):
            sums = new_sums(block, shape.rows) if sums is None else sums
            launch_block(
                logits, block.first_location, block.first, target, ready, block, sampler, operand, losses.rows, sums,
                upstream, scale, gradient, want_weights,
            )  # fmt: skip
            if by_weights is not None:
                by_weights.add(block)
            if block.last and block.first_location + block.places == r:
                losses.finish(sums, ready.examples.mass, sampler.b)
