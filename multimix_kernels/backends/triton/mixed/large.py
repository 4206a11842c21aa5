"""Mixed cross-entropy in super-blocks of rows, for any number of classes and up to some hundred examples.

With weights M (rows, b) in the scratch, scores S (b, c), smoothed targets Y (b, c) and A = S Y^T (b, b):
  loss_k = T_k lse_k - M_k A M_k^T                 T_k = sum_i M_ki mass_i
  dS     = M^T (T softmax) - (M^T M) Y             the second half once, in `reduce`
  dM     = T softmax S^T - M A^T - M A + lse mass^T
so no mixed target is ever formed. Scores are mixed twice, once for lse and once for the gradient.

Cost per row: 2 products of 2 b c operations for the gradient, 1 for lse, 2 of 2 b b; 2 c exponentials; about 6
lane-instructions, twice, for each of c scores. Bytes: the scratch, 2 b per row and pass, and S from the L2 cache.
"""

import torch
import triton
import triton.language as tl

from ..host import shapes as config
from ..host.blocks import blocks, width
from ..products.dot import dot, round_operand
from ..products.operands import load_padded, prepare
from ..products.targets import Target, Upstream, upstream_arguments
from ..sums import add_up, centre, fits, load_partial, store_partial
from ..weights.sample import Sampler
from ..weights.stream import LEAST, LN2, LOG2E


@triton.jit
def mix_columns(weights_ptr, k, columns_ptr, x_example, x_class, j, kept_ptr, c,
                WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                OPERAND: tl.constexpr, PACKED: tl.constexpr):  # fmt: skip
    """weights (rows k, WIDTH) @ columns (WIDTH, columns j): (ROWS, COLUMNS), not yet divided by the weights' sums."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :])
        s = load_padded(columns_ptr, x_example, x_class, i[:, None], j[None, :], kept_ptr, c, PACKED)
        total = dot(w, round_operand(s, OPERAND), total, OPERAND)
    return total


@triton.jit(do_not_specialize=["stored", "rows", "tiles", "n", "b", "c", "first_location", "first"])
def normaliser_kernel(
    scores_ptr, x_location, x_example, x_class, kept_ptr, on_target_ptr, score_sums_ptr, mass_ptr, keep, uniform_part,
    weights_ptr, inverse_ptr, lse_ptr, share_ptr, level_ptr, scale_ptr, rows_ptr, sums_ptr,
    first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, PACKED: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each row: log-sum-exp in units of ln 2, the target's share T, the loss; adds the sum over the tile to sums.

    level and scale: 2^(mixed scores * scale - level) is the softmax, of scores mixed by the weights of the scratch; for
    labels it is T softmax over the sum of those weights. Rows without a target, or past `rows`, have an infinite level.
    """
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    inverse = tl.load(inverse_ptr + k)
    scale = tl.where(inverse == 0, 1.0, inverse * LOG2E)  # zero times -inf would be NaN
    top = tl.full((R,), LEAST, tl.float32)
    z = tl.zeros((R,), tl.float32)
    scores_ptr += place * x_location
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(
            weights_ptr, k, scores_ptr, x_example, x_class, j, kept_ptr, c,
            WIDTH, DEPTH, R, CLASSES, OPERAND, PACKED,
        )  # fmt: skip
        if start + CLASSES > c:  # a branch: the other tiles need no mask
            logits = tl.where((j < c)[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1) * scale)
        z = z * tl.exp2(top - higher) + tl.sum(tl.exp2(logits * scale[:, None] - higher[:, None]), 1)
        top = higher
    lse = top + tl.log2(z)
    share = tl.zeros((R,), tl.float32)
    on_target = tl.zeros((R,), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    a_ptr = on_target_ptr + place * (WIDTH * WIDTH)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        inside = i < b
        mixed = (
            mix_columns(weights_ptr, k, a_ptr, WIDTH, 1, i, kept_ptr, c, WIDTH, DEPTH, R, DEPTH, OPERAND, True)
            * inverse[:, None]
        )
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :]).to(tl.float32) * inverse[:, None]
        on_target += tl.sum(w * mixed, 1)
        share += tl.sum(w * tl.load(mass_ptr + i, mask=inside, other=0.0)[None, :], 1)
        score_sum += tl.sum(w * tl.load(score_sums_ptr + place * b + i, mask=inside, other=0.0)[None, :], 1)
    tl.store(lse_ptr + k, lse)
    tl.store(share_ptr + k, share)
    factor = share * inverse
    level = lse - tl.log2(factor) if LABELS else lse  # probabilities may be negative
    tl.store(level_ptr + k, tl.where((factor == 0) | (row >= rows), float("inf"), level))
    tl.store(scale_ptr + k, scale)
    spread = (share if LABELS else tl.where(inverse == 0, 0.0, 1.0)) * uniform_part
    # In float32 on_target is that of scores less their mean over classes: less cancels.
    if OPERAND == "fp32":
        loss = share * (lse * LN2 - score_sum / c) - keep * on_target
    else:
        loss = share * (lse * LN2) - keep * on_target - spread * score_sum
    loss = tl.where(c == 1, share * 0.0, loss)
    loss = tl.where(row < rows, loss, 0.0)
    if ROWS:
        at = (place + first_location) * n + first + row
        tl.store(rows_ptr + at, loss, mask=row < rows)
    add_to_sum(sums_ptr, loss)


