"""Soft-target cross-entropy of any head's logits, against targets that are never written out.

With H_ki = l_k . y_i (for labels a gather, for probabilities a product):
  loss_k = T_k lse_k - M_k H_k^T          dM = lse mass^T - H          dl = T softmax - M Y
Cost per row: logits read twice and gradients written once (the second read comes from the L2 cache), b gathers or
2 b c operations, 2 b c for the gradient's targets; 2 c exponentials. Memory-bound for c of a hundred and more.
"""

import torch
import triton
import triton.language as tl

from . import config
from .mixed_large import mix_columns, row_factor
from .product import dot, round_operand
from .reduce import centre
from .sample import Sampler
from .scratch import blocks, width
from .stream import LN2, LOG2E
from .target import Target


@triton.jit
def load_logits(logits_ptr, l_row, l_class, k, j, rows_inside, c):
    """Logits (R, CLASSES) in float32, zero outside."""
    at = logits_ptr + k[:, None] * l_row + j[None, :] * l_class
    return tl.load(at, mask=rows_inside[:, None] & (j < c)[None, :], other=0.0)


@triton.jit(do_not_specialize=["stored", "rows", "tiles", "n", "b", "c", "first_location", "first", "ignore_index"])
def soft_kernel(
    logits_ptr, l_location, l_units, l_class, target_ptr, pitch, mass_ptr, keep, uniform_part, ignore_index,
    weights_ptr, inverse_ptr, grad_rows_ptr, rows_ptr, sums_ptr, gradient_ptr, weights_gradient_ptr, scale_ptr, scale,
    first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, OPERAND: tl.constexpr,
    LABELS: tl.constexpr, ROWS: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTS: tl.constexpr, WEIGHTED: tl.constexpr,
    SCALED: tl.constexpr, UNIT: tl.constexpr, OUT_UNIT: tl.constexpr,
):  # fmt: skip
    """Row losses, or their sum over the tile; gradients (r, n, c); d loss / d mu (places, stored, WIDTH)."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    real = row < rows
    # In units, so that the compiler sees how wide loads and stores may be.
    l_row, o_row = l_units * UNIT, (c // OUT_UNIT) * OUT_UNIT
    k, location = place * stored + row, place + first_location
    logits_ptr += location * l_location
    source = first + row.to(tl.int64)
    top = tl.full((R,), float("-inf"), tl.float32)
    z = tl.zeros((R,), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = load_logits(logits_ptr, l_row, l_class, source, j, real, c).to(tl.float32)
        score_sum += tl.sum(logits, 1)
        logits = tl.where((j < c)[None, :], logits * LOG2E, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        z = z * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        top = higher
    lse = top + tl.log2(z)
    # H of the logarithms of the softmax: it does not cancel. Low-precision products need the logits, which are exact.
    if LABELS or OPERAND == "fp32":
        base, rest = lse * LN2, lse * 0.0
    else:
        base, rest = lse * 0.0, lse * LN2
    score_sum -= base * c
    inverse = tl.load(inverse_ptr + k)
    factor = row_factor(grad_rows_ptr, location, n, first, row, rows, WEIGHTED)
    share = tl.zeros((R,), tl.float32)
    on_target = tl.zeros((R,), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        inside = i < b
        mass = tl.load(mass_ptr + i, mask=inside, other=0.0)
        if LABELS:
            label = tl.load(target_ptr + i, mask=inside, other=-1)
            known = inside & (label >= 0) & (label < c) & (label != ignore_index)
            at = logits_ptr + source[:, None] * l_row + label[None, :] * l_class
            hit = tl.load(at, mask=real[:, None] & known[None, :], other=0.0).to(tl.float32)
            hit = tl.where(known[None, :], hit - base[:, None], 0.0)
            spread = mass * uniform_part
        else:
            hit = tl.zeros((R, DEPTH), tl.float32)
            for column in range(0, c, CLASSES):
                j = column + tl.arange(0, CLASSES)
                logits = load_logits(logits_ptr, l_row, l_class, source, j, real, c)
                if OPERAND == "fp32":
                    logits -= base[:, None]
                y = tl.load(target_ptr + i[None, :] * pitch + j[:, None])
                hit = dot(round_operand(logits, OPERAND), round_operand(y, OPERAND), hit, OPERAND)
            spread = tl.where(inside, uniform_part, 0.0)
        hit = hit * keep + score_sum[:, None] * spread[None, :]
        at = k[:, None] * WIDTH + i[None, :]
        w = tl.load(weights_ptr + at).to(tl.float32) * inverse[:, None]
        share += tl.sum(w * mass[None, :], 1)
        on_target += tl.sum(w * hit, 1)
        if WEIGHTS:
            g = (rest[:, None] * mass[None, :] - hit) * factor[:, None]
            tl.store(weights_gradient_ptr + at, tl.where((c == 1) | ~inside[None, :], 0.0, g))
    loss = share * rest - on_target + share * 0.0  # a label that does not exist has a NaN mass
    loss = tl.where(c == 1, share * 0.0, loss)
    loss = tl.where(real, loss, 0.0)
    if ROWS:
        tl.store(rows_ptr + location * n + source, loss, mask=real)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(loss))
    if GRADIENT:
        if SCALED:
            scale = scale * tl.load(scale_ptr)
        factor *= scale
        spread_row = (share if LABELS else tl.where(inverse == 0, 0.0, 1.0)) * uniform_part
        for start in range(0, c, CLASSES):
            j = start + tl.arange(0, CLASSES)
            if LABELS:
                mixed = tl.zeros((R, CLASSES), tl.float32)
                for begin in range(0, WIDTH, DEPTH):
                    i = begin + tl.arange(0, DEPTH)
                    label = tl.load(target_ptr + i, mask=i < b, other=-1)
                    y = ((label[:, None] == j[None, :]) & (label != ignore_index)[:, None]).to(tl.float32)
                    w = tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :])
                    mixed = dot(w, round_operand(y, OPERAND), mixed, OPERAND)
            else:
                mixed = mix_columns(weights_ptr, k, target_ptr, pitch, j, WIDTH, DEPTH, R, CLASSES, OPERAND)
            mixed = mixed * (inverse * keep)[:, None] + spread_row[:, None]
            logits = load_logits(logits_ptr, l_row, l_class, source, j, real, c).to(tl.float32)
            delta = tl.exp2(logits * LOG2E - lse[:, None]) * share[:, None] - mixed
            delta = tl.where(c == 1, 0.0, delta * factor[:, None])
            out = gradient_ptr + (location * n + source)[:, None] * o_row + j[None, :]
            tl.store(out, delta, mask=real[:, None] & (j < c)[None, :])


def launch(logits, target: Target, sampler: Sampler, rows, grad_rows, scale, gradient, grad_attention):
    """Fills rows (r, n), gradient (r, n, c), grad_attention (r, b), where given; returns the sum of all row losses."""
    r, n, c = logits.shape
    operand, wide, b = config.operand(logits), width(sampler.b), sampler.b
    shape = config.family().soft[operand]
    depth, classes = min(wide, shape.depth), min(config.power_of_two(max(16, c)), shape.classes)
    new, scaled, weighted = sampler.draw.seed.new_empty, isinstance(scale, torch.Tensor), grad_rows is not None
    values = target.values if target.by_label else target.packed(wide, -(-c // classes) * classes, logits.dtype)
    aligned = logits.stride(2) == 1 and logits.stride(0) * logits.itemsize % 16 == 0
    unit = config.unit(logits.stride(1)) if aligned else 1
    if grad_attention is not None:
        grad_attention.zero_()
    sums = []
    with config.on_device(logits):
        for block in blocks(sampler, r, logits.dtype, operand, grad_attention is not None, r):
            tiles = block.stored // shape.rows
            sums.append(new((block.places * tiles,), dtype=torch.float32))
            unused = sums[-1]
            soft_kernel[(block.places * tiles,)](
                logits, logits.stride(0), logits.stride(1) // unit, logits.stride(2), values, values.stride(0),
                target.mass, target.keep, target.uniform, target.ignore_index, block.weights, block.inverse,
                grad_rows if weighted else unused, unused if rows is None else rows, unused,
                unused if gradient is None else gradient, unused if block.gradient is None else block.gradient,
                scale if scaled else unused, 1.0 if scaled else scale,
                block.first_location, block.first, block.rows, block.stored, tiles, n, b, c,
                WIDTH=wide, DEPTH=depth, R=shape.rows, CLASSES=classes, OPERAND=operand, LABELS=target.by_label,
                ROWS=rows is not None, GRADIENT=gradient is not None, WEIGHTS=grad_attention is not None,
                WEIGHTED=weighted, SCALED=scaled, UNIT=unit, OUT_UNIT=config.unit(c),
                **config.options(shape.warps, shape.stages),
            )  # fmt: skip
            if grad_attention is not None:
                here = slice(block.first_location, block.first_location + block.places)
                centre(block, grad_attention[here])
    if grad_attention is not None:
        grad_attention *= scale
    return torch.cat(sums).sum(dtype=torch.float64)
