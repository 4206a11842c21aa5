"""The targets of a loss, and what its rows count."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Target:
    """Labels (b,) or probabilities (b, c), smoothed: keep * y + uniform for each class of an example that has a target.

    The mass of an example is the sum of its smoothed target.
    """

    def __init__(self, target: Tensor, c: int, smoothing: float, ignore_index: int) -> None:
        self.by_label = not target.is_floating_point()
        self.keep, self.uniform, self.ignore_index, self.c = 1 - smoothing, smoothing / c, ignore_index, c
        self.values = target.contiguous() if self.by_label else target


class Upstream(NamedTuple):
    """d loss / d rows (r, n), which goes into products relative to its largest, `scale`."""

    rows: Tensor
    location: int  # strides
    row: int
    scale: Tensor


def upstream_of(grad_rows: Tensor) -> Upstream:
    """As kernels take it."""
    largest = torch.linalg.vector_norm(grad_rows, torch.inf, dtype=torch.float32).reshape(1)
    location, row = grad_rows.stride()
    location = location if grad_rows.shape[0] > 1 else 0  # as it would be compiled for again with another n
    return Upstream(grad_rows, location, row, torch.where(largest > 0, largest, 1.0))


@triton.jit
def row_factor(upstream, location, first, row, rows):
    """d loss / d row loss, up to a common factor; zero past `rows`. upstream None: every row counts the same."""
    if upstream is None:
        factor = tl.where(row < rows, 1.0, 0.0)
    else:
        at = location * upstream.location + (first + row.to(tl.int64)) * upstream.row
        factor = tl.load(upstream.rows + at, mask=row < rows, other=0.0).to(tl.float32) / tl.load(upstream.scale)
    return factor
