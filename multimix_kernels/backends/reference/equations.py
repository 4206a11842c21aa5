"""What mixing and cross-entropy are: products where an example without weight takes no part, targets, row losses."""

import math

import torch
from torch import Tensor

from ..contract import LossOptions


def row_losses(logits: Tensor, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H(mixed, softmax(logits)) of each row, its gradient with respect to the logits, and log softmax.

    A sum of terms that are not negative, each with all its digits: neither a common offset of the logits nor a loss
    near zero cancels any. A class with logit -inf has probability 0, costs nothing where its target is 0 and +inf where
    it is not, and has no gradient.
    """
    log_q = log_softmax(logits)
    rows = torch.where(mixed == 0, 0, -mixed * log_q).sum(-1)
    # mass softmax - mixed, without the difference of two numbers near one.
    mass = mixed.sum(-1, keepdim=True)
    delta = (mass - mixed) * log_q.exp() + mixed * log_q.expm1()
    return rows, delta.masked_fill(log_q == -math.inf, 0), log_q


def log_softmax(logits: Tensor) -> Tensor:
    """log softmax with small probabilities beside the largest one kept: log1p of the others' sum.

    -inf where the logit is, in rows of nothing else too; NaN in rows with NaN or +inf.
    """
    top, at = logits.max(-1, keepdim=True)
    top = top.masked_fill(top == -math.inf, 0)
    below = logits - top
    others = below.exp().scatter(-1, at, 0).sum(-1, keepdim=True)
    return below - others.log1p() + 0 * top


def as_scores(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores in the dtype of sums, with -inf for every mask: the least float16, too.

    Times a small weight that would be a score like others; finfo.min of other dtypes is far below them.
    """
    scores = x.to(dtype).contiguous()
    return scores.masked_fill(x == torch.finfo(x.dtype).min, -math.inf) if x.dtype == torch.float16 else scores


def shifted(scores: Tensor) -> Tensor:
    """Scores less the largest of their example, which changes no softmax: mixing them rounds differences only."""
    top = scores.detach().amax(-1, keepdim=True)
    return scores - torch.where(top.isfinite(), top, 0)


def without_masks(x: Tensor) -> Tensor:
    """Zero in the place of -inf: what a mask does to a loss does not depend on the size of a positive weight."""
    return x.masked_fill(x == -math.inf, 0)


def product(mu: Tensor, x: Tensor) -> Tensor:
    """mu @ x, where a weight of zero times anything is zero: its example takes no part."""
    taken = (mu != 0).to(mu.dtype)
    up, down = (taken @ beyond.to(mu.dtype) > 0 for beyond in (~(x < math.inf), ~(x > -math.inf)))
    return mu @ torch.where(x.isfinite(), x, 0) + torch.where(up, math.inf, 0) - torch.where(down, math.inf, 0)


def mixed_targets(mu: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Mixed probabilities (r, n, c). A label that does not exist makes every row NaN, whatever its weight."""
    return product(mu, y) if target.is_floating_point() else mu @ y


def probabilities(target: Tensor, c: int, options: LossOptions, dtype: torch.dtype) -> Tensor:
    """Targets as probabilities (b, c): zero rows for ignored examples, NaN rows for labels that do not exist."""
    smoothing = options.label_smoothing
    if target.is_floating_point():
        return target.to(dtype).contiguous() * (1 - smoothing) + smoothing / c
    y = (target.unsqueeze(1) == torch.arange(c, device=target.device)).to(dtype) * (1 - smoothing) + smoothing / c
    y = y.masked_fill(((target < 0) | (target >= c)).unsqueeze(1), torch.nan)
    return y.masked_fill((target == options.ignore_index).unsqueeze(1), 0)
