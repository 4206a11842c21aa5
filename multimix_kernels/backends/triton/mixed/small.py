"""Mixed cross-entropy where all examples and classes of a row tile stay on chip: one persistent kernel.

A program owns a location and every `splits`-th row tile of it. It draws each tile's weights once, and goes on to mixed
scores, softmax, loss and gradient without leaving the chip: scores (C, B) and targets (C, B), padded, stay in the
first-level cache, the gradient's accumulator (C, B) in registers; it is written once. Everything is transposed, classes
by rows, so that the gradient of the logits goes from registers into the last product. `reduce` adds the programs'
partial sums in a fixed order.

Cost per row: b gammas; 3 products of 2 b c operations (mixed scores, mixed targets, gradient; 4 in bfloat16, whose
gradient goes in two halves); c exponentials; about 12 lane-instructions for each of c scores. Bytes: scores and targets
per program, nothing per row (4 with reduction "none").
"""

import torch
import triton
import triton.language as tl

from ..host import shapes as config
from ..mixed.large import row_factor
from ..products.dot import dot, round_operand
from ..products.operands import prepare
from ..products.targets import Target, Upstream, upstream_arguments
from ..sums import add_up
from ..weights.sample import Sampler
from ..weights.stream import LN2, LOG2E, pair_index
from ..weights.tile import as_rows, draw_tile, load_pair, row_sum

INTEGERS = ["first_location", "splits", "n", "b", "c", "m", "row_offset"]


