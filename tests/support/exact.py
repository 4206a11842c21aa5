"""The losses and their gradients in float64 from given weights, with masks and without cancellation: formulas, one row
or one example after the other where that is clearer.

Shapes are those of the operators: weights mu (r, n, b), scores (r, b, c), logits (r, n, c), probabilities y (b, c).
"""

import math

import torch
from torch import Tensor


def mixed(mu: Tensor, x: Tensor) -> Tensor:
    """Sums of mu_i x_i over the examples that have a weight: (r, n, b), (r, b, c) -> (r, n, c)."""
    total = torch.zeros(*mu.shape[:2], x.shape[2], dtype=torch.float64)
    for i in range(mu.shape[2]):
        weight = mu[:, :, i, None]
        total += torch.where(weight == 0, 0.0, weight * x[:, i, None, :])
    return total


def log_softmax(logits: Tensor) -> Tensor:
    top, at = logits.max(-1, keepdim=True)
    others = (logits - top).exp().scatter(-1, at, 0.0).sum(-1, keepdim=True)
    return logits - top - others.log1p()


def row_losses(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """H(y, softmax(logits)) (r, n), and its gradient with respect to the logits."""
    log_q = log_softmax(logits)
    rows = torch.where(y == 0, 0.0, -y * log_q).sum(-1)
    delta = (y.sum(-1, keepdim=True) - y) * log_q.exp() + y * log_q.expm1()
    return rows, torch.where(logits == -math.inf, 0.0, delta)


def mixed_loss(mu: Tensor, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Row losses (r, n), and the gradient of their sum with respect to scores (r, b, c)."""
    scores = scores.double()
    top = scores.amax(-1, keepdim=True)  # changes no softmax
    rows, delta = row_losses(mixed(mu, scores - top), mixed(mu, y.expand(len(mu), -1, -1)))
    return rows, mu.mT @ delta


def soft_loss(mu: Tensor, logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Row losses (r, n), and the gradient of their sum with respect to logits (r, n, c)."""
    return row_losses(logits.double(), mixed(mu, y.expand(len(mu), -1, -1)))


LOSSES = {"mixed_cross_entropy": mixed_loss, "soft_cross_entropy": soft_loss}
