"""torch.autograd.Functions, one per differentiable operation.

A loss that is reduced computes its gradients in the forward pass, where they cost least, and scales them in the
backward. With reduction "none" the upstream gradients are not known yet: the backward draws the weights again from the
seed and recomputes. Second derivatives are refused.
"""

from functools import wraps

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops
from .backends.contract import NONE, Draw, LossOptions, Want


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


def _returned(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """The wanted gradients of operand and attention in their dtypes, and None for every other argument."""
    cast = [g.to(dtype) if want else None for g, dtype, want in zip(gradients, ctx.dtypes, ctx.want, strict=True)]
    return *cast, *(None,) * (len(ctx.needs_input_grad) - len(cast))


def _dtypes(*operands: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple(None if x is None else x.dtype for x in operands)


def _wanted(*operands: Tensor | None) -> Want:
    """Which gradients will be asked for. Asked outside of forward, where gradient mode is always off."""
    return Want(*(torch.is_grad_enabled() and x is not None and x.requires_grad for x in operands))


class _Mix(Function):
    @staticmethod
    def forward(ctx, values, attention, ignored, backend, want, seed, alpha, draw):
        ctx.save_for_backward(values, attention, ignored, seed, alpha)
        ctx.backend, ctx.want, ctx.draw, ctx.dtypes = backend, want, draw, _dtypes(values, attention)
        return ops.call(backend, "mix", values, attention, ignored, Draw(seed, alpha, *draw))

    @staticmethod
    @_once_differentiable
    def backward(ctx, upstream):
        values, attention, ignored, seed, alpha = ctx.saved_tensors
        draw = Draw(seed, alpha, *ctx.draw)
        return _returned(
            ctx, *ops.call(ctx.backend, "mix_backward", upstream, values, ctx.want, attention, ignored, draw)
        )


class _CrossEntropy(Function):
    """The loss operators, by name: the operand of "mixed_cross_entropy" is scores, that of "soft_..." is logits."""

    @staticmethod
    def forward(ctx, operand, attention, target, ignored, backend, name, options, want, seed, alpha, draw):
        now = want if options.reduction != NONE else Want(False, False)
        loss, *gradients = ops.call(
            backend, name, operand, target, options, now, attention, ignored, Draw(seed, alpha, *draw)
        )
        ctx.options, ctx.want, ctx.dtypes = options, want, _dtypes(operand, attention)
        if options.reduction == NONE:
            ctx.save_for_backward(operand, attention, target, ignored, seed, alpha)
            ctx.rest = backend, name, draw
        else:
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @_once_differentiable
    def backward(ctx, upstream):
        if ctx.options.reduction != NONE:
            # Out of place, so that a second backward through the same graph is right.
            return _returned(ctx, *(upstream * gradient for gradient in ctx.saved_tensors))
        operand, attention, target, ignored, seed, alpha = ctx.saved_tensors
        backend, name, draw = ctx.rest
        draw = Draw(seed, alpha, *draw)
        return _returned(
            ctx,
            *ops.call(
                backend, f"{name}_backward", upstream, operand, target, ctx.options, ctx.want, attention, ignored, draw
            ),
        )


def mix(values: Tensor, attention: Tensor | None, ignored: Tensor | None, backend: str, draw: Draw) -> Tensor:
    """Convex combinations (r, n, d) of values (r, b, d), differentiable in values and attention (r, b)."""
    want = _wanted(values, attention)
    return _Mix.apply(values, attention, ignored, backend, want, draw.seed, draw.alpha, draw[2:])


def cross_entropy(
    name: str,
    operand: Tensor,
    attention: Tensor | None,
    target: Tensor,
    ignored: Tensor | None,
    options: LossOptions,
    backend: str,
    draw: Draw,
) -> Tensor:
    """A loss operator, differentiable in operand and attention (r, b): a scalar, or (r, n) with reduction "none"."""
    want = _wanted(operand, attention)
    return _CrossEntropy.apply(
        operand, attention, target, ignored, backend, name, options, want, draw.seed, draw.alpha, draw[2:]
    )
