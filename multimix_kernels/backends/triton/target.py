"""The targets of a loss, prepared for kernels."""

import torch
from torch import Tensor


class Target:
    """Labels (b,) or probabilities (b, c), smoothed: keep * y + uniform for each class of an example that has a target.

    mass (b,) is the sum of each example's smoothed target: 0 for an ignored one, NaN for a label that does not exist.
    """

    def __init__(self, target: Tensor, c: int, smoothing: float, ignore_index: int, dtype: torch.dtype) -> None:
        self.by_label = not target.is_floating_point()
        self.keep, self.uniform, self.ignore_index, self.c = 1 - smoothing, smoothing / c, ignore_index, c
        self.values = target.contiguous() if self.by_label else target.to(dtype)
        if self.by_label:
            wrong = (target < 0) | (target >= c)
            mass = torch.where(wrong, torch.nan, torch.ones_like(target, dtype=torch.float32))
            self.mass = mass.masked_fill(target == ignore_index, 0)
        else:
            self.mass = self.values.sum(1, dtype=torch.float32) * self.keep + smoothing

    def padded(self, classes: int, width: int, dtype: torch.dtype) -> Tensor:
        """The targets (classes, width), not smoothed, with zeros for what does not exist."""
        y = torch.zeros((classes, width), dtype=dtype, device=self.mass.device)
        b = self.values.shape[0]
        if self.by_label:
            label = self.values.masked_fill(self.values == self.ignore_index, -1)
            y[: self.c, :b] = label == torch.arange(self.c, device=label.device).unsqueeze(1)
        else:
            y[: self.c, :b] = self.values.T
        return y

    def packed(self, width: int, classes: int, dtype: torch.dtype) -> Tensor:
        """The same transposed (width, classes), for probabilities."""
        return self.padded(classes, width, dtype).T.contiguous()

    def scores_on_target(self, scores: Tensor) -> Tensor:
        """The inner products (L, b, b) of each example's scores (L, b, c) with each example's target, unsmoothed."""
        if not self.by_label:
            return scores.float() @ self.values.float().T
        known = ((self.values >= 0) & (self.values < self.c) & (self.values != self.ignore_index)).view(1, 1, -1)
        index = self.values.clamp(0, self.c - 1).expand(*scores.shape[:2], -1)
        return scores.gather(2, index).masked_fill(~known, 0)
