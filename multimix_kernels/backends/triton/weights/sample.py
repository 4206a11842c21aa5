"""Kernel and launcher that write weights to memory: the `sample` operator, and the scratch of the other operators.

A program draws one tile of rows. Bytes: those of the weights, written once. Operations: one gamma per weight, in about
110 lane-instructions on sm_90 (by the report of `aot`), of which the loop over rejects is a sixth.
"""

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from ...contract import Draw
from ..host import shapes as config
from ..products.dot import round_operand
from ..weights.stream import ACCURATE, HARDWARE, LOG_SPACE
from ..weights.tile import as_rows, draw_tile, row_sum

INTEGERS = ["first_location", "first", "stored", "tiles", "n", "m", "row_offset"]


@triton.jit(do_not_specialize=INTEGERS)
def sample_kernel(
    out_ptr, inverse_ptr, plain_ptr, first_location, first, stored, tiles,
    seed_ptr, alpha_ptr, attention_ptr, ignored_ptr, row_offset, n, b, m, low, low_rest, high, high_rest,
    E: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    KIND: tl.constexpr, PER_EXAMPLE: tl.constexpr, SUBSET: tl.constexpr,
    ATTENTION: tl.constexpr, IGNORED: tl.constexpr,
    OPERAND: tl.constexpr, SCRATCH: tl.constexpr, PLAIN: tl.constexpr, WIDTH: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Rows first ... first + stored - 1 of the locations first_location ... of the draw.

    Scratch rows are WIDTH wide with zeros past b, hold the weights as operands of matrix products, and come with the
    inverse of their sums, so that rounding leaves no bias. PLAIN also writes mu's derivative by the attention.
    """
    place = tl.program_id(0) // tiles
    k = (tl.program_id(0) % tiles).to(tl.int64) * R + tl.arange(0, R)
    even, odd, plain_even, plain_odd = draw_tile(
        seed_ptr, alpha_ptr, attention_ptr, ignored_ptr, place + first_location, k + first, row_offset, n, b, m,
        low, low_rest, high, high_rest, E, R, C, KIND, PER_EXAMPLE, SUBSET, ATTENTION, IGNORED,
        True, ASSEMBLY,
    )  # fmt: skip
    i = tl.arange(0, 2 * E * C)[None, :]
    width = WIDTH if SCRATCH else b
    at = (place.to(tl.int64) * stored + k)[:, None] * width
    inside = (k < stored)[:, None] & (i < width)
    even, odd = round_operand(even, OPERAND), round_operand(odd, OPERAND)
    tl.store(out_ptr + at + i, as_rows(even, odd, E, R, C), mask=inside)
    if SCRATCH:
        total = row_sum(even.to(tl.float32), odd.to(tl.float32))
        inverse = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        tl.store(inverse_ptr + place.to(tl.int64) * stored + k, inverse, mask=k < stored)
    if PLAIN:
        tl.store(plain_ptr + at + i, as_rows(plain_even, plain_odd, E, R, C), mask=inside)


class Sampler:
    """What names the weights of one operator call, prepared for kernels."""

    def __init__(self, b: int, attention: Tensor | None, ignored: Tensor | None, draw: Draw) -> None:
        self.b, self.draw = b, draw
        placeholder = draw.seed
        self.attention = placeholder if attention is None else attention.to(torch.float32).contiguous()
        self.left_out = None if ignored is None else ignored.contiguous().view(torch.int8)
        # Two examples to a word, as kernels draw them.
        self.ignored = placeholder if self.left_out is None else _even(self.left_out).view(torch.int16)
        self.flags = dict(
            KIND=_kind(draw), PER_EXAMPLE=draw.alpha is not None, SUBSET=draw.m < b,
            ATTENTION=attention is not None, IGNORED=ignored is not None,
        )  # fmt: skip

    def arguments(self) -> tuple:
        """The arguments seed_ptr ... high_rest of a kernel."""
        draw = self.draw
        alpha = draw.seed if draw.alpha is None else draw.alpha.contiguous()
        low, high = struct.unpack("2f", struct.pack("2f", draw.low, draw.high))
        return (
            draw.seed, alpha, self.attention, self.ignored, draw.row_offset, draw.n, self.b, draw.m,
            low, draw.low - low, high, draw.high - high,
        )  # fmt: skip

    def write(
        self, out: Tensor, inverse: Tensor | None, plain: Tensor | None, operand: str, first_location: int, first: int
    ) -> None:
        """Fills out (L, N, width) from the given location and row; with `inverse` (L, N) it is a scratch."""
        places, stored, width = out.shape
        shape = config.family(out).sampler(width, self.flags["KIND"] == LOG_SPACE.value)
        with config.on_device(out):
            tiles = triton.cdiv(stored, shape.rows)
            sample_kernel[(tiles * places,)](
                out, out if inverse is None else inverse, out if plain is None else plain,
                first_location, first, stored, tiles, *self.arguments(), shape.registers, shape.rows, shape.groups,
                **self.flags, OPERAND=operand, SCRATCH=inverse is not None, PLAIN=plain is not None, WIDTH=width,
                ASSEMBLY=config.assembly(out), **config.options(shape.warps, 1)
            )  # fmt: skip


def _even(x: Tensor) -> Tensor:
    return x if x.shape[0] % 2 == 0 and x.data_ptr() % 2 == 0 else pad(x, (0, x.shape[0] % 2)).clone()


def _kind(draw: Draw) -> int:
    if draw.alpha is not None or draw.low < 0.3:
        return LOG_SPACE.value  # values on the device cannot be looked at: the widest arithmetic
    return ACCURATE.value if draw.high > 4 or torch.version.hip else HARDWARE.value


def sample(b, r, dtype, attention, ignored, *draw):
    """Interpolation weights (r, n, b)."""
    sampler = Sampler(b, attention, ignored, Draw(*draw))
    out = sampler.draw.seed.new_empty((r, sampler.draw.n, b), dtype=dtype)
    sampler.write(out, None, None, config.OPERANDS[dtype], 0, 0)
    return out
