"""The operators in plain PyTorch, with every gradient written out as a formula.

Shapes: b examples, d features, c classes, r locations (1 when not dense), n interpolated examples per location.
The weights mu (r, n, b) come from `stream.weights`; all arithmetic is in float32, or float64 for float64 input.
Memory grows with n: these are the equations of the paper, for checking and for comparing, not for speed.
"""

import torch
from torch import Tensor

from ..contract import NONE, SUM, LossOptions, compute_dtype
from .equations import as_scores, mixed_targets, probabilities, product, row_losses, shifted, without_masks
from .stream import weights


def sample(b, r, dtype, attention, ignored, draw):
    """Interpolation weights (r, n, b)."""
    return weights(draw, b, r, attention, ignored).to(dtype)


def mix(values, attention, ignored, draw):
    """Convex combinations mu @ values: (r, b, d) -> (r, n, d)."""
    r, b, _ = values.shape
    dtype = compute_dtype(values.dtype)
    return product(sample(b, r, dtype, attention, ignored, draw), values.to(dtype)).to(values.dtype)


def mix_backward(grad, values, want, attention, ignored, draw):
    """Gradients of `mix` with respect to values (r, b, d) and attention (r, b), in the compute dtype."""
    r, b, _ = values.shape
    dtype = compute_dtype(values.dtype)
    mu, grad = sample(b, r, dtype, attention, ignored, draw), grad.to(dtype)
    grad_values = mu.mT @ grad if want.operand else grad.new_empty(0)
    if not want.attention:
        return grad_values, grad.new_empty(0)
    return grad_values, _attention_gradient(grad @ values.to(dtype).mT, mu, attention, ignored, draw)


def mixed_cross_entropy(scores, target, options, want, attention, ignored, draw):
    """Loss of the mixed scores mu @ scores (r, n, c) against the mixed targets, with its gradients."""
    rows, gradients = _mixed_cross_entropy(scores, target, options, attention, ignored, draw)
    loss, grad_rows = _reduce(rows, target, options)
    return loss, *gradients(grad_rows, want)


def mixed_cross_entropy_backward(grad_rows, scores, target, options, want, attention, ignored, draw):
    """Gradients of scores (r, b, c) and attention (r, b) for given d loss / d rows (r, n)."""
    _, gradients = _mixed_cross_entropy(scores, target, options, attention, ignored, draw)
    return gradients(grad_rows, want)


def soft_cross_entropy(logits, target, options, want, attention, ignored, draw):
    """Loss of any head's logits (r, n, c) against the mixed targets, with its gradients."""
    rows, gradients = _soft_cross_entropy(logits, target, options, attention, ignored, draw)
    loss, grad_rows = _reduce(rows, target, options)
    return loss, *gradients(grad_rows, want)


def soft_cross_entropy_backward(grad_rows, logits, target, options, want, attention, ignored, draw):
    """Gradients of logits (r, n, c) and attention (r, b) for given d loss / d rows (r, n)."""
    _, gradients = _soft_cross_entropy(logits, target, options, attention, ignored, draw)
    return gradients(grad_rows, want)


def _mixed_cross_entropy(scores, target, options, attention, ignored, draw):
    """Row losses (r, n), and what maps d loss / d rows to the gradients of scores and attention."""
    r, b, c = scores.shape
    dtype = compute_dtype(scores.dtype)
    s, y = shifted(as_scores(scores, dtype)), probabilities(target, c, options, dtype)
    mu = sample(b, r, dtype, attention, ignored, draw)
    rows, delta, log_q = row_losses(product(mu, s), mixed_targets(mu, y, target))

    def gradients(grad_rows, want):
        g = grad_rows.to(dtype).contiguous().unsqueeze(-1)
        grad_scores = mu.mT @ (g * delta) if want.operand else s.new_empty(0)
        if not want.attention:
            return grad_scores, s.new_empty(0)
        grad_mu = g * (delta @ without_masks(s).mT - without_masks(log_q) @ y.mT)
        return grad_scores, _attention_gradient(grad_mu, mu, attention, ignored, draw)

    return rows, gradients


def _soft_cross_entropy(logits, target, options, attention, ignored, draw):
    """Row losses (r, n), and what maps d loss / d rows to the gradients of logits and attention."""
    r, _, c = logits.shape
    dtype = compute_dtype(logits.dtype)
    y = probabilities(target, c, options, dtype)
    mu = sample(target.shape[0], r, dtype, attention, ignored, draw)
    rows, delta, log_q = row_losses(logits.to(dtype), mixed_targets(mu, y, target))

    def gradients(grad_rows, want):
        g = grad_rows.to(dtype).contiguous().unsqueeze(-1)
        grad_logits = (g * delta).contiguous() if want.operand else y.new_empty(0)
        if not want.attention:
            return grad_logits, y.new_empty(0)
        grad_mu = -g * (without_masks(log_q) @ y.mT)
        return grad_logits, _attention_gradient(grad_mu, mu, attention, ignored, draw)

    return rows, gradients


def _reduce(rows: Tensor, target: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The loss, and d loss / d rows. The mean is NaN if every example is ignored, as in F.cross_entropy."""
    if options.reduction == NONE:
        return rows, torch.ones_like(rows)
    if options.reduction == SUM:
        return rows.sum(), torch.ones_like(rows)
    loss = rows.mean()
    if not target.is_floating_point():
        loss = loss.masked_fill((target == options.ignore_index).all(), torch.nan)
    return loss, torch.full_like(rows, 1 / rows.numel())


def _attention_gradient(grad_mu, mu, attention, ignored, draw) -> Tensor:
    """d loss / d a (r, b), from d loss / d mu (r, n, b), where mu_i = a_i lambda_i / sum_j a_j lambda_j."""
    r, _, b = mu.shape
    plain = weights(draw, b, r, None, ignored)
    sigma = (plain * attention.double().unsqueeze(1)).sum(-1, keepdim=True)
    centred = grad_mu - torch.where(mu == 0, 0, mu * grad_mu).sum(-1, keepdim=True)
    # A row without attention was drawn with uniform attention, a constant. An example that was not drawn may be NaN.
    return torch.where((sigma > 0) & (plain > 0), plain / sigma * centred, 0).sum(1).to(mu.dtype)
