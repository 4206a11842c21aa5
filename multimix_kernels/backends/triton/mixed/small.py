"""Mixed cross-entropy where all examples and classes of a row tile stay on chip: one persistent kernel.

A program owns a location and every `splits`-th row tile of it. It prepares the operands for itself, in memory of its
own. Then it draws each tile's weights once, and goes on to mixed scores, softmax, loss and gradient without leaving the
chip: scores (C, B) and targets (C, B), padded, stay in the first-level cache, the gradient's accumulator (C, B) in
registers; it is written once. Everything is transposed, classes by rows, so that the gradient of the logits goes from
registers into the last product. `add_up` adds up the programs' partial sums, and their losses, in a fixed order.

Cost per row: b gammas; 3 products of 2 b c operations (mixed scores, mixed targets, gradient; 4 in bfloat16, whose
gradient goes in two halves); c exponentials; about 12 lane-instructions for each of c scores. Bytes: scores and targets
per program, three times; nothing per row (4 with reduction "none").
"""

import torch
import triton.language as tl
from torch import Tensor

from ..host import device, shapes
from ..host.constants import LOG2E
from ..host.kernel import kernel
from ..products.columns import Columns, highest_mask, place_stride, score_unit
from ..products.dot import dot, round_operand
from ..products.operands import Examples, Scores, Targets, prepare_examples
from ..products.targets import Target, Upstream, row_factor
from ..sums import Losses, add_up, log_one_plus
from ..weights.sample import Sampler
from ..weights.stream import pair_index
from ..weights.tile import as_rows, draw_tile, load_pair, not_too_small, row_sum

INTEGERS = ["first_location", "splits", "n", "b", "c", "m", "row_offset", "ignore_index"]


@kernel(do_not_specialize=INTEGERS)
def mixed_small_kernel(
    scores, target, examples, ignored_ptr, keep, smoothing, uniform_part, ignore_index, upstream, rows_ptr, sums_ptr,
    partial_ptr, first_location, splits, c, draw, row_offset: tl.int64, n, b, m,
    E: tl.constexpr, R: tl.constexpr, G: tl.constexpr, CLASSES: tl.constexpr, EXAMPLES: tl.constexpr,
    KIND: tl.constexpr, OPERAND: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """Loss sums (places, splits), or row losses (r, n); gradients (places, splits, CLASSES, B) up to a factor.

    Neither subsets nor a concentration of each example. Operands are prepared EXAMPLES at a time, for this program.
    """
    B: tl.constexpr = 2 * E * G
    split = tl.program_id(0) % splits
    location = tl.program_id(0) // splits + first_location
    own = tl.program_id(0).to(tl.int64)
    for start in range(0, B, EXAMPLES):
        prepare_examples(
            scores, target, examples, None, ignored_ptr, keep, smoothing, ignore_index, b, c,
            start + tl.arange(0, EXAMPLES), location.to(tl.int64), own,
            B, CLASSES, EXAMPLES, CLASSES, OPERAND, LABELS, NAN=False, OWN=True,
        )  # fmt: skip
    tl.debug_barrier()  # other threads read them
    j = tl.arange(0, CLASSES)[:, None]
    operands = j * B + tl.arange(0, B)[None, :]
    scores_ptr = scores.padded.pointer + own * (B * CLASSES)
    targets_ptr = target.padded.pointer + own * (B * CLASSES)
    # A label that does not exist makes every row NaN; an example with NaN those that it has a weight in.
    example = tl.arange(0, B)
    flaw_ptr = examples.flaw + own * B
    flaw = tl.sum(tl.load(examples.mass + own * B + example)) * 0.0 if LABELS else 0.0
    if draw.attention is None:
        flaw += tl.sum(tl.load(flaw_ptr + example))
    total_loss = tl.zeros((R,), tl.float32)
    gradient = tl.zeros((CLASSES, B), tl.float32)
    first = split.to(tl.int64) * R
    while first < n:
        k = first + tl.arange(0, R)
        even, odd, _, _ = draw_tile(
            draw, location, k, row_offset, n, b, m, E, R, G, KIND, SUBSET=False, WHOLE=False, ASSEMBLY=False
        )
        if draw.attention is not None or OPERAND == "fp16":
            even, odd = not_too_small(even, OPERAND), not_too_small(odd, OPERAND)
        even, odd = round_operand(even, OPERAND), round_operand(odd, OPERAND)  # (E, R, G)
        # The sum is that of the rounded weights, so that rounding leaves no bias.
        total = row_sum(even.to(tl.float32), odd.to(tl.float32))  # (R,)
        inverse = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        weights = as_rows(even, odd, E, R, G)  # (R, B)
        if OPERAND == "tf32":  # Triton cannot lay out an operand of wgmma that is nothing but a permutation
            weights += 0.0
        # Read in the loop, from the first-level cache: kept outside they would be kept in registers.
        own_scores = round_operand(tl.load(scores_ptr + operands), OPERAND)  # (CLASSES, B)
        own_targets = round_operand(tl.load(targets_ptr + operands), OPERAND)
        zeros = tl.zeros((CLASSES, R), tl.float32)
        # Divided by the weights' sums after differences and sums: a compiler makes one operation of a product and an
        # addition to it, and what is left of the largest logit less itself, or of parts that threads exchange, differs.
        unit = inverse * score_unit(OPERAND)
        scaled = dot(own_scores, tl.trans(weights), zeros, OPERAND)
        mixed = dot(own_targets, tl.trans(weights), zeros, OPERAND)
        of_targets = tl.sum(mixed, 0) * inverse  # (R,), to all digits the largest if there is one
        mixed *= inverse[None, :]
        known = of_targets if LABELS else tl.where(total == 0, 0.0, 1.0)
        mass = of_targets * keep + known * (uniform_part * c)
        mixed = mixed * keep + tl.where(j < c, uniform_part, 0.0) * known[None, :]
        shifted = (scaled - tl.max(scaled, 0)[None, :]) * unit[None, :]
        shifted = tl.where(scaled * unit[None, :] < highest_mask(OPERAND), float("-inf"), shifted)
        exponential = tl.exp2(shifted * LOG2E)
        # Beside the largest, so that small ones keep their digits.
        largest = shifted >= 0
        others = tl.sum(tl.where(largest, 0.0, exponential), 0) + (tl.sum(tl.where(largest, 1.0, 0.0), 0) - 1.0)
        loss = tl.sum(tl.where(mixed != 0, mixed * (log_one_plus(others)[None, :] - shifted), 0.0), 0)
        row_flaw = flaw
        if draw.attention is not None:
            flaw_even, flaw_odd = load_pair(flaw_ptr, pair_index(E, G), b)
            row_flaw += row_sum(tl.where(even == 0, 0.0, flaw_even), tl.where(odd == 0, 0.0, flaw_odd))
        loss = tl.where(k < n, loss + row_flaw, 0.0)
        if rows_ptr is not None:
            tl.store(rows_ptr + location.to(tl.int64) * n + k, loss, mask=k < n)
        total_loss += loss
        if partial_ptr is not None:
            factor = tl.where(c == 1, 0.0, inverse)  # one class: exactly nothing, whatever the rounding
            if upstream is not None:
                factor *= row_factor(upstream, location.to(tl.int64), 0, k, n)
            factor = factor / (1.0 + others) + tl.where(row_flaw == row_flaw, 0.0, row_flaw)
            # mass softmax - mixed, without the difference of two numbers near one.
            delta = (exponential * mass[None, :] - mixed - mixed * others[None, :]) * factor[None, :]
            rounded = round_operand(delta, OPERAND)
            gradient = dot(rounded, weights, gradient, OPERAND)
            if OPERAND == "bf16":  # 8 bits of the logits' gradient are too few, and this product is cheap here
                rest = round_operand(delta - rounded.to(tl.float32), OPERAND)
                gradient = dot(rest, weights, gradient, OPERAND)
        first += splits.to(tl.int64) * R
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total_loss).to(tl.float64))
    if partial_ptr is not None:
        at = tl.program_id(0).to(tl.int64) * (CLASSES * B)
        columns = tl.arange(0, CLASSES)[:, None] * B + tl.arange(0, B)[None, :]
        tl.store(partial_ptr + at + columns, gradient)


