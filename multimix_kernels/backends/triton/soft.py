"""Soft-target cross-entropy of any head's logits, against targets that are never written out.

With H_ki = l_k . y_i (for labels a gather, for probabilities a product):
  loss_k = T_k lse_k - M_k H_k^T          dM = lse mass^T - H          dl = T softmax - M Y
Cost per row: logits read twice and gradients written once (the second read comes from the L2 cache), b gathers or
2 b c operations, 2 b c for the gradient's targets; 2 c exponentials. Memory-bound for c of a hundred and more.
"""

import torch
import triton
import triton.language as tl

from .host import shapes as config
from .host.blocks import Block, blocks, width
from .mixed.large import add_to_sum, mix_columns, row_factor
from .products.dot import dot, round_operand
from .products.operands import Prepared, load_padded, prepare
from .products.targets import Target, Upstream, upstream_arguments
from .sums import centre
from .weights.sample import Sampler
from .weights.stream import LEAST, LN2, LOG2E, LOWEST


@triton.jit
def load_logits(logits_ptr, l_row, l_class, k, j, rows_inside, c):
    """Logits (R, CLASSES), zero outside."""
    at = logits_ptr + k[:, None] * l_row + j[None, :].to(tl.int64) * l_class
    return tl.load(at, mask=rows_inside[:, None] & (j < c)[None, :], other=0.0)


INTEGERS = [
    "l_units",
    "stored",
    "rows",
    "tiles",
    "n",
    "b",
    "c",
    "first_location",
    "first",
    "l_first_location",
    "l_first",
    "o_rows",
]


