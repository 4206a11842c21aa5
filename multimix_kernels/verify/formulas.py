"""The operators from given weights, in plain PyTorch and in one precision throughout: what accuracy is measured by.

In float64 this is the exact value; in the precision of a kernel's operands it is what plain PyTorch makes of them.
Shapes: weights lam (r, n, b) before attention, operands as the operators have them, masked classes left out.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..backends.contract import MEAN, NONE, LossOptions, Want


class Result(NamedTuple):
    """An output, and how large the terms are that it is a sum of: what its rounding is relative to."""

    value: Tensor
    size: float
    parts: Tensor | None = None  # whose sum it is


def _largest(x: Tensor) -> float:
    return x.abs().max().double().item() if x.numel() else 0.0


class Plain:
    """Evaluates operators in a dtype; with tf32, products of float32 read the leading 10 bits of their factors."""

    def __init__(self, dtype: torch.dtype, tf32: bool, lam: Tensor, attention: Tensor | None) -> None:
        self._dtype, self._tf32 = dtype, tf32
        self._lam = self._cast(lam)
        self._attention = None if attention is None else self._cast(attention).unsqueeze(1)
        self._mu = self._lam
        if self._attention is not None:
            shares = self._lam * self._attention
            self._sum = shares.sum(-1, keepdim=True)
            self._mu = torch.where(self._sum == 0, self._lam, shares / torch.where(self._sum == 0, 1, self._sum))

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self._dtype)

    def _product(self, x: Tensor, y: Tensor) -> Tensor:
        if self._tf32:
            x, y = (((z.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32) for z in (x, y))
        return x @ y

    def mix(self, values: Tensor) -> list[Result]:
        """mu @ values."""
        found = self._product(self._mu, self._cast(values))
        return [Result(found, _largest(found))]

    def mix_backward(self, grad: Tensor, values: Tensor, want: Want) -> list[Result]:
        """Gradients of values and attention."""
        grad, values = self._cast(grad), self._cast(values)
        found = self._product(self._mu.mT, grad)
        results = [Result(found, _largest(found))]
        if want.attention:
            grad_mu = self._product(grad, values.mT)
            results.append(self._attention_gradient(grad_mu, grad.abs() @ values.abs().mT))
        return results

    def loss(
        self, mixed: bool, operand: Tensor, y: Tensor, options: LossOptions, want: Want, upstream: Tensor | None
    ) -> list[Result]:
        """Loss and gradients, or with d loss / d rows only these; y are the probabilities (b, c)."""
        x, y = self._cast(operand), self._cast(y)
        scale = 1.0 if upstream is None else _largest(upstream)
        logits = self._product(self._mu, x) if mixed else x
        target = self._product(self._mu, y.expand(len(self._mu), -1, -1))
        log_q = logits.log_softmax(-1)
        rows = -(target * log_q).sum(-1)
        results = []
        if upstream is None:
            loss = rows if options.reduction == NONE else rows.mean() if options.reduction == MEAN else rows.sum()
            parts = rows / (rows.numel() if options.reduction == MEAN else 1)
            results = [Result(loss, _largest(loss), None if options.reduction == NONE else parts)]
            g = torch.ones_like(rows) / (rows.numel() if options.reduction == MEAN else 1)
        else:
            g = self._cast(upstream.double() / scale)  # in the range of every dtype
        g = g.unsqueeze(-1)
        q, mass = log_q.exp(), target.sum(-1, keepdim=True)
        delta, halves = g * (mass * q - target), (g * (mass * q + target)).abs()
        gradient, size = delta, halves
        if mixed:
            gradient, size = self._product(self._mu.mT, delta), self._mu.mT @ halves
        if mixed and self._tf32:
            # Of its halves, softmax and targets: that is what the rounding of factors is relative to.
            gradient = self._product(self._mu.mT, g * mass * q) - self._product(self._mu.mT, g * target)
        results.append(Result(gradient.double() * scale, _largest(size) * scale))
        if want.attention:
            grad_mu = self._product(-g * log_q, y.mT)
            size = (g * log_q).abs() @ y.abs().mT
            if mixed:
                grad_mu, size = grad_mu + self._product(delta, x.mT), size + halves @ x.abs().mT
            found = self._attention_gradient(grad_mu, size)
            results.append(Result(found.value.double() * scale, found.size * scale))
        return results

    def _attention_gradient(self, grad_mu: Tensor, size: Tensor) -> Result:
        share = torch.where(self._sum > 0, self._lam / torch.where(self._sum > 0, self._sum, 1), 0)
        centred = grad_mu - (self._mu * grad_mu).sum(-1, keepdim=True)
        terms = size + (self._mu * size).sum(-1, keepdim=True)
        return Result((share * centred).sum(1), _largest((share * terms).sum(1)))
