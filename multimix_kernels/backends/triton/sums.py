"""Partial sums of gradients, added up in a fixed order: no atomics, the same bits in every run.

`add_up` reads each partial sum once (4 bytes, 1 addition) and writes the gradient once; the targets' half of it costs a
product of 2 b b c operations in float32. Where even one partial sum is too large it is the gradient itself. `centre`
turns gradients by the weights into gradients by the attention: 8 bytes and 5 operations per weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .host import shapes as config
from .host.blocks import Block
from .products.dot import dot


@triton.jit
def load_partial(pointer, place, j, i, b, c, FIRST: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
                 IN_PLACE: tl.constexpr):  # fmt: skip
    """A program's partial sum, tile (j, i) of (HEIGHT, WIDTH), or of the gradient itself, (b, c); zeros at FIRST."""
    if FIRST:
        total = tl.zeros((j.shape[0], i.shape[0]), tl.float32)
    elif IN_PLACE:
        inside = (j < c)[:, None] & (i < b)[None, :]
        total = tl.load(pointer + (place * b + i[None, :]) * c + j[:, None], mask=inside, other=0.0)
    else:
        total = tl.load(pointer + (tl.program_id(0).to(tl.int64) * HEIGHT + j[:, None]) * WIDTH + i[None, :])
    return total


@triton.jit
def store_partial(pointer, total, place, j, i, b, c, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
                  IN_PLACE: tl.constexpr):  # fmt: skip
    """Writes what load_partial reads."""
    if IN_PLACE:
        inside = (j < c)[:, None] & (i < b)[None, :]
        tl.store(pointer + (place * b + i[None, :]) * c + j[:, None], total, mask=inside)
    else:
        tl.store(pointer + (tl.program_id(0).to(tl.int64) * HEIGHT + j[:, None]) * WIDTH + i[None, :], total)