@triton.jit(do_not_specialize=[*INTEGERS, "ignore_index"])
def soft_kernel(
    logits_ptr, l_location, l_units, l_class, l_first_location, l_first, o_rows,
    target_ptr, t_example, t_class, kept_ptr, mass_ptr, keep, uniform_part, ignore_index, weights_ptr, inverse_ptr,
    grad_rows_ptr, g_location, g_row, grad_scale_ptr, rows_ptr, sums_ptr, gradient_ptr, weights_gradient_ptr,
    scale_ptr, scale, first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, OPERAND: tl.constexpr,
    PACKED: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr, GRADIENT: tl.constexpr, WEIGHTS: tl.constexpr,
    WEIGHTED: tl.constexpr, SCALED: tl.constexpr, UNIT: tl.constexpr, OUT_UNIT: tl.constexpr,
):  # fmt: skip
    """Row losses; their sum over the tile, added to sums; gradients by logits; d loss / d mu (places, stored, WIDTH).

    Logits, and their gradients with o_rows rows to a location, begin at l_first_location and l_first.
    """
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    real = row < rows
    # In units, so that the compiler sees how wide loads and stores may be.
    l_row, o_row = l_units.to(tl.int64) * UNIT, (c // OUT_UNIT) * OUT_UNIT
    WIDE: tl.constexpr = logits_ptr.dtype.element_ty == tl.float32
    FLOOR: tl.constexpr = -65504.0 if OPERAND == "fp16" else LOWEST
    k, location = place * stored + row, place + first_location
    logits_ptr += (place + l_first_location) * l_location
    source = l_first + row.to(tl.int64)
    top = tl.full((R,), LEAST, tl.float32)
    z = tl.zeros((R,), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = load_logits(logits_ptr, l_row, l_class, source, j, real, c).to(tl.float32)
        # A class masked with -inf costs nothing without smoothing.
        masked = (logits == float("-inf")) & (uniform_part == 0)
        score_sum += tl.sum(tl.where(masked, 0.0, logits), 1)
        logits = tl.where((j < c)[None, :], logits * LOG2E, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        z = z * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        top = higher
    lse = top + tl.log2(z)
    # H of the logarithms of the softmax: it does not cancel. Products of logits in low precision need these, unrounded.
    if LABELS or WIDE:
        base, rest = lse * LN2, lse * 0.0
    else:
        base, rest = lse * 0.0, lse * LN2
    score_sum -= base * c
    inverse = tl.load(inverse_ptr + k)
    factor = row_factor(grad_rows_ptr, g_location, g_row, grad_scale_ptr, location, first, row, rows, WEIGHTED)
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
                if WIDE:
                    logits -= base[:, None]
                logits = tl.where(logits == float("-inf"), FLOOR, logits)
                y = load_padded(target_ptr, t_example, t_class, i[None, :], j[:, None], kept_ptr, c, PACKED)
                hit = dot(round_operand(logits, OPERAND), round_operand(y, OPERAND), hit, OPERAND)
            spread = tl.where(inside, uniform_part, 0.0)
        hit = hit * keep + score_sum[:, None] * spread[None, :]
        at = k[:, None] * WIDTH + i[None, :]
        w = tl.load(weights_ptr + at).to(tl.float32) * inverse[:, None]
        share += tl.sum(w * mass[None, :], 1)
        on_target += tl.sum(tl.where(w == 0, 0.0, w * hit), 1)  # of a masked class too
        if WEIGHTS:
            g = (rest[:, None] * mass[None, :] - hit) * factor[:, None]
            tl.store(weights_gradient_ptr + at, tl.where((c == 1) | ~inside[None, :], 0.0, g))
    loss = share * rest - on_target + share * 0.0  # a label that does not exist has a NaN mass
    loss = tl.where(c == 1, share * 0.0, loss)
    loss = tl.where(real, loss, 0.0)
    if ROWS:
        tl.store(rows_ptr + location * n + first + row, loss, mask=real)
    add_to_sum(sums_ptr, loss)
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
                mixed = mix_columns(
                    weights_ptr, k, target_ptr, t_example, t_class, j, kept_ptr, c,
                    WIDTH, DEPTH, R, CLASSES, OPERAND, PACKED,
                )  # fmt: skip
            mixed = mixed * (inverse * keep)[:, None] + spread_row[:, None]
            logits = load_logits(logits_ptr, l_row, l_class, source, j, real, c).to(tl.float32)
            delta = tl.exp2(logits * LOG2E - lse[:, None]) * share[:, None] - mixed
            delta = tl.where(c == 1, 0.0, delta * factor[:, None])
            out = gradient_ptr + ((place + l_first_location) * o_rows + source)[:, None] * o_row + j[None, :]
            tl.store(out, delta, mask=real[:, None] & (j < c)[None, :])


def target_for(target: Target, left_out, wide: int, c: int, classes: int, dtype: torch.dtype) -> Prepared:
    """Masses, and of probabilities padded targets, if that is not too large."""
    width_of_all = -(-c // classes) * classes
    padded = not target.by_label and wide * width_of_all * dtype.itemsize <= config.PACKED_BYTES
    return prepare(None, target, left_out, wide, width_of_all, "", targets=dtype if padded else None)


def launch_block(
    logits, l_first_location: int, l_first: int, target: Target, ready: Prepared, block: Block, sampler: Sampler,
    operand: str, rows, sums, upstream: Upstream | None, scale, gradient, want_weights: bool,
) -> None:  # fmt: skip
    """One super-block; its logits and their gradient (contiguous) begin at the given location and row."""
    _, _, c = logits.shape
    shape, wide = config.family(logits).soft[operand], width(sampler.b)
    depth, classes = min(wide, shape.depth), min(config.power_of_two(max(16, c)), shape.classes)
    scaled, tiles = isinstance(scale, torch.Tensor), block.stored // shape.rows
    location_stride = logits.stride(0) if logits.shape[0] > 1 else 0
    aligned = logits.stride(2) == 1 and location_stride * logits.itemsize % 16 == 0
    unit = config.unit(logits.stride(1)) if aligned else 1
    packed = target.by_label or ready.targets is not ready.mass
    values = target.values if not packed or target.by_label else ready.targets
    soft_kernel[(block.places * tiles,)](
        logits, location_stride, logits.stride(1) // unit, logits.stride(2), l_first_location, l_first,
        logits.shape[1], values, *((0, 0) if target.by_label else values.stride()), ready.kept, ready.mass,
        target.keep, target.uniform, target.ignore_index, block.weights, block.inverse,
        *upstream_arguments(upstream, sums), sums if rows is None else rows, sums,
        sums if gradient is None else gradient, block.gradient if want_weights else sums,
        scale if scaled else sums, 1.0 if scaled else scale,
        block.first_location, block.first, block.rows, block.stored, tiles, sampler.draw.n, sampler.b, c,
        WIDTH=wide, DEPTH=depth, R=shape.rows, CLASSES=classes, OPERAND=operand, PACKED=packed, LABELS=target.by_label,
        ROWS=rows is not None, GRADIENT=gradient is not None, WEIGHTS=want_weights, WEIGHTED=upstream is not None,
        SCALED=scaled, UNIT=unit, OUT_UNIT=config.unit(c), **config.options(shape.warps, shape.stages if packed else 1),
    )  # fmt: skip


def new_sums(block: Block, rows: int) -> torch.Tensor:
    """A sum for each tile of the first, largest block."""
    return block.inverse.new_zeros((block.places * (block.stored // rows),), dtype=torch.float64)


def launch(logits, target: Target, sampler: Sampler, rows, upstream: Upstream | None, scale, gradient, grad_attention):
    """Fills rows (r, n), gradient (r, n, c), grad_attention (r, b), where given.

    Returns the programs' sums of row losses, in float64, and the masses of the targets.
    """
    r, _, c = logits.shape
    operand, wide = config.operand(logits), width(sampler.b)
    shape = config.family(logits).soft[operand]
    want_weights = grad_attention is not None
    if want_weights:
        grad_attention.zero_()
    with config.on_device(logits):
        classes = min(config.power_of_two(max(16, c)), shape.classes)
        ready = target_for(target, sampler.left_out, wide, c, classes, logits.dtype)
        sums = None
        for block in blocks(sampler, r, logits.dtype, operand, want_weights, r):
            sums = new_sums(block, shape.rows) if sums is None else sums
            launch_block(
                logits, block.first_location, block.first, target, ready, block, sampler, operand, rows, sums,
                upstream, scale, gradient, want_weights,
            )  # fmt: skip
            if want_weights:
                here = slice(block.first_location, block.first_location + block.places)
                centre(block, sampler.attention[here], grad_attention[here])
    if want_weights:
        grad_attention *= scale
    return sums, ready.mass