@triton.jit(do_not_specialize=INTEGERS)
def mixed_small_kernel(
    scores_ptr, targets_ptr, mass_ptr, keep, uniform_part, grad_rows_ptr, g_location, g_row, grad_scale_ptr,
    rows_ptr, sums_ptr, partial_ptr,
    first_location, splits, c,
    seed_ptr, alpha_ptr, attention_ptr, ignored_ptr, row_offset, n, b, m, low, low_rest, high, high_rest,
    E: tl.constexpr, R: tl.constexpr, G: tl.constexpr, CLASSES: tl.constexpr,
    KIND: tl.constexpr, ATTENTION: tl.constexpr, IGNORED: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Loss sums (places, splits), or row losses (r, n); gradients (places, splits, CLASSES, B) up to a factor.

    Neither subsets nor a concentration of each example.
    """
    B: tl.constexpr = 2 * E * G
    place = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    location = place + first_location
    j = tl.arange(0, CLASSES)[:, None]
    operands = j * B + tl.arange(0, B)[None, :]
    scores_ptr += place * (B * CLASSES)
    mass_even, mass_odd = load_pair(mass_ptr, pair_index(E, G), b)
    total_loss = tl.zeros((R,), tl.float32)
    gradient = tl.zeros((CLASSES, B), tl.float32)
    first = split.to(tl.int64) * R
    while first < n:
        k = first + tl.arange(0, R)
        even, odd, _, _ = draw_tile(
            seed_ptr, alpha_ptr, attention_ptr, ignored_ptr, location, k, row_offset, n, b, m,
            low, low_rest, high, high_rest, E, R, G, KIND, False, False, ATTENTION, IGNORED,
            False, False,
        )  # fmt: skip
        even, odd = round_operand(even, OPERAND), round_operand(odd, OPERAND)
        even_wide, odd_wide = even.to(tl.float32), odd.to(tl.float32)
        # The sum is that of the rounded weights, so that rounding leaves no bias.
        total = row_sum(even_wide, odd_wide)
        inverse = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        mass = row_sum(even_wide * mass_even, odd_wide * mass_odd) * inverse
        # Rows without weights have no gradient; zero times the -inf of a masked class would be NaN there.
        empty = tl.reshape(total == 0, (1, R, 1))
        one = tl.full((), 1.0, even.dtype)
        weights = as_rows(tl.where(empty, one, even), tl.where(empty, one, odd), E, R, G)
        # Read in the loop, from the first-level cache: kept outside they would be kept in registers.
        scores = round_operand(tl.load(scores_ptr + operands), OPERAND)
        targets = round_operand(tl.load(targets_ptr + operands), OPERAND)
        zeros = tl.zeros((CLASSES, R), tl.float32)
        logits = dot(scores, tl.trans(weights), zeros, OPERAND) * tl.where(total == 0, 1.0, inverse)[None, :]
        mixed = dot(targets, tl.trans(weights), zeros, OPERAND) * (inverse * keep)[None, :]
        spread = (mass if LABELS else tl.where(total == 0, 0.0, 1.0)) * uniform_part
        mixed = tl.where(j < c, mixed + spread[None, :], 0.0)
        shifted = logits - tl.max(tl.where(j < c, logits, float("-inf")), 0)[None, :]
        exponential = tl.where(j < c, tl.exp2(shifted * LOG2E), 0.0)
        z = tl.sum(exponential, 0)
        loss = tl.sum(tl.where(mixed != 0, mixed * ((tl.log2(z) * LN2)[None, :] - shifted), 0.0), 0)
        loss = tl.where(k < n, loss + mass * 0.0, 0.0)  # a label that does not exist has a NaN mass
        if ROWS:
            tl.store(rows_ptr + location.to(tl.int64) * n + k, loss, mask=k < n)
        total_loss += loss
        if GRADIENT:
            factor = tl.where(c == 1, 0.0, inverse)  # one class: exactly nothing, whatever the rounding
            if WEIGHTED:
                factor *= row_factor(
                    grad_rows_ptr, g_location, g_row, grad_scale_ptr, location.to(tl.int64), 0, k, n, True
                )
            delta = (exponential * (mass / z)[None, :] - mixed) * factor[None, :]
            rounded = round_operand(delta, OPERAND)
            gradient = dot(rounded, weights, gradient, OPERAND)
            if OPERAND == "bf16":  # 8 bits of the logits' gradient are too few, and this product is cheap here
                rest = round_operand(delta - rounded.to(tl.float32), OPERAND)
                gradient = dot(rest, weights, gradient, OPERAND)
        first += splits.to(tl.int64) * R
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total_loss).to(tl.float64))
    if GRADIENT:
        at = tl.program_id(0).to(tl.int64) * (CLASSES * B)
        columns = tl.arange(0, CLASSES)[:, None] * B + tl.arange(0, B)[None, :]
        tl.store(partial_ptr + at + columns, gradient)


def launch(scores, target: Target, sampler: Sampler, operand: str, rows, upstream: Upstream | None, scale, gradient):
    """Fills rows (r, n) and gradient (r, b, c), where given.

    Returns the programs' sums of row losses, in float64, and the masses of the targets.
    """
    r, b, c = scores.shape
    shape = config.family(scores).mixed_small(b, c, operand)
    flags = dict(sampler.flags)
    if shape is None or flags.pop("SUBSET") or flags.pop("PER_EXAMPLE"):
        raise ValueError(f"scores: {b} examples and {c} classes of this draw do not fit on chip")
    classes, width = shape.classes, 2 * shape.pair.registers * shape.pair.groups
    places = min(r, max(1, config.PARTIAL_BYTES // (4 * classes * width)))
    tiles = triton.cdiv(sampler.draw.n, shape.pair.rows)
    splits = max(1, min(tiles, config.programs(scores) * shape.occupancy // places))
    sums = scores.new_empty((r * splits,), dtype=torch.float64)
    partial = sums if gradient is None else scores.new_empty((places, splits, classes, width), dtype=torch.float32)
    from_above = upstream_arguments(upstream, sums)
    with config.on_device(scores):
        for first in range(0, r, places):
            here = slice(first, min(first + places, r))
            count = here.stop - first
            ready = prepare(
                scores[here], target, sampler.left_out, width, classes, operand, transposed=True, targets=scores.dtype
            )
            mixed_small_kernel[(count * splits,)](
                ready.scores, ready.targets, ready.mass, target.keep, target.uniform, *from_above,
                sums if rows is None else rows, sums[first * splits :], partial, first, splits, c, *sampler.arguments(),
                shape.pair.registers, shape.pair.rows, shape.pair.groups, classes, **flags, OPERAND=operand,
                LABELS=target.by_label, ROWS=rows is not None, GRADIENT=gradient is not None,
                WEIGHTED=upstream is not None, **config.options(shape.pair.warps, 1)
            )  # fmt: skip
            if gradient is not None:
                add_up(partial[:count], gradient[here], scale)
    return sums, ready.mass
