"""The operators' plain PyTorch evaluation in the dtype of their operands: weights, products and softmax in that dtype.

Arguments and results are those of the operators; weights before attention are drawn in float32, by `backend`.
"""

import torch
from torch import Tensor

from multimix_kernels.backends.contract import MEAN, NONE, SUM
from multimix_kernels.ops import OPERATORS

from . import oracle

REDUCTIONS = {NONE: "none", MEAN: "mean", SUM: "sum"}


def _outward(x: Tensor) -> Tensor:
    """(r, x, y) -> (x, y, r), a leaf."""
    return x.detach().permute(1, 2, 0).clone().requires_grad_()


def _inward(x: Tensor) -> Tensor:
    """(x, y, r) -> (r, x, y)."""
    return x.permute(2, 0, 1)


class Weights:
    """mu (n, b, r) in a dtype, and the attention it is made of."""

    def __init__(self, backend: str, b: int, r: int, dtype: torch.dtype, attention, ignored, draw) -> None:
        lam = OPERATORS[backend]["sample"](b, r, torch.float32, None, ignored, *draw).permute(1, 2, 0).to(dtype)
        self.attention = None if attention is None else attention.T.to(dtype).requires_grad_()
        self.mu = oracle.attended(lam, self.attention)


def _gradients(value: Tensor, upstream: Tensor, operand: Tensor, weights: Weights, wanted) -> list[Tensor]:
    """Of (r, ...) operand and (r, b) attention; upstream goes in relative to its largest."""
    scale = upstream.abs().max()
    leaves = [leaf for leaf, want in ((operand, wanted[0]), (weights.attention, wanted[1])) if want]
    found = iter(torch.autograd.grad(value, leaves, (upstream / scale).to(value.dtype)) if leaves else ())
    empty = torch.empty(0)
    grad_operand = _inward(next(found).double() * scale) if wanted[0] else empty
    return [grad_operand, (next(found).double() * scale).T if wanted[1] else empty]


def _rows(name: str, operand: Tensor, weights: Weights, target, smoothing, ignore_index, reduction: str) -> Tensor:
    y = oracle.probabilities(target, operand.shape[1], smoothing, ignore_index, operand.dtype)
    if name.startswith("mixed"):
        return oracle.score_loss(operand, y, weights.mu, reduction)
    mixed = oracle.mixed(weights.mu, oracle.per_location(y, operand.shape[2:]))
    return oracle.cross_entropy(operand, mixed, reduction)


def evaluate(backend: str, name: str, arguments) -> tuple[Tensor, ...]:
    """What the operator of this name returns."""
    if name == "mix":
        values, attention, ignored, *draw = arguments
        weights = Weights(backend, values.shape[1], values.shape[0], values.dtype, attention, ignored, draw)
        return (_inward(oracle.mixed(weights.mu, _outward(values))).detach(),)
    if name == "mix_backward":
        grad, values, want_values, want_attention, attention, ignored, *draw = arguments
        operand = _outward(values)
        weights = Weights(backend, values.shape[1], values.shape[0], values.dtype, attention, ignored, draw)
        out = oracle.mixed(weights.mu, operand)
        return tuple(_gradients(out, _outward(grad).float(), operand, weights, (want_values, want_attention)))
    grad_rows, arguments = (arguments[0], arguments[1:]) if name.endswith("backward") else (None, arguments)
    x, target, smoothing, ignore_index, *rest = arguments
    reduction = REDUCTIONS[NONE if grad_rows is not None else rest.pop(0)]
    want_operand, want_attention, attention, ignored, *draw = rest
    wanted = want_operand, want_attention
    operand = _outward(x)
    weights = Weights(backend, target.shape[0], x.shape[0], x.dtype, attention, ignored, draw)
    loss = _rows(name, operand, weights, target, smoothing, ignore_index, reduction)
    if grad_rows is not None:
        return tuple(_gradients(loss, grad_rows.T, operand, weights, wanted))
    gradients = _gradients(loss, torch.ones(loss.shape), operand, weights, wanted)
    return loss.detach().T if loss.dim() else loss.detach(), *gradients
