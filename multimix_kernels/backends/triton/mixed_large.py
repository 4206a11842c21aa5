"""Mixed cross-entropy in super-blocks of rows, for any number of classes and examples, and attention gradients.

With weights M (rows, b) in the scratch, scores S (b, c), smoothed targets Y (b, c) and A = S Y^T (b, b):
  loss_k = T_k lse_k - M_k A M_k^T                 T_k = sum_i M_ki mass_i
  dS     = M^T (T softmax) - (M^T M) Y             the second half once, in `reduce`
  dM     = T softmax S^T - M A^T - M A + lse mass^T
so no mixed target is ever formed. Scores are mixed twice, once for lse and once for the gradient.

Cost per row: 2 products of 2 b c operations for the gradient, 1 for lse, 2 of 2 b b; 2 c exponentials; about 8 and 6
lane-instructions for each of c scores. Bytes: the scratch, 2 b per row and pass, and S from the L2 cache.
"""

import torch
import triton
import triton.language as tl

from . import config
from .product import dot, round_operand
from .reduce import add_up, centre
from .sample import Sampler
from .scratch import blocks, width
from .stream import LN2, LOG2E
from .target import Target


@triton.jit
def mix_columns(weights_ptr, k, columns_ptr, pitch, j,
                WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                OPERAND: tl.constexpr):  # fmt: skip
    """weights (rows k, WIDTH) @ columns (WIDTH, columns j): (ROWS, COLUMNS), not yet divided by the weights' sums."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :])
        s = tl.load(columns_ptr + i[:, None] * pitch + j[None, :])
        total = dot(w, round_operand(s, OPERAND), total, OPERAND)
    return total


@triton.jit(do_not_specialize=["stored", "rows", "tiles", "n", "b", "c", "first_location", "first"])
def normaliser_kernel(
    scores_ptr, pitch, on_target_ptr, score_sums_ptr, mass_ptr, keep, uniform_part,
    weights_ptr, inverse_ptr, lse_ptr, share_ptr, rows_ptr, sums_ptr,
    first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Of each row: log-sum-exp in units of ln 2, the target's share T; the loss, or its sum over the tile."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    inverse = tl.load(inverse_ptr + k)
    scale = inverse * LOG2E
    top = tl.full((R,), float("-inf"), tl.float32)
    z = tl.zeros((R,), tl.float32)
    scores_ptr += place * (WIDTH * pitch)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(weights_ptr, k, scores_ptr, pitch, j, WIDTH, DEPTH, R, CLASSES, OPERAND) * scale[:, None]
        logits = tl.where((j < c)[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        z = z * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        top = higher
    lse = top + tl.log2(z)
    share = tl.zeros((R,), tl.float32)
    on_target = tl.zeros((R,), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    a_ptr = on_target_ptr + place * (WIDTH * WIDTH)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        inside = i < b
        mixed = mix_columns(weights_ptr, k, a_ptr, WIDTH, i, WIDTH, DEPTH, R, DEPTH, OPERAND) * inverse[:, None]
        w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :]).to(tl.float32) * inverse[:, None]
        on_target += tl.sum(w * mixed, 1)
        share += tl.sum(w * tl.load(mass_ptr + i, mask=inside, other=0.0)[None, :], 1)
        score_sum += tl.sum(w * tl.load(score_sums_ptr + place * b + i, mask=inside, other=0.0)[None, :], 1)
    tl.store(lse_ptr + k, lse)
    tl.store(share_ptr + k, share)
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
    tl.store(sums_ptr + tl.program_id(0), tl.sum(loss))


@triton.jit
def row_factor(grad_rows_ptr, location, n, first, row, rows, WEIGHTED: tl.constexpr):
    """d loss / d row loss, up to a common factor."""
    if WEIGHTED:
        factor = tl.load(grad_rows_ptr + location * n + first + row, mask=row < rows, other=0.0)
    else:
        factor = tl.where(row < rows, 1.0, 0.0)
    return factor


@triton.jit(do_not_specialize=["stored", "rows", "splits", "n", "b", "c", "first_location", "first", "chunks"])
def gradient_kernel(
    scores_ptr, pitch, weights_ptr, inverse_ptr, lse_ptr, share_ptr, grad_rows_ptr,
    partial_ptr, first_location, first, rows, stored, splits, n, b, c, chunks,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, HEIGHT: tl.constexpr,
    OPERAND: tl.constexpr, WEIGHTED: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Adds a super-block to partial (places, splits, HEIGHT, WIDTH): (T softmax)^T M, and after `chunks` of it M^T M.

    Everything is transposed, classes by rows, so that the softmax goes from registers into the second product.
    """
    place = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    chunk = tl.program_id(1)
    column = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    j = chunk * CLASSES + tl.arange(0, CLASSES)
    at = (tl.program_id(0).to(tl.int64) * HEIGHT + j[:, None]) * WIDTH + column[None, :]
    total = tl.zeros((CLASSES, DEPTH), tl.float32) if FIRST else tl.load(partial_ptr + at)
    location = place + first_location
    if chunk < chunks:
        scores_ptr += place * (WIDTH * pitch)
        if WIDTH == DEPTH:  # the scores of these classes stay on chip
            scores = round_operand(tl.load(scores_ptr + column[None, :] * pitch + j[:, None]), OPERAND)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            own = tl.load(weights_ptr + k[:, None] * WIDTH + column[None, :])
            logits = tl.zeros((CLASSES, R), tl.float32)
            if WIDTH == DEPTH:
                logits = dot(scores, tl.trans(own), logits, OPERAND)
            else:
                for start in range(0, WIDTH, DEPTH):
                    i = start + tl.arange(0, DEPTH)
                    w = tl.load(weights_ptr + k[None, :] * WIDTH + i[:, None])
                    s = tl.load(scores_ptr + i[None, :] * pitch + j[:, None])
                    logits = dot(round_operand(s, OPERAND), w, logits, OPERAND)
            inverse = tl.load(inverse_ptr + k)
            factor = row_factor(grad_rows_ptr, location, n, first, row, rows, WEIGHTED)
            factor *= inverse * tl.load(share_ptr + k)
            lse = tl.load(lse_ptr + k)
            p = tl.exp2(logits * (inverse * LOG2E)[None, :] - lse[None, :]) * factor[None, :]
            total = dot(round_operand(p, OPERAND), own, total, OPERAND)
    else:
        i = (chunk - chunks) * CLASSES + tl.arange(0, CLASSES)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            inverse = tl.load(inverse_ptr + k)
            factor = inverse * inverse * row_factor(grad_rows_ptr, location, n, first, row, rows, WEIGHTED)
            other = tl.load(weights_ptr + k[None, :] * WIDTH + i[:, None], mask=(i < WIDTH)[:, None], other=0.0)
            other = round_operand(other.to(tl.float32) * factor[None, :], OPERAND)
            w = tl.load(weights_ptr + k[:, None] * WIDTH + column[None, :])
            total = dot(other, w, total, OPERAND)
    tl.store(partial_ptr + at, total)


