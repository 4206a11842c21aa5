"""Kernel and launcher that write weights to memory: the `sample` operator, and the scratch of the other operators.

A program draws one tile of rows; beside them others prepare operands, where those of the scratch are the first of some
locations. Bytes: those of the weights, written once. Operations: one gamma per weight, in about
110 lane-instructions on sm_90 (by the report of `aot`), of which the loop over rejects is a sixth.
"""

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from ...contract import Draw
from ..host import device, shapes
from ..host.kernel import kernel
from ..products.dot import round_operand
from ..products.operands import Preparation, prepare_examples
from .stream import ACCURATE, HARDWARE, LOG_SPACE
from .tile import DrawNames, as_rows, draw_tile, not_too_small, row_sum

# The least concentrations at which weights keep 1e-5 with float32 logarithms, and with a GPU's approximate ones; the
# greatest at which they do with the latter.
ACCURATE_FROM, HARDWARE_FROM, HARDWARE_TO = 0.3, 0.5, 4.0
INTEGERS = ["first_location", "first", "stored", "tiles", "n", "b", "m", "row_offset", "preparing", "ignore_index", "c"]


@triton.jit
def draw_rows(
    program, out_ptr, inverse_ptr, plain_ptr, first_location, first, stored, tiles, draw, row_offset, n, b, m,
    E: tl.constexpr, R: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, SUBSET: tl.constexpr,
    OPERAND: tl.constexpr, WIDTH: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """One tile of rows to memory."""
    place = program // tiles
    k = (program % tiles).to(tl.int64) * R + tl.arange(0, R)
    even, odd, plain_even, plain_odd = draw_tile(
        draw, place + first_location, k + first, row_offset, n, b, m, E, R, C, KIND, SUBSET,
        WHOLE=True, ASSEMBLY=ASSEMBLY,
    )  # fmt: skip
    i = tl.arange(0, 2 * E * C)[None, :]
    width = b if inverse_ptr is None else WIDTH
    at = (place.to(tl.int64) * stored + k)[:, None] * width
    inside = (k < stored)[:, None] & (i < width)
    if inverse_ptr is not None and (draw.attention is not None or KIND == LOG_SPACE or OPERAND == "fp16"):
        even, odd = not_too_small(even, OPERAND), not_too_small(odd, OPERAND)
    even, odd = round_operand(even, OPERAND), round_operand(odd, OPERAND)  # (E, R, C)
    tl.store(out_ptr + at + i, as_rows(even, odd, E, R, C), mask=inside)
    if inverse_ptr is not None:
        total = row_sum(even.to(tl.float32), odd.to(tl.float32))
        inverse = tl.where(total == 0, 0.0, 1.0 / tl.where(total == 0, 1.0, total))
        tl.store(inverse_ptr + place.to(tl.int64) * stored + k, inverse, mask=k < stored)
    if plain_ptr is not None:
        tl.store(plain_ptr + at + i, as_rows(plain_even, plain_odd, E, R, C), mask=inside)


@kernel(do_not_specialize=INTEGERS)
def sample_kernel(
    out_ptr, inverse_ptr, plain_ptr, given, preparing, ignore_index, c, first_location, first, stored, tiles,
    draw, row_offset: tl.int64, n, b, m,
    E: tl.constexpr, R: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, SUBSET: tl.constexpr,
    OPERAND: tl.constexpr, WIDTH: tl.constexpr, ASSEMBLY: tl.constexpr, CLASSES: tl.constexpr,
    EXAMPLES: tl.constexpr, CHUNK: tl.constexpr, LABELS: tl.constexpr, NAN: tl.constexpr,
):  # fmt: skip
    """Rows first ... first + stored - 1 of the locations first_location ... of the draw.

    Scratch rows are WIDTH wide with zeros past b, hold the weights as operands of matrix products, and come with the
    inverse of their sums, so that rounding leaves no bias. plain_ptr: also mu's derivative by the attention. The first
    `preparing` programs of a location prepare what is given, EXAMPLES each.
    """
    program = tl.program_id(0)
    if given is None:
        draw_rows(
            program, out_ptr, inverse_ptr, plain_ptr, first_location, first, stored, tiles, draw, row_offset, n, b, m,
            E, R, C, KIND, SUBSET, OPERAND, WIDTH, ASSEMBLY,
        )  # fmt: skip
    else:
        place = program // (preparing + tiles)
        part = program % (preparing + tiles)
        if part < preparing:
            i = part * EXAMPLES + tl.arange(0, EXAMPLES)
            prepare_examples(
                given.scores, given.target, given.examples, given.kept, given.ignored, given.keep, given.smoothing,
                ignore_index, b, c, i, place.to(tl.int64), place.to(tl.int64),
                WIDTH, CLASSES, EXAMPLES, CHUNK, OPERAND, LABELS, NAN, OWN=False,
            )  # fmt: skip
        else:
            draw_rows(
                place * tiles + part - preparing, out_ptr, inverse_ptr, plain_ptr, first_location, first, stored,
                tiles, draw, row_offset, n, b, m, E, R, C, KIND, SUBSET, OPERAND, WIDTH, ASSEMBLY,
            )  # fmt: skip


class Sampler:
    """What names the weights of one operator call, prepared for kernels."""

    def __init__(self, b: int, attention: Tensor | None, ignored: Tensor | None, draw: Draw) -> None:
        self.b, self.draw = b, draw
        self.attention = None if attention is None else attention.to(torch.float32).contiguous()
        self.left_out = None if ignored is None else ignored.contiguous().view(torch.int8)
        self.kind, self.subset = _kind(draw), draw.m < b
        # Two examples to a word, as kernels draw them.
        words = None if self.left_out is None else _even(self.left_out).view(torch.int16)
        alpha = None if draw.alpha is None else draw.alpha.contiguous()
        low, high = struct.unpack("2f", struct.pack("2f", draw.low, draw.high))
        order = None
        if self.left_out is not None and self.subset:
            order = torch.argsort(self.left_out, stable=True).to(torch.int32)
        self.names = DrawNames(
            draw.seed, alpha, self.attention, words, order, low, draw.low - low, high, draw.high - high
        )

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The arguments row_offset ... m of a kernel."""
        return self.draw.row_offset, self.draw.n, self.b, self.draw.m

    @property
    def attended(self) -> Tensor:
        """The attention, where there is one."""
        if self.attention is None:
            raise ValueError("attention: there is none")
        return self.attention

    @property
    def zeros(self) -> bool:
        """Whether weights of examples that are not ignored may be zero."""
        return self.subset or self.attention is not None

    @property
    def flags(self) -> tuple:
        """What decides on the kernel that draws."""
        return self.kind, self.subset, *(x is None for x in self.names[1:4])

    def write(
        self, out: Tensor, inverse: Tensor | None, plain: Tensor | None, operand: str, first_location: int, first: int,
        preparation: Preparation | None = None,
    ) -> None:  # fmt: skip
        """Fills out (L, N, width) from the given location and row; with `inverse` (L, N) it is a scratch.

        preparation: of the operands of these locations, in the same launch.
        """
        places, stored, width = out.shape
        shape = shapes.family(out).sampler(width, self.kind == LOG_SPACE.value)
        tiles = shapes.ceil_div(stored, shape.rows)
        given, programs, ignore_index, c, sizes = None, 0, 0, 0, (0, 0, 0, False, False)
        if preparation is not None:
            given, target = preparation.given, preparation.target
            examples, chunk = preparation.tile(512 * shape.warps)
            programs, ignore_index, c = shapes.ceil_div(width, examples), target.ignore_index, target.c
            sizes = preparation.classes, examples, chunk, target.by_label, preparation.nan
        with device.on_device(out):
            sample_kernel[((programs + tiles) * places,)](
                out, inverse, plain, given, programs, ignore_index, c, first_location, first, stored, tiles,
                self.names, *self.counts, shape.registers, shape.rows, shape.groups, self.kind, self.subset, operand,
                None if inverse is None else width, device.assembly(out), *sizes, **device.options(shape.warps, 1),
            )  # fmt: skip


def _even(x: Tensor) -> Tensor:
    return x if x.shape[0] % 2 == 0 and x.data_ptr() % 2 == 0 else pad(x, (0, x.shape[0] % 2)).clone()


def _kind(draw: Draw) -> int:
    if draw.alpha is not None or draw.low < ACCURATE_FROM:
        return LOG_SPACE.value  # values on the device cannot be looked at: the widest arithmetic
    accurate = draw.low < HARDWARE_FROM or draw.high > HARDWARE_TO or torch.version.hip
    return ACCURATE.value if accurate else HARDWARE.value


def sample(b, r, dtype, attention, ignored, *draw):
    """Interpolation weights (r, n, b)."""
    sampler = Sampler(b, attention, ignored, Draw(*draw))
    out = sampler.draw.seed.new_empty((r, sampler.draw.n, b), dtype=dtype)
    sampler.write(out, None, None, device.OPERANDS[dtype], 0, 0)
    return out