@triton.jit
def add_to_sum(sums_ptr, loss):
    """Adds the losses of a tile to the sum of all tiles with this program's number, launch by launch."""
    at = sums_ptr + tl.program_id(0)
    tl.store(at, tl.load(at) + tl.sum(loss).to(tl.float64))


@triton.jit
def row_factor(grad_rows_ptr, g_location, g_row, grad_scale_ptr, location, first, row, rows, WEIGHTED: tl.constexpr):
    """d loss / d row loss, up to a common factor."""
    if WEIGHTED:
        at = location * g_location + (first + row.to(tl.int64)) * g_row
        factor = tl.load(grad_rows_ptr + at, mask=row < rows, other=0.0).to(tl.float32) / tl.load(grad_scale_ptr)
    else:
        factor = tl.where(row < rows, 1.0, 0.0)
    return factor


@triton.jit(do_not_specialize=["stored", "rows", "splits", "b", "c", "first_location", "first", "chunks"])
def gradient_kernel(
    scores_ptr, x_location, x_example, x_class, kept_ptr, weights_ptr, inverse_ptr, share_ptr, level_ptr, scale_ptr,
    grad_rows_ptr, g_location, g_row, grad_scale_ptr,
    partial_ptr, first_location, first, rows, stored, splits, b, c, chunks,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, HEIGHT: tl.constexpr,
    OPERAND: tl.constexpr, PACKED: tl.constexpr, LABELS: tl.constexpr, WEIGHTED: tl.constexpr, FIRST: tl.constexpr,
    IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Adds a super-block to partial (places, splits, HEIGHT, WIDTH): (T softmax)^T M, and after `chunks` of it M^T M.

    Everything is transposed, classes by rows, so that the softmax goes from registers into the second product.
    """
    place = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    chunk = tl.program_id(1)
    column = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    j = chunk * CLASSES + tl.arange(0, CLASSES)
    total = load_partial(partial_ptr, place, j, column, b, c, FIRST, HEIGHT, WIDTH, IN_PLACE)
    location = place + first_location
    if chunk < chunks:
        scores_ptr += place * x_location
        if WIDTH == DEPTH:  # the scores of these classes stay on chip
            scores = load_padded(scores_ptr, x_example, x_class, column[None, :], j[:, None], kept_ptr, c, PACKED)
            scores = round_operand(scores, OPERAND)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            # Weights of a row that exists: zero times the -inf of a masked class would be NaN.
            source = place * stored + tl.minimum(row, rows - 1)
            own = tl.load(weights_ptr + source[:, None] * WIDTH + column[None, :])
            logits = tl.zeros((CLASSES, R), tl.float32)
            if WIDTH == DEPTH:
                logits = dot(scores, tl.trans(own), logits, OPERAND)
            else:
                for start in range(0, WIDTH, DEPTH):
                    i = start + tl.arange(0, DEPTH)
                    w = tl.load(weights_ptr + source[None, :] * WIDTH + i[:, None])
                    s = load_padded(scores_ptr, x_example, x_class, i[None, :], j[:, None], kept_ptr, c, PACKED)
                    logits = dot(round_operand(s, OPERAND), w, logits, OPERAND)
            p = tl.exp2(logits * tl.load(scale_ptr + k)[None, :] - tl.load(level_ptr + k)[None, :])
            if not LABELS:
                p *= (tl.load(share_ptr + k) * tl.load(inverse_ptr + k))[None, :]
            if WEIGHTED:
                above = row_factor(grad_rows_ptr, g_location, g_row, grad_scale_ptr, location, first, row, rows, True)
                p *= above[None, :]
            total = dot(round_operand(p, OPERAND), own, total, OPERAND)
    else:
        i = (chunk - chunks) * CLASSES + tl.arange(0, CLASSES)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            inverse = tl.load(inverse_ptr + k)
            factor = (
                inverse
                * inverse
                * row_factor(grad_rows_ptr, g_location, g_row, grad_scale_ptr, location, first, row, rows, WEIGHTED)
            )
            other = tl.load(weights_ptr + k[None, :] * WIDTH + i[:, None], mask=(i < WIDTH)[:, None], other=0.0)
            other = round_operand(other.to(tl.float32) * factor[None, :], OPERAND)
            w = tl.load(weights_ptr + k[:, None] * WIDTH + column[None, :])
            total = dot(other, w, total, OPERAND)
    store_partial(partial_ptr, total, place, j, column, b, c, HEIGHT, WIDTH, IN_PLACE)


@triton.jit(do_not_specialize=["stored", "rows", "tiles", "b", "c", "first_location", "first"])
def weights_gradient_kernel(
    scores_ptr, x_location, x_example, x_class, kept_ptr, on_target_ptr, score_sums_ptr, mass_ptr, keep, uniform_part,
    weights_ptr, inverse_ptr, lse_ptr, share_ptr, grad_rows_ptr, g_location, g_row, grad_scale_ptr, out_ptr,
    first_location, first, rows, stored, tiles, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, PACKED: tl.constexpr, LABELS: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """out (places, stored, WIDTH): d loss / d mu, up to what centring removes and a common factor."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    i = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = i < b
    inverse, lse, share = tl.load(inverse_ptr + k), tl.load(lse_ptr + k), tl.load(share_ptr + k)
    scores_ptr += place * x_location
    mass = tl.load(mass_ptr + i, mask=inside, other=0.0)
    sums = tl.load(score_sums_ptr + place * b + i, mask=inside, other=0.0)
    mean = sums / c
    total = tl.zeros((R, DEPTH), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(
            weights_ptr, k, scores_ptr, x_example, x_class, j, kept_ptr, c,
            WIDTH, DEPTH, R, CLASSES, OPERAND, PACKED,
        )  # fmt: skip
        logits *= inverse[:, None]
        score_sum += tl.sum(logits, 1)
        p = tl.where((j < c)[None, :], tl.exp2(logits * LOG2E - lse[:, None]), 0.0) * share[:, None]
        s = load_padded(scores_ptr, x_example, x_class, i[None, :], j[:, None], kept_ptr, c, PACKED)
        if OPERAND == "fp32":
            s = tl.where((j < c)[:, None], s - mean[None, :], 0.0)
        total = dot(round_operand(p, OPERAND), round_operand(s, OPERAND), total, OPERAND)
    a_ptr = on_target_ptr + place * (WIDTH * WIDTH)  # here A + A^T
    both = mix_columns(weights_ptr, k, a_ptr, WIDTH, 1, i, kept_ptr, c, WIDTH, DEPTH, R, DEPTH, OPERAND, True)
    total -= both * (inverse * keep)[:, None]
    if OPERAND == "fp32":  # of scores less their mean over classes
        total += (lse * LN2 - score_sum / c)[:, None] * mass[None, :]
    else:
        if LABELS:
            spread, spread_row = mass * uniform_part, share * uniform_part
        else:
            spread, spread_row = mass * 0.0 + uniform_part, tl.where(inverse == 0, 0.0, uniform_part)
        total += (lse * LN2)[:, None] * mass[None, :]
        total -= score_sum[:, None] * spread[None, :] + spread_row[:, None] * sums[None, :]
    total *= row_factor(
        grad_rows_ptr, g_location, g_row, grad_scale_ptr, place + first_location, first, row, rows, WEIGHTED
    )[:, None]
    at = k[:, None] * WIDTH + i[None, :]
    tl.store(out_ptr + at, tl.where((c == 1) | ~inside[None, :], 0.0, total))


def launch(scores, target: Target, sampler: Sampler, operand, rows, upstream: Upstream | None, scale, gradient,
           grad_attention):  # fmt: skip
    """Fills rows (r, n), gradient (r, b, c), grad_attention (r, b), where given.

    Returns the programs' sums of row losses, in float64, and the masses of the targets.
    """
    r, b, c = scores.shape
    wide, family = width(b), config.family(scores)
    shape, two = family.large[operand], family.two_accumulators[operand]
    if not fits(c + wide + 2 * shape.classes, wide):
        shape = two
    depth, classes = min(wide, shape.depth), min(config.power_of_two(max(16, c)), shape.classes)
    chunks, gram_chunks = triton.cdiv(c, classes), triton.cdiv(wide, classes)
    columns, whole = wide // depth, chunks + gram_chunks
    in_place = not fits(whole * classes, wide)
    most = 1 if in_place else config.PARTIAL_BYTES // (4 * whole * classes * wide)
    new = sampler.draw.seed.new_empty
    launch_options = config.options(shape.warps, shape.stages)
    if grad_attention is not None:
        grad_attention.zero_()
    sums, partial, gram = scores, scores, scores
    with config.on_device(scores):
        for block in blocks(sampler, r, scores.dtype, operand, grad_attention is not None, most):
            tiles = block.stored // shape.rows
            here = slice(block.first_location, block.first_location + block.places)
            if block.first == 0:
                if block.first_location == 0:
                    sums = new((block.places * tiles,), dtype=torch.float64).zero_()
                ready = prepare(scores[here], target, sampler.left_out, wide, chunks * classes, operand, on_target=True)
            sizes = dict(WIDTH=wide, DEPTH=depth, CLASSES=classes, OPERAND=operand, PACKED=ready.packed)
            lse, share, level, scales = new((4, block.places, block.stored), dtype=torch.float32).unbind()
            place = (block.first_location, block.first, block.rows, block.stored)
            source = (ready.scores, ready.place_stride, *ready.strides, ready.kept)
            masses = (ready.sums, ready.mass, target.keep, target.uniform)
            drawn, softmax = (block.weights, block.inverse), (level, scales)
            normaliser_kernel[(block.places * tiles,)](
                *source, ready.on_target, *masses, *drawn, lse, share, *softmax, lse if rows is None else rows, sums,
                *place, tiles, sampler.draw.n, b, c, **sizes, R=shape.rows, LABELS=target.by_label,
                ROWS=rows is not None, **launch_options,
            )  # fmt: skip
            from_above = upstream_arguments(upstream, lse)
            if gradient is not None:
                if block.first == 0:
                    splits = config.programs(scores) * shape.occupancy // (block.places * whole * columns)
                    splits = 1 if in_place else max(1, min(splits, most // block.places, tiles))
                    height = gram_chunks if in_place else whole
                    partial = new((block.places, splits, height * classes, wide), dtype=torch.float32)
                    gram = partial[:, :, -gram_chunks * classes :]
                parts = [(partial, whole, chunks)]
                if in_place:
                    parts = [(gradient[here], chunks, chunks), (partial, gram_chunks, 0)]
                for out, some, of_classes in parts:
                    gradient_kernel[(block.places * splits, some, columns)](
                        *source, *drawn, share, *softmax, *from_above, out, *place, splits, b, c, of_classes, **sizes,
                        R=shape.rows, HEIGHT=some * classes, LABELS=target.by_label, WEIGHTED=upstream is not None,
                        FIRST=block.first == 0, IN_PLACE=out is not partial, **launch_options,
                    )  # fmt: skip
                if block.last:
                    out = gradient[here]
                    add_up(out if in_place else partial, out, scale, gram, target, ready.mass)
            if grad_attention is not None:
                both = ready.on_target + ready.on_target.mT
                two_depth, tiles = min(wide, two.depth), block.stored // two.rows
                sizes |= dict(DEPTH=two_depth, CLASSES=min(classes, two.classes))
                weights_gradient_kernel[(block.places * tiles, wide // two_depth)](
                    *source, both, *masses, *drawn, lse, share, *from_above, block.gradient, *place, tiles, b, c,
                    **sizes, R=two.rows, LABELS=target.by_label, WEIGHTED=upstream is not None,
                    **config.options(two.warps, two.stages),
                )  # fmt: skip
                centre(block, sampler.attention[here], grad_attention[here])
    if grad_attention is not None:
        grad_attention *= scale
    return sums, ready.mass
