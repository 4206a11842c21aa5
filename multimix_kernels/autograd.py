"""torch.autograd.Functions, one per differentiable operation.

A loss that is reduced computes its gradients in the forward pass, where they cost least, and scales them in the
backward. With reduction "none" the upstream gradients are not known yet: the backward draws the weights again from the
seed and recomputes. With create_graph the gradients are functions of the inputs in the graph and can be differentiated
once more, by `second_order`; third derivatives are refused. Compiled graphs are once differentiable, as torch makes
them: there nothing is saved for second derivatives.
"""

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops
from .backends.contract import NONE, Draw, LossOptions, Want
from .second_order import Operation, products


def _dtypes(*operands: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple(None if x is None else x.dtype for x in operands)


def _wanted(*operands: Tensor | None) -> Want:
    """Which gradients will be asked for. Asked outside of forward, where gradient mode is always off."""
    return Want(*(torch.is_grad_enabled() and x is not None and x.requires_grad for x in operands))


def _returned(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a backward returns: gradients of the first arguments, and None for every other one."""
    return *gradients, *(None,) * (len(ctx.needs_input_grad) - len(gradients))


def _cast(ctx, gradients) -> list[Tensor | None]:
    """The wanted gradients in the dtypes of operand and attention."""
    return [g.to(dtype) if want else None for g, dtype, want in zip(gradients, ctx.dtypes, ctx.want, strict=True)]


def _graph_wanted() -> bool:
    """In a backward: whether it is itself differentiated."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _ThirdDerivative(Function):
    """Passes second derivatives through, as functions of all that they depend on, which cannot be differentiated."""

    @staticmethod
    def forward(ctx, found, *inputs):
        return tuple(found)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "multimix_kernels: third derivatives are not supported; the operations are twice differentiable"
        )


class _Gradients(Function):
    """Gradients that are already computed, as functions of upstream, operand and attention."""

    @staticmethod
    def forward(ctx, upstream, operand, attention, gradients, want, operation):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(upstream, operand, attention)
        ctx.want, ctx.operation = want, operation
        return tuple(gradients)

    @staticmethod
    def backward(ctx, *vectors):
        inputs = ctx.saved_tensors
        remaining = iter(vectors)
        paired = tuple(next(remaining) if want else None for want in ctx.want)
        if all(vector is None for vector in paired):
            return _returned(ctx)
        with torch.no_grad():
            found = products(ctx.operation, ctx.want, paired, *inputs)
        needed = [x if need else None for x, need in zip(found, ctx.needs_input_grad, strict=False)]
        if torch.is_grad_enabled():
            differentiable = iter(_ThirdDerivative.apply([x for x in needed if x is not None], *inputs, *vectors))
            needed = [None if x is None else next(differentiable) for x in needed]
        return _returned(ctx, *needed)


def _differentiable(upstream, operand, attention, gradients, want: Want, operation: Operation) -> list[Tensor | None]:
    """The wanted gradients, for a backward with create_graph."""
    found = iter(
        _Gradients.apply(upstream, operand, attention, [g for g in gradients if g is not None], want, operation)
    )
    return [None if g is None else next(found) for g in gradients]


class _Mix(Function):
    @staticmethod
    def forward(ctx, values, attention, ignored, backend, want, seed, alpha, draw):
        ctx.save_for_backward(values, attention, ignored, seed, alpha)
        ctx.backend, ctx.want, ctx.draw, ctx.dtypes = backend, want, draw, _dtypes(values, attention)
        return ops.call(backend, "mix", values, attention, ignored, Draw(seed, alpha, *draw))

    @staticmethod
    def backward(ctx, upstream):
        values, attention, ignored, seed, alpha = ctx.saved_tensors
        draw = Draw(seed, alpha, *ctx.draw)
        with torch.no_grad():
            gradients = _cast(
                ctx, ops.call(ctx.backend, "mix_backward", upstream, values, ctx.want, attention, ignored, draw)
            )
        if _graph_wanted():
            operation = Operation(ctx.backend, "mix", None, ignored, None, draw)
            gradients = _differentiable(upstream, values, attention, gradients, ctx.want, operation)
        return _returned(ctx, *gradients)


class _CrossEntropy(Function):
    """The loss operators, by name: the operand of "mixed_cross_entropy" is scores, that of "soft_..." is logits."""

    @staticmethod
    def forward(ctx, operand, attention, target, ignored, backend, name, options, want, seed, alpha, draw):
        now = want if options.reduction != NONE else Want(False, False)
        loss, *gradients = ops.call(
            backend, name, operand, target, options, now, attention, ignored, Draw(seed, alpha, *draw)
        )
        ctx.backend, ctx.name, ctx.options, ctx.draw = backend, name, options, draw
        ctx.want, ctx.dtypes = want, _dtypes(operand, attention)
        if options.reduction == NONE:
            ctx.save_for_backward(operand, attention, target, ignored, seed, alpha)
        elif torch.compiler.is_compiling():
            ctx.save_for_backward(*gradients)
        else:
            ctx.save_for_backward(*gradients, operand, attention, target, ignored)
            # Only second derivatives need the names of the weights: until then the caller may set the next seed.
            ctx.names = seed, alpha
            ctx.versions = _versions(seed, alpha)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        saved = ctx.saved_tensors  # unpacked once, as checkpointing asks
        if ctx.options.reduction == NONE:
            operand, attention, target, ignored, seed, alpha = saved
            draw = Draw(seed, alpha, *ctx.draw)
            with torch.no_grad():
                gradients = ops.call(
                    ctx.backend, f"{ctx.name}_backward",
                    upstream, operand, target, ctx.options, ctx.want, attention, ignored, draw,
                )  # fmt: skip
        else:
            # Out of place, so that a second backward through the same graph is right.
            with torch.no_grad():
                gradients = [upstream * g if want else g for g, want in zip(saved, ctx.want, strict=False)]
        gradients = _cast(ctx, gradients)
        if _graph_wanted():
            if ctx.options.reduction != NONE:
                operand, attention, target, ignored = saved[2:]
                if ctx.versions != _versions(*ctx.names):
                    raise RuntimeError(
                        "seed, alpha: modified in place since the forward, which second derivatives need"
                    )
                draw = Draw(*ctx.names, *ctx.draw)
            operation = Operation(ctx.backend, ctx.name, target, ignored, ctx.options, draw)
            gradients = _differentiable(upstream, operand, attention, gradients, ctx.want, operation)
        return _returned(ctx, *gradients)


def _versions(*tensors: Tensor | None) -> list[int | None]:
    return [None if x is None or x.is_inference() else x._version for x in tensors]


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