@triton.jit(do_not_specialize=["stored", "rows", "tiles", "n", "b", "c", "first_location", "first"])
def weights_gradient_kernel(
    scores_ptr, pitch, on_target_ptr, score_sums_ptr, mass_ptr, keep, uniform_part,
    weights_ptr, inverse_ptr, lse_ptr, share_ptr, grad_rows_ptr, out_ptr,
    first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """out (places, stored, WIDTH): d loss / d mu, up to what centring removes and a common factor."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    i = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = i < b
    inverse, lse, share = tl.load(inverse_ptr + k), tl.load(lse_ptr + k), tl.load(share_ptr + k)
    scores_ptr += place * (WIDTH * pitch)
    mass = tl.load(mass_ptr + i, mask=inside, other=0.0)
    sums = tl.load(score_sums_ptr + place * b + i, mask=inside, other=0.0)
    mean = sums / c
    total = tl.zeros((R, DEPTH), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(weights_ptr, k, scores_ptr, pitch, j, WIDTH, DEPTH, R, CLASSES, OPERAND) * inverse[:, None]
        score_sum += tl.sum(logits, 1)
        p = tl.where((j < c)[None, :], tl.exp2(logits * LOG2E - lse[:, None]), 0.0) * share[:, None]
        s = tl.load(scores_ptr + i[None, :] * pitch + j[:, None])
        if OPERAND == "fp32":
            s = tl.where((j < c)[:, None], s - mean[None, :], 0.0)
        total = dot(round_operand(p, OPERAND), round_operand(s, OPERAND), total, OPERAND)
    a_ptr = on_target_ptr + place * (WIDTH * WIDTH)  # here A + A^T
    both = mix_columns(weights_ptr, k, a_ptr, WIDTH, i, WIDTH, DEPTH, R, DEPTH, OPERAND)
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
    total *= row_factor(grad_rows_ptr, place + first_location, n, first, row, rows, WEIGHTED)[:, None]
    at = k[:, None] * WIDTH + i[None, :]
    tl.store(out_ptr + at, tl.where((c == 1) | ~inside[None, :], 0.0, total))


def _pack(scores, target: Target, wide: int, classes: int, operand: str, want_both: bool):
    """Padded scores (L, wide, classes), A (L, wide, wide), A + A^T if wanted, and the sums of the scores (L, b)."""
    places, b, c = scores.shape
    packed = scores.new_zeros((places, wide, classes))
    packed[:, :b, :c] = scores
    sums = scores.sum(-1, dtype=torch.float32)
    if operand == "fp32":
        scores = scores - (sums / c).unsqueeze(-1)
    on_target = scores.new_zeros((places, wide, wide))
    on_target[:, :b, :b] = target.scores_on_target(scores)
    return packed, on_target, on_target + on_target.mT if want_both else None, sums


def launch(scores, target: Target, sampler: Sampler, operand, rows, grad_rows, scale, gradient, grad_attention):
    """Fills rows (r, n), gradient (r, b, c), grad_attention (r, b), where given; returns the sum of all row losses."""
    r, b, c = scores.shape
    n, wide = sampler.draw.n, width(b)
    shape, two = config.family().large[operand], config.family().two_accumulators[operand]
    depth, classes = min(wide, shape.depth), min(config.power_of_two(max(16, c)), shape.classes)
    chunks, gram_chunks = triton.cdiv(c, classes), triton.cdiv(wide, classes)
    height, columns = (chunks + gram_chunks) * classes, wide // depth
    most = max(1, config.PARTIAL_BYTES // (4 * height * wide))
    new = sampler.draw.seed.new_empty
    launch_options = config.options(shape.warps, shape.stages)
    sizes = dict(WIDTH=wide, DEPTH=depth, CLASSES=classes, OPERAND=operand)
    if grad_attention is not None:
        grad_attention.zero_()
    sums, partial = [], scores
    with config.on_device(scores):
        for block in blocks(sampler, r, scores.dtype, operand, grad_attention is not None, most):
            tiles = block.stored // shape.rows
            here = slice(block.first_location, block.first_location + block.places)
            if block.first == 0:
                packed, on_target, both, score_sums = _pack(
                    scores[here], target, wide, chunks * classes, operand, grad_attention is not None
                )
            lse, share = new((2, block.places, block.stored), dtype=torch.float32).unbind()
            sums.append(new((block.places * tiles,), dtype=torch.float32))
            place = (block.first_location, block.first, block.rows, block.stored)
            operands = (
                packed, packed.stride(1), on_target, score_sums, target.mass, target.keep, target.uniform,
                block.weights, block.inverse, lse, share,
            )  # fmt: skip
            normaliser_kernel[(block.places * tiles,)](
                *operands, sums[-1] if rows is None else rows, sums[-1], *place, tiles, n, b, c, **sizes, R=shape.rows,
                LABELS=target.by_label, ROWS=rows is not None, **launch_options,
            )  # fmt: skip
            weighted = grad_rows is not None
            if gradient is not None:
                if block.first == 0:
                    programs = config.programs(scores) * shape.occupancy
                    splits = programs // (block.places * (chunks + gram_chunks) * columns)
                    splits = max(1, min(splits, most // block.places, tiles))
                    partial = new((block.places, splits, height, wide), dtype=torch.float32)
                gradient_kernel[(block.places * splits, chunks + gram_chunks, columns)](
                    packed, packed.stride(1), block.weights, block.inverse, lse, share, grad_rows if weighted else lse,
                    partial, *place, splits, n, b, c, chunks, **sizes, R=shape.rows, HEIGHT=height, WEIGHTED=weighted,
                    FIRST=block.first == 0, **launch_options,
                )  # fmt: skip
                if block.last:
                    add_up(partial, gradient[here], scale, chunks * classes, target)
            if grad_attention is not None:
                two_depth, tiles = min(wide, two.depth), block.stored // two.rows
                weights_gradient_kernel[(block.places * tiles, wide // two_depth)](
                    *operands[:2], both, *operands[3:], grad_rows if weighted else lse, block.gradient, *place, tiles,
                    n, b, c, WIDTH=wide, DEPTH=two_depth, R=two.rows, CLASSES=min(classes, two.classes),
                    OPERAND=operand, LABELS=target.by_label, WEIGHTED=weighted,
                    **config.options(two.warps, two.stages),
                )  # fmt: skip
                centre(block, grad_attention[here])
    if grad_attention is not None:
        grad_attention *= scale
    return torch.cat(sums).sum(dtype=torch.float64)