@triton.jit(do_not_specialize=["splits", "b", "c", "ignore_index"])
def add_up_kernel(
    partial_ptr, p_place, p_split, p_class, p_example, gram_ptr, g_place, g_split, out_ptr, scale_ptr, scale,
    splits, b, c, target_ptr, t_example, t_class, mass_ptr, keep, uniform_part, ignore_index,
    WIDTH: tl.constexpr, GRAM: tl.constexpr, LABELS: tl.constexpr, SCALED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out (places, b, c) = scale * sum over splits of partial (classes, examples).

    GRAM: gram is M^T M for the weights M, of each split; that times the targets is subtracted.
    """
    place = tl.program_id(2).to(tl.int64)
    j = tl.program_id(0) * TILE + tl.arange(0, TILE)
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    base = partial_ptr + place * p_place + j[:, None].to(tl.int64) * p_class + i[None, :].to(tl.int64) * p_example
    real = (j < c)[:, None] & (i < b)[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)
    for split in range(splits):
        total += tl.load(base + split * p_split, mask=real, other=0.0)
    if GRAM:
        for start in range(0, b, TILE):
            e = start + tl.arange(0, TILE)
            both = (e < b)[:, None] & (i < b)[None, :]
            at = gram_ptr + place * g_place + e[:, None] * WIDTH + i[None, :]
            gram = tl.zeros((TILE, TILE), tl.float32)
            for split in range(splits):
                gram += tl.load(at + split * g_split, mask=both, other=0.0)
            if LABELS:
                label = tl.load(target_ptr + e, mask=e < b, other=-1)
                mass = tl.load(mass_ptr + e, mask=e < b, other=0.0)
                y = ((label[None, :] == j[:, None]) & (label[None, :] != ignore_index)).to(tl.float32) * keep
                y += mass[None, :] * uniform_part
            else:
                inside = (e < b)[None, :] & (j < c)[:, None]
                at = target_ptr + e[None, :].to(tl.int64) * t_example + j[:, None].to(tl.int64) * t_class
                y = tl.load(at, mask=inside, other=0.0).to(tl.float32) * keep + tl.where(inside, uniform_part, 0.0)
            total -= dot(y, gram, tl.zeros((TILE, TILE), tl.float32), "fp32")
        # One class: exactly nothing, whatever the rounding.
        total = tl.where(c == 1, total * 0.0, total)
    if SCALED:
        scale = scale * tl.load(scale_ptr)
    out = out_ptr + (place * b + i[:, None]) * c + j[None, :]
    tl.store(out, tl.trans(total) * scale, mask=(i < b)[:, None] & (j < c)[None, :])


def fits(height: int, width: int) -> bool:
    """Whether partial sums (height, width) are kept apart from the gradient."""
    return 4 * height * width <= config.PARTIAL_BYTES


def add_up(partial: Tensor, out: Tensor, scale, gram: Tensor | None = None, target=None, mass=None) -> None:
    """out (places, b, c) from partial (places, splits, height, width), or in place from partial = out.

    scale: a float, or one element on the device. gram (places, splits, width, width).
    """
    places, b, c = out.shape
    tile = config.ADD_UP_TILE
    in_place = partial is out
    strides = (b * c, 0, 1, c) if in_place else (*partial.stride()[:3], 1)
    if target is None:
        arguments = (out, 0, 0, out, 0.0, 0.0, 0)
    else:
        t_strides = (1, 0) if target.by_label else target.values.stride()
        arguments = (target.values, *t_strides, mass, target.keep, target.uniform, target.ignore_index)
    scaled = isinstance(scale, Tensor)
    add_up_kernel[(triton.cdiv(c, tile), triton.cdiv(b, tile), places)](
        partial, *strides, out if gram is None else gram, *((0, 0) if gram is None else gram.stride()[:2]), out,
        scale if scaled else out, 1.0 if scaled else scale, 1 if in_place else partial.shape[1], b, c, *arguments,
        WIDTH=1 if gram is None else gram.shape[3], GRAM=gram is not None,
        LABELS=target is not None and target.by_label, SCALED=scaled, TILE=tile, **config.options(4, 1)
    )  # fmt: skip


@triton.jit(do_not_specialize=["stored", "splits", "b"])
def centre_kernel(
    attention_ptr, plain_ptr, gradient_ptr, partial_ptr, stored, splits, b, WIDTH: tl.constexpr,
    R: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """partial (places, splits, WIDTH): sums over rows of plain_i (g_i - sum_j mu_j g_j) for g = d loss / d mu.

    mu is attention times plain: weights in the scratch are rounded.
    """
    place = (tl.program_id(0) // splits).to(tl.int64)
    i = tl.arange(0, B)
    attention = tl.load(attention_ptr + place * b + i, mask=i < b, other=0.0)
    total = tl.zeros((B,), tl.float32)
    for tile in range(tl.program_id(0) % splits, tl.cdiv(stored, R), splits):
        k = place * stored + tile * R + tl.arange(0, R)
        at = k[:, None] * WIDTH + i[None, :]
        inside = ((tile * R + tl.arange(0, R)) < stored)[:, None] & (i < WIDTH)[None, :]
        plain = tl.load(plain_ptr + at, mask=inside, other=0.0)
        # Without attention `plain` may be infinite.
        mu = tl.where(attention[None, :] == 0, 0.0, plain * attention[None, :])
        g = tl.load(gradient_ptr + at, mask=inside, other=0.0)
        centred = g - tl.sum(mu * g, 1)[:, None]
        total += tl.sum(tl.where(centred == 0, 0.0, plain * centred), 0)
    tl.store(partial_ptr + tl.program_id(0).to(tl.int64) * WIDTH + i, total, mask=i < WIDTH)


def centre(block: Block, attention: Tensor, out: Tensor) -> None:
    """Adds to out (places, b) the attention's gradient from that of the weights, for one super-block."""
    if block.plain is None or block.gradient is None:
        raise ValueError("block: drawn without what attention gradients need")
    places, stored, width = block.plain.shape
    examples = config.power_of_two(width)
    rows = max(1, 4096 // examples)
    most = min(config.programs(out) * 4, config.PARTIAL_BYTES // (4 * width)) // places
    splits = max(1, min(triton.cdiv(stored, rows), most))
    partial = out.new_empty((places, splits, width), dtype=torch.float32)
    centre_kernel[(places * splits,)](
        attention, block.plain, block.gradient, partial, stored, splits, out.shape[1],
        WIDTH=width, R=rows, B=examples, **config.options(4, 1),
    )  # fmt: skip
    out += partial.sum(1)[:, : out.shape[1]]
