"""Mixed embeddings, and their gradients by the values and by the attention.

With weights M (rows, b) in the scratch and values V (b, d): out = M V, dV = M^T G, dM = G V^T. Each costs 2 b d
operations per row, and d bytes-per-element of it in device memory: memory-bound below b of about 200 in bfloat16.
"""

import torch
import triton
import triton.language as tl

from ..reference.stream import Draw
from . import config
from .mixed_large import mix_columns
from .product import dot, round_operand
from .reduce import add_up, centre
from .sample import Sampler
from .scratch import blocks, width

INTEGERS = ["stored", "rows", "tiles", "splits", "n", "d", "first_location", "first"]


@triton.jit(do_not_specialize=INTEGERS)
def mix_kernel(
    values_ptr, weights_ptr, inverse_ptr, out_ptr,
    pitch, first_location, first, rows, stored, tiles, n, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """out (r, n, d) = mu @ values, one tile (R, FEATURES) of it."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k, location = place * stored + row, place + first_location
    f = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    values_ptr += place * (WIDTH * pitch)
    mixed = mix_columns(weights_ptr, k, values_ptr, pitch, f, WIDTH, DEPTH, R, FEATURES, OPERAND)
    mixed = (mixed * tl.load(inverse_ptr + k)[:, None]).to(out_ptr.dtype.element_ty)
    out = out_ptr + (location * n + first + row)[:, None] * d + f[None, :]
    tl.store(out, mixed, mask=(row < rows)[:, None] & (f < d)[None, :])


@triton.jit(do_not_specialize=INTEGERS)
def values_gradient_kernel(
    grad_ptr, g_location, g_row, g_feature, weights_ptr, inverse_ptr, partial_ptr,
    first_location, first, rows, stored, splits, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, HEIGHT: tl.constexpr,
    OPERAND: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Adds a super-block's grad^T mu to partial (places, splits, HEIGHT, WIDTH)."""
    place = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    f = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    i = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    at = (tl.program_id(0).to(tl.int64) * HEIGHT + f[:, None]) * WIDTH + i[None, :]
    total = tl.zeros((FEATURES, DEPTH), tl.float32) if FIRST else tl.load(partial_ptr + at)
    grad_ptr += (place + first_location) * g_location
    for tile in range(split, tl.cdiv(rows, R), splits):
        row = tile * R + tl.arange(0, R)
        k, source = place * stored + row, first + row.to(tl.int64)
        g = tl.load(grad_ptr + source[None, :] * g_row + f[:, None] * g_feature,
                    mask=(row < rows)[None, :] & (f < d)[:, None], other=0.0)  # fmt: skip
        g = round_operand(g.to(tl.float32) * tl.load(inverse_ptr + k)[None, :], OPERAND)
        total = dot(g, tl.load(weights_ptr + k[:, None] * WIDTH + i[None, :]), total, OPERAND)
    tl.store(partial_ptr + at, total)


@triton.jit(do_not_specialize=INTEGERS)
def weights_gradient_kernel(
    grad_ptr, g_location, g_row, g_feature, values_ptr, pitch, out_ptr,
    first_location, first, rows, stored, tiles, d,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, FEATURES: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """out (places, stored, WIDTH) = grad @ values^T."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    i = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    grad_ptr += (place + first_location) * g_location
    values_ptr += place * (WIDTH * pitch)
    source = first + row.to(tl.int64)
    total = tl.zeros((R, DEPTH), tl.float32)
    for start in range(0, d, FEATURES):
        f = start + tl.arange(0, FEATURES)
        g = tl.load(grad_ptr + source[:, None] * g_row + f[None, :] * g_feature,
                    mask=(row < rows)[:, None] & (f < d)[None, :], other=0.0)  # fmt: skip
        v = tl.load(values_ptr + i[None, :] * pitch + f[:, None])
        total = dot(round_operand(g, OPERAND), round_operand(v, OPERAND), total, OPERAND)
    tl.store(out_ptr + (place * stored + row)[:, None] * WIDTH + i[None, :], total)


def _sizes(values, sampler, table):
    operand = config.operand(values)
    shape, wide = table[operand], width(sampler.b)
    depth, features = min(wide, shape.depth), min(config.power_of_two(max(16, values.shape[2])), shape.classes)
    sizes = dict(WIDTH=wide, DEPTH=depth, R=shape.rows, FEATURES=features, OPERAND=operand)
    return shape, sizes, config.options(shape.warps, shape.stages)


def _pack(values, wide: int, features: int):
    """Padded values (L, wide, features)."""
    packed = values.new_zeros((values.shape[0], wide, features))
    packed[:, : values.shape[1], : values.shape[2]] = values
    return packed


def mix(values, attention, ignored, draw):
    """Convex combinations (r, n, d)."""
    r, b, d = values.shape
    sampler = Sampler(b, attention, ignored, Draw(*draw))
    n = sampler.draw.n
    out = values.new_empty((r, n, d))
    shape, sizes, options = _sizes(values, sampler, config.family().two_accumulators)
    height = triton.cdiv(d, sizes["FEATURES"]) * sizes["FEATURES"]
    most = max(1, config.PARTIAL_BYTES // (values.itemsize * height * sizes["WIDTH"]))
    with config.on_device(values):
        for block in blocks(sampler, r, values.dtype, sizes["OPERAND"], False, most):
            if block.first == 0:
                packed = _pack(values[block.first_location :][: block.places], sizes["WIDTH"], height)
            tiles = block.stored // shape.rows
            mix_kernel[(block.places * tiles, triton.cdiv(d, sizes["FEATURES"]))](
                packed, block.weights, block.inverse, out, height, block.first_location, block.first,
                block.rows, block.stored, tiles, n, d, **sizes, **options,
            )  # fmt: skip
    return out


def mix_backward(grad, values, want_values, want_attention, attention, ignored, draw):
    """Gradients of values (r, b, d) and attention (r, b), in float32."""
    r, b, d = values.shape
    sampler = Sampler(b, attention, ignored, Draw(*draw))
    grad_values = values.new_empty((r, b, d) if want_values else (0,), dtype=torch.float32)
    grad_attention = values.new_zeros((r, b) if want_attention else (0,), dtype=torch.float32)
    shape, sizes, options = _sizes(values, sampler, config.family().large)
    wide, operand, columns = sizes["WIDTH"], sizes["OPERAND"], sizes["WIDTH"] // sizes["DEPTH"]
    two, two_sizes, two_options = _sizes(values, sampler, config.family().two_accumulators)
    chunks = triton.cdiv(d, sizes["FEATURES"])
    height = chunks * sizes["FEATURES"]
    most = max(1, config.PARTIAL_BYTES // (4 * height * wide))
    partial = packed = values
    with config.on_device(values):
        for block in blocks(sampler, r, values.dtype, operand, want_attention, most):
            tiles = block.stored // shape.rows
            here = slice(block.first_location, block.first_location + block.places)
            place = (block.first_location, block.first, block.rows, block.stored)
            if want_values:
                if block.first == 0:
                    splits = config.programs(values) * shape.occupancy // (block.places * chunks * columns)
                    splits = max(1, min(splits, most // block.places, tiles))
                    partial = values.new_empty((block.places, splits, height, wide), dtype=torch.float32)
                values_gradient_kernel[(block.places * splits, chunks, columns)](
                    grad, *grad.stride(), block.weights, block.inverse, partial, *place, splits, d,
                    **sizes, HEIGHT=height, FIRST=block.first == 0, **options,
                )  # fmt: skip
                if block.last:
                    add_up(partial, grad_values[here], 1.0, None, None)
            if want_attention:
                if block.first == 0:
                    packed = _pack(values[here], wide, height)
                tiles = block.stored // two.rows
                weights_gradient_kernel[(block.places * tiles, wide // two_sizes["DEPTH"])](
                    grad, *grad.stride(), packed, height, block.gradient, *place, tiles, d, **two_sizes, **two_options
                )
                centre(block, grad_attention[here])
    return grad_values, grad_attention
