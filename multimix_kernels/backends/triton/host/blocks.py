"""Super-blocks of rows: weights in a scratch the size of a part of the L2 cache, whatever n is.

Each block is some rows of some locations. `sample` draws its weights once; the kernels that follow read them from the
cache. Where attention gradients are wanted the scratch also holds mu's derivative by the attention and d loss / d mu.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...contract import Draw
from . import shapes

ROWS = 128  # blocks are padded to a multiple of the largest row tile, with zero weights


class Sampler(Protocol):
    """What draws weights; see `weights.sample`."""

    b: int
    draw: Draw

    def write(
        self, out: Tensor, inverse: Tensor | None, plain: Tensor | None, operand: str, first_location: int, first: int,
        preparation: Any = None,
    ) -> None:  # fmt: skip
        """Fills a scratch, and prepares operands in the same launch."""


class Drawn(NamedTuple):
    """The scratch as kernels take it: weights (places, stored, width), and the inverse of their sums."""

    weights: Tensor
    inverse: Tensor


@dataclass
class Block:
    """Rows first ... of the locations first_location ...; tensors are (places, stored, ...), of them `rows` real."""

    first_location: int
    first: int
    rows: int
    last: bool  # of these locations
    weights: Tensor
    inverse: Tensor
    plain: Tensor | None
    gradient: Tensor | None
    logits: Tensor | None
    preparation: Any  # that of these locations

    @property
    def drawn(self) -> Drawn:
        """As kernels take it."""
        return Drawn(self.weights, self.inverse)

    @property
    def places(self) -> int:
        """Locations."""
        return self.weights.shape[0]

    @property
    def stored(self) -> int:
        """Rows, padding included."""
        return self.weights.shape[1]


def width(b: int) -> int:
    """Examples in a scratch row: a power of two up to 128, then a multiple of 128."""
    return shapes.power_of_two(max(16, b)) if b <= 128 else -(-b // 128) * 128


def blocks(
    sampler: Sampler, r: int, dtype: torch.dtype, operand: str, attention: bool, most_places: int, classes: int = 0,
    prepare: Callable[[slice], Any] = lambda _: None,
) -> Iterator[Block]:  # fmt: skip
    """The blocks of all rows, those of the same locations one after the other; with room for logits if asked for.

    prepare: what the first launch for some locations prepares, beside its weights.
    """
    n, wide = sampler.draw.n, width(sampler.b)
    row_bytes = wide * dtype.itemsize + 12 + (8 * wide if attention else 0) + 4 * classes
    budget = max(1, shapes.SCRATCH_BYTES // (row_bytes * ROWS))
    padded = -(-n // ROWS)
    chunk = min(padded, budget) * ROWS
    places = max(1, min(r, most_places, budget * ROWS // chunk))
    new = sampler.draw.seed.new_empty
    weights = new((places * chunk * wide,), dtype=dtype)
    inverse = new((places * chunk,), dtype=torch.float32)
    plain, gradient = (new((places * chunk * wide,), dtype=torch.float32) if attention else None for _ in range(2))
    logits = new((places * chunk * classes,), dtype=torch.float32) if classes else None
    for first_location in range(0, r, places):
        count = min(places, r - first_location)
        preparation = prepare(slice(first_location, first_location + count))
        for first in range(0, n, chunk):
            rows = min(chunk, n - first)
            stored = -(-rows // ROWS) * ROWS

            def view(x, *shape):
                return None if x is None else x[: torch.Size(shape).numel()].view(shape)

            block = Block(
                first_location, first, rows, first + chunk >= n, view(weights, count, stored, wide),
                view(inverse, count, stored), view(plain, count, stored, wide), view(gradient, count, stored, wide),
                view(logits, count, stored, classes), preparation,
            )  # fmt: skip
            beside = preparation if first == 0 else None
            sampler.write(block.weights, block.inverse, block.plain, operand, first_location, first, beside)
            yield block
