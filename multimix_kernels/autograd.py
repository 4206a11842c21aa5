"""torch.autograd.Functions, one per differentiable operation.

A loss that is reduced computes its gradients in the forward pass, where they cost least, and scales them in the
backward. With reduction "none" the upstream gradients are not known yet: the backward draws the weights again from the
seed and recomputes. With create_graph the gradients are functions of the inputs in the graph and can be differentiated
once more, by `second_order`; third derivatives are refused. Compiled graphs are once differentiable, as torch makes
them: there nothing is saved for second derivatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops
from .backends.contract import NONE, Draw, LossOptions, Want
from .backends.scheduled import numbers_of, without_numbers
from .second_order import Operation, products


def _dtypes(operand: Tensor, attention: Tensor | None) -> tuple[torch.dtype, torch.dtype | None]:
    return operand.dtype, None if attention is None else attention.dtype


def _wanted(operand: Tensor, attention: Tensor | None) -> Want:
    """Which gradients will be asked for. Asked outside of forward, where gradient mode is always off."""
    if not torch.is_grad_enabled():
        return Want(False, False)
    return Want(operand.requires_grad, attention is not None and attention.requires_grad)


def _returned(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a backward returns: gradients of the first arguments, and None for every other one."""
    return *gradients, *(None,) * (len(ctx.needs_input_grad) - len(gradients))


def _cast(ctx, gradients) -> list[Tensor | None]:
    """The wanted gradients in the dtypes of operand and attention."""
    return [
        None if not want else g if g.dtype == dtype else g.to(dtype)
        for g, dtype, want in zip(gradients, ctx.dtypes, ctx.call.want, strict=True)
    ]


def _graph_wanted() -> bool:
    """In a backward: whether it is itself differentiated."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _without_graph(compute: Callable, *arguments):
    """Calls without recording; a backward does not record anyway, unless it is itself differentiated."""
    if not torch.is_grad_enabled():
        return compute(*arguments)
    with torch.no_grad():
        return compute(*arguments)


class _Call(NamedTuple):
    """Everything of an operation's call that is no tensor: one argument, as each costs time."""

    backend: str
    name: str  # of the operator
    options: LossOptions | None
    want: Want
    draw: tuple  # the fields of Draw after its tensors


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
    def forward(ctx, values, attention, ignored, seed, alpha, call, numbers=None):
        ctx.save_for_backward(values, attention, ignored, seed, alpha, numbers)
        ctx.call, ctx.dtypes = call, _dtypes(values, attention)
        draw = Draw(seed, alpha, *call.draw)
        return ops.call(call.backend, "mix", values, attention, ignored, draw, numbers=numbers)

    @staticmethod
    def backward(ctx, upstream):
        values, attention, ignored, seed, alpha, numbers = ctx.saved_tensors
        call = ctx.call
        draw = Draw(seed, alpha, *call.draw)
        with torch.no_grad():
            found = ops.call(
                call.backend, "mix_backward", upstream, values, call.want, attention, ignored, draw, numbers=numbers
            )
            gradients = _cast(ctx, found)
        if _graph_wanted():
            operation = Operation(call.backend, "mix", None, ignored, None, draw, numbers)
            gradients = _differentiable(upstream, values, attention, gradients, call.want, operation)
        return _returned(ctx, *gradients)


class _CrossEntropy(Function):
    """The loss operators, by name: the operand of "mixed_cross_entropy" is scores, that of "soft_..." is logits."""

    @staticmethod
    def forward(ctx, operand, attention, target, ignored, seed, alpha, call, numbers=None):
        reduced = call.options.reduction != NONE
        now = call.want if reduced else Want(False, False)
        loss, *gradients = ops.call(
            call.backend, call.name,
            operand, target, call.options, now, attention, ignored, Draw(seed, alpha, *call.draw), numbers=numbers,
        )  # fmt: skip
        ctx.call, ctx.dtypes = call, _dtypes(operand, attention)
        if not reduced:
            ctx.save_for_backward(operand, attention, target, ignored, seed, alpha, numbers)
        elif torch.compiler.is_compiling():
            ctx.save_for_backward(*gradients)
        else:
            ctx.save_for_backward(*gradients, operand, attention, target, ignored)
            # Only second derivatives need the names of the weights: until then the caller may set the next seed.
            ctx.names = seed, alpha, numbers
            ctx.versions = _version(seed), _version(alpha)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        saved = ctx.saved_tensors  # unpacked once, as checkpointing asks
        call = ctx.call
        if call.options.reduction == NONE:
            gradients = _cast(ctx, _without_graph(_gradients_of_rows, call, upstream, saved))
        else:
            gradients = _without_graph(_scaled, ctx, upstream, saved)
        if _graph_wanted():
            if call.options.reduction != NONE:
                operand, attention, target, ignored = saved[2:]
                seed, alpha, numbers = ctx.names
                if ctx.versions != (_version(seed), _version(alpha)):
                    raise RuntimeError(
                        "seed, alpha: modified in place since the forward, which second derivatives need"
                    )
            else:
                operand, attention, target, ignored, seed, alpha, numbers = saved
            draw = Draw(seed, alpha, *call.draw)
            operation = Operation(call.backend, call.name, target, ignored, call.options, draw, numbers)
            gradients = _differentiable(upstream, operand, attention, gradients, call.want, operation)
        return _returned(ctx, *gradients)


def _scaled(ctx, upstream: Tensor, saved) -> list[Tensor | None]:
    """The wanted gradients of the forward, out of place, so that a second backward through the same graph is right."""
    return [
        _product(upstream, gradient, dtype) if want else None
        for gradient, dtype, want in zip(saved, ctx.dtypes, ctx.call.want, strict=False)
    ]


def _product(scale: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """scale * x in a dtype, by one launch on a GPU."""
    if x.dtype == dtype:
        return scale * x
    if torch.compiler.is_compiling():
        return (scale * x).to(dtype)
    return torch.mul(scale, x, out=x.new_empty(x.shape, dtype=dtype))


def _gradients_of_rows(call: _Call, upstream: Tensor, saved) -> tuple[Tensor, Tensor]:
    operand, attention, target, ignored, seed, alpha, numbers = saved
    return ops.call(
        call.backend, f"{call.name}_backward",
        upstream, operand, target, call.options, call.want, attention, ignored, Draw(seed, alpha, *call.draw),
        numbers=numbers,
    )  # fmt: skip


def _version(x: Tensor | None) -> int | None:
    return None if x is None or x.is_inference() else x._version


def mix(values: Tensor, attention: Tensor | None, ignored: Tensor | None, backend: str, draw: Draw) -> Tensor:
    """Convex combinations (r, n, d) of values (r, b, d), differentiable in values and attention (r, b)."""
    return _apply(_Mix, (values, attention, ignored), backend, "mix", None, _wanted(values, attention), draw)


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
    tensors = operand, attention, target, ignored
    return _apply(_CrossEntropy, tensors, backend, name, options, _wanted(operand, attention), draw)


def _apply(function, tensors, backend: str, name: str, options: LossOptions | None, want: Want, draw: Draw) -> Tensor:
    numbers = numbers_of(draw, options)
    if numbers is None:
        return function.apply(*tensors, draw.seed, draw.alpha, _Call(backend, name, options, want, draw[2:]))
    options, draw = without_numbers((options, draw))
    call = _Call(backend, name, options, want, draw[2:])
    return function.apply(*tensors, draw.seed, draw.alpha, call, numbers)
