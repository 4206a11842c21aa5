"""Partial sums of gradients, added up in a fixed order: no atomics, the same bits in every run.

`add_up` reads each partial sum once (4 bytes, 1 addition) and writes the gradient once; the targets' half of it costs a
product of 2 b b c operations in float32. `centre` turns gradients by the weights into gradients by the attention: 12
bytes and 5 operations per weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import config
from .product import dot
from .scratch import Block


@triton.jit(do_not_specialize=["splits", "b", "c", "ignore_index"])
def add_up_kernel(
    partial_ptr, out_ptr, scale_ptr, scale, splits, b, c,
    target_ptr, t_example, t_class, mass_ptr, keep, uniform_part, ignore_index,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, GRAM: tl.constexpr, LABELS: tl.constexpr, SCALED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """out (places, b, c) = scale * sum over splits of partial (places, splits, HEIGHT, WIDTH), transposed.

    GRAM: rows GRAM ... of a partial sum are those of M^T M for the weights M; that times the targets is subtracted.
    """
    place = tl.program_id(2).to(tl.int64)
    j = tl.program_id(0) * TILE + tl.arange(0, TILE)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    base = partial_ptr + place * splits * (HEIGHT * WIDTH)
    total = tl.zeros((TILE, TILE), tl.float32)
    for split in range(splits):
        at = base + split * (HEIGHT * WIDTH)
        total += tl.load(at + j[:, None] * WIDTH + i[None, :], mask=(j < c)[:, None] & (i < WIDTH)[None, :], other=0.0)
    if GRAM >= 0:
        for start in range(0, b, TILE):
            e = start + tl.arange(0, TILE)
            gram = tl.zeros((TILE, TILE), tl.float32)
            for split in range(splits):
                at = base + split * (HEIGHT * WIDTH) + GRAM * WIDTH
                gram += tl.load(
                    at + e[:, None] * WIDTH + i[None, :], mask=(e < b)[:, None] & (i < WIDTH)[None, :], other=0.0
                )
            if LABELS:
                label = tl.load(target_ptr + e, mask=e < b, other=-1)
                mass = tl.load(mass_ptr + e, mask=e < b, other=0.0)
                y = ((label[None, :] == j[:, None]) & (label[None, :] != ignore_index)).to(tl.float32) * keep
                y += mass[None, :] * uniform_part
            else:
                inside = (e < b)[None, :] & (j < c)[:, None]
                at = target_ptr + e[None, :].to(tl.int64) * t_example + j[:, None] * t_class
                y = tl.load(at, mask=inside, other=0.0).to(tl.float32) * keep + tl.where(inside, uniform_part, 0.0)
            total -= dot(y, gram, tl.zeros((TILE, TILE), tl.float32), "fp32")
    if GRAM >= 0:  # one class: exactly nothing, whatever the rounding
        total = tl.where(c == 1, total * 0.0, total)
    if SCALED:
        scale = scale * tl.load(scale_ptr)
    out = out_ptr + (place * b + i[:, None]) * c + j[None, :]
    tl.store(out, tl.trans(total) * scale, mask=(i < b)[:, None] & (j < c)[None, :])


def add_up(partial: Tensor, out: Tensor, scale, gram: int | None, target) -> None:
    """out (places, b, c) from partial (places, splits, height, width). scale: a float, or one element on the device."""
    places, b, c = out.shape
    _, splits, height, width = partial.shape
    tile = config.ADD_UP_TILE
    if target is None:
        arguments = (partial, 0, 0, partial, 0.0, 0.0, 0)
    else:
        strides = (1, 0) if target.by_label else target.values.stride()
        arguments = (target.values, *strides, target.mass, target.keep, target.uniform, target.ignore_index)
    scaled = isinstance(scale, Tensor)
    add_up_kernel[(triton.cdiv(c, tile), triton.cdiv(b, tile), places)](
        partial, out, scale if scaled else partial, 1.0 if scaled else scale, splits, b, c, *arguments,
        HEIGHT=height, WIDTH=width, GRAM=-1 if gram is None else gram, LABELS=target is not None and target.by_label,
        SCALED=scaled, TILE=tile, **config.options(4, 1)
    )  # fmt: skip


@triton.jit(do_not_specialize=["stored", "splits"])
def centre_kernel(
    weights_ptr, inverse_ptr, plain_ptr, gradient_ptr, partial_ptr, stored, splits, WIDTH: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """partial (places, splits, WIDTH): sums over rows of plain_i (g_i - sum_j mu_j g_j) for g = d loss / d mu."""
    place = (tl.program_id(0) // splits).to(tl.int64)
    i = tl.arange(0, B)
    total = tl.zeros((B,), tl.float32)
    for tile in range(tl.program_id(0) % splits, tl.cdiv(stored, R), splits):
        k = place * stored + tile * R + tl.arange(0, R)
        at = k[:, None] * WIDTH + i[None, :]
        inside = ((tile * R + tl.arange(0, R)) < stored)[:, None] & (i < WIDTH)[None, :]
        inverse = tl.load(inverse_ptr + k, mask=(tile * R + tl.arange(0, R)) < stored, other=0.0)
        mu = tl.load(weights_ptr + at, mask=inside, other=0.0).to(tl.float32) * inverse[:, None]
        plain = tl.load(plain_ptr + at, mask=inside, other=0.0)
        g = tl.load(gradient_ptr + at, mask=inside, other=0.0)
        total += tl.sum(plain * (g - tl.sum(mu * g, 1)[:, None]), 0)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * WIDTH + i, total, mask=i < WIDTH)


def centre(block: Block, out: Tensor) -> None:
    """Adds to out (places, b) the attention's gradient from that of the weights, for one super-block."""
    if block.plain is None or block.gradient is None:
        raise ValueError("block: drawn without what attention gradients need")
    places, stored, width = block.weights.shape
    examples = config.power_of_two(width)
    rows = max(1, 4096 // examples)
    splits = max(1, min(triton.cdiv(stored, rows), config.programs(out) * 4 // places))
    partial = out.new_empty((places, splits, width), dtype=torch.float32)
    centre_kernel[(places * splits,)](
        block.weights, block.inverse, block.plain, block.gradient, partial, stored, splits,
        WIDTH=width, R=rows, B=examples, **config.options(4, 1),
    )  # fmt: skip
    out += partial.sum(1)[:, : out.shape[1]]