def launch(scores, target: Target, sampler: Sampler, operand: str, losses: Losses, upstream: Upstream | None, scale,
           gradient) -> None:  # fmt: skip
    """Fills losses, and gradient (r, b, c) where given."""
    r, b, c = scores.shape
    shape = shapes.family(scores).mixed_small(b, c, operand)
    if shape is None or sampler.subset or sampler.draw.alpha is not None:
        raise ValueError(f"scores: {b} examples and {c} classes of this draw do not fit on chip")
    classes, width = shape.classes, shape.width
    places = min(r, max(1, shapes.PARTIAL_BYTES // (4 * classes * width)))
    tiles = shapes.ceil_div(sampler.draw.n, shape.pair.rows)
    splits = max(1, min(tiles, device.programs(scores) * shape.occupancy // places))
    sums = scores.new_empty((r * splits,), dtype=torch.float64)
    partial = None if gradient is None else scores.new_empty((places, splits, classes, width), dtype=torch.float32)
    with device.on_device(scores):
        given, targets, examples = _own_operands(scores, target, places * splits, width, classes)
        for first in range(0, r, places):
            here = slice(first, min(first + places, r))
            count = here.stop - first
            mixed_small_kernel[(count * splits,)](
                given, targets, examples, sampler.left_out, target.keep, 1 - target.keep, target.uniform,
                target.ignore_index, upstream, losses.rows, sums[first * splits :], partial, first, splits, c,
                sampler.names, *sampler.counts, shape.pair.registers, shape.pair.rows, shape.pair.groups, classes,
                shape.examples, sampler.kind, operand, target.by_label,
                **device.options(shape.pair.warps, 1),
            )  # fmt: skip
            if gradient is not None and partial is not None:
                loss = losses.total(sums, examples.mass) if here.stop == r else None
                add_up(partial[:count], gradient[here], scale, scores=scores[here], loss=loss)
        if gradient is None:
            losses.finish(sums, examples.mass, b)


def _own_operands(scores: Tensor, target: Target, programs: int, width: int, classes: int):
    """Scores and targets as they are, and where programs prepare them, transposed: each for itself."""
    _, example, column = scores.stride()
    t_example, t_column = (1, 0) if target.by_label else target.values.stride()
    s, t = (Columns(scores.new_empty((programs, classes, width)), classes * width, 1, width) for _ in range(2))
    mass, flaw = (scores.new_empty((programs, width), dtype=torch.float32) for _ in range(2))
    given = Scores(scores, place_stride(scores), example, column, None, None, s)
    return given, Targets(target.values, t_example, t_column, t), Examples(mass, None, flaw)
