"""torch.autograd.Functions, one per differentiable operation.

A loss that is reduced computes its gradients in the forward pass, where they cost least, and scales them in the
backward. With reduction "none" the upstream gradients are not known yet: the backward draws the weights again from the
seed and recomputes. Second derivatives are refused.
"""

from functools import wraps

import torch
from torch import Tensor
from torch.autograd import Function

from .backends.reference.operators import MEAN, NONE, SUM
from .ops import OPERATORS, Draw

REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


class _RefuseSecondDerivative(Function):
    """Passes gradients through; differentiating them is an error."""

    @staticmethod
    def forward(ctx, differentiable, *gradients):
        return tuple(None if g is None else g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "multimix_kernels: second derivatives are not supported; the operations are once differentiable"
        )


def _once_differentiable(backward):
    """Like torch.autograd.function.once_differentiable, with an error that says what was differentiated twice."""

    @wraps(backward)
    def wrapper(ctx, upstream, *rest):
        with torch.no_grad():
            gradients = backward(ctx, upstream, *rest)
        # With create_graph the gradients could be differentiated, and would silently count as constants. In a compiled
        # graph torch refuses by itself.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _RefuseSecondDerivative.apply(torch.ones((), requires_grad=True), *gradients)
        return gradients

    return wrapper


def _cast(gradient: Tensor, dtype: torch.dtype | None, wanted: bool) -> Tensor | None:
    return gradient.to(dtype) if wanted else None


def _dtypes(*operands: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple(None if x is None else x.dtype for x in operands)


def _wanted(*operands: Tensor | None) -> tuple[bool, ...]:
    """Which gradients will be asked for. Asked outside of forward, where gradient mode is always off."""
    return tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in operands)


class _Mix(Function):
    @staticmethod
    def forward(ctx, values, attention, ignored, backend, want, *draw):
        ctx.save_for_backward(values, attention, ignored, *draw[:2])
        ctx.backend, ctx.want, ctx.draw, ctx.dtypes = backend, want, draw[2:], _dtypes(values, attention)
        return OPERATORS[backend]["mix"](values, attention, ignored, *draw)

    @staticmethod
    @_once_differentiable
    def backward(ctx, upstream):
        values, attention, ignored, *names = ctx.saved_tensors
        gradients = OPERATORS[ctx.backend]["mix_backward"](
            upstream, values, *ctx.want, attention, ignored, *names, *ctx.draw
        )
        return *map(_cast, gradients, ctx.dtypes, ctx.want), *(None,) * 10


class _CrossEntropy(Function):
    """The loss operators, by name: the operand of "mixed_cross_entropy" is scores, that of "soft_..." is logits."""

    @staticmethod
    def forward(
        ctx, operand, attention, target, ignored, backend, name, smoothing, ignore_index, reduction, want, *draw
    ):
        now = want if reduction != NONE else (False, False)
        loss, *gradients = OPERATORS[backend][name](
            operand, target, smoothing, ignore_index, reduction, *now, attention, ignored, *draw
        )
        ctx.reduction, ctx.want, ctx.dtypes = reduction, want, _dtypes(operand, attention)
        if reduction == NONE:
            ctx.save_for_backward(operand, attention, target, ignored, *draw[:2])
            ctx.rest = backend, name, smoothing, ignore_index, draw[2:]
        else:
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @_once_differentiable
    def backward(ctx, upstream):
        if ctx.reduction == NONE:
            operand, attention, target, ignored, *names = ctx.saved_tensors
            backend, name, smoothing, ignore_index, draw = ctx.rest
            gradients = OPERATORS[backend][f"{name}_backward"](
                upstream, operand, target, smoothing, ignore_index, *ctx.want, attention, ignored, *names, *draw
            )
        else:
            # Out of place, so that a second backward through the same graph is right.
            gradients = [upstream * gradient for gradient in ctx.saved_tensors]
        return *map(_cast, gradients, ctx.dtypes, ctx.want), *(None,) * 15


def mix(values: Tensor, attention: Tensor | None, ignored: Tensor | None, backend: str, draw: Draw) -> Tensor:
    """Convex combinations (r, n, d) of values (r, b, d), differentiable in values and attention (r, b)."""
    return _Mix.apply(values, attention, ignored, backend, _wanted(values, attention), *draw)


def cross_entropy(
    name: str,
    operand: Tensor,
    attention: Tensor | None,
    target: Tensor,
    ignored: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    backend: str,
    draw: Draw,
) -> Tensor:
    """A loss operator, differentiable in operand and attention (r, b): a scalar, or (r, n) with reduction "none"."""
    want = _wanted(operand, attention)
    code = REDUCTIONS[reduction]
    return _CrossEntropy.apply(
        operand, attention, target, ignored, backend, name, label_smoothing, ignore_index, code, want, *draw
    )
