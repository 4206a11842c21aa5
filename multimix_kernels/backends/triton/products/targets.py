"""The targets of a loss, and what its rows count."""

import torch
from torch import Tensor


class Target:
    """Labels (b,) or probabilities (b, c), smoothed: keep * y + uniform for each class of an example that has a target.

    The mass of an example is the sum of its smoothed target.
    """

    def __init__(self, target: Tensor, c: int, smoothing: float, ignore_index: int) -> None:
        self.by_label = not target.is_floating_point()
        self.keep, self.uniform, self.ignore_index, self.c = 1 - smoothing, smoothing / c, ignore_index, c
        self.values = target.contiguous() if self.by_label else target


class Upstream:
    """d loss / d rows (r, n), which goes into products relative to its largest, `scale`."""

    def __init__(self, grad_rows: Tensor) -> None:
        largest = torch.linalg.vector_norm(grad_rows, torch.inf, dtype=torch.float32).reshape(1)
        self.rows, self.scale = grad_rows, torch.where(largest > 0, largest, 1.0)

    def arguments(self) -> tuple:
        """The arguments grad_rows_ptr ... grad_scale_ptr of a kernel."""
        return self.rows, *self.rows.stride(), self.scale


def upstream_arguments(upstream: Upstream | None, unused: Tensor) -> tuple:
    """The same, also where every row counts the same."""
    return (unused, 0, 0, unused) if upstream is None else upstream.arguments()
