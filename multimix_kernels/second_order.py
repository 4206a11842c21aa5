"""Derivatives of the gradients: of every operation of every backend, in plain PyTorch.

The gradients of an operation are those of upstream . f(operand, attention), and a vector v that reaches them asks for
the gradient of v . gradient with respect to (upstream, operand, attention). It is computed from the equations by
differentiating twice, some rows at a time: the weights of these rows are drawn again by the backend, so that any n
needs the memory of one part only. The arithmetic is in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import ops
from .backends.contract import MEAN, Draw, LossOptions, Want, compute_dtype
from .backends.reference.equations import (
    as_scores,
    log_softmax,
    mixed_targets,
    probabilities,
    product,
    shifted,
    without_masks,
)

_PART_BYTES = 1 << 20  # of one matrix of some rows and all classes or examples; about sixteen of them are held


class Operation(NamedTuple):
    """A differentiable operator of a backend, and its arguments that are not differentiated."""

    backend: str
    name: str  # "mix" or the name of a loss
    target: Tensor | None
    ignored: Tensor | None
    options: LossOptions | None
    draw: Draw
    numbers: Tensor | None = None  # of `backends.scheduled`


def products(
    operation: Operation,
    want: Want,
    vectors: Sequence[Tensor | None],
    upstream: Tensor,
    operand: Tensor,
    attention: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradient of sum_j vectors_j . gradient_j with respect to upstream, operand and attention.

    Args:
        want: which gradients there are; without one the attention is a constant.
        vectors: shaped like the gradients of operand and attention; None for zeros, not for both.
        upstream: d result / d output, shaped like the operator's output.
    """
    draw = operation.draw
    by_row = operation.name == "soft_cross_entropy"  # the operand has a row for each mixture
    reduced = upstream.dim() == 0
    mean = operation.options is not None and operation.options.reduction == MEAN
    scale = 1 / (operand.shape[0] * draw.n) if mean else 1.0
    mixed = operation.name == "mixed_cross_entropy"
    g, x = _leaf(upstream), _leaf(as_scores(operand, torch.float64) if mixed else operand)
    attentions = [] if attention is None else [_leaf(attention)]
    vector, *attention_vectors = (None if v is None else v.double() for v in vectors)
    totals = [torch.zeros_like(leaf) for leaf in (g, x, *attentions)]
    count = max(1, _PART_BYTES // (x.shape[0] * max(_examples(operation, x), x.shape[2]) * 8))
    for first in range(0, draw.n, count):
        part = draw._replace(n=min(count, draw.n - first), row_offset=draw.row_offset + first)
        rows = (slice(None), slice(first, first + part.n))
        leaves = [g if reduced else _leaf(g[rows]), _leaf(x[rows]) if by_row else x, *attentions]
        beside = [vector[rows] if by_row and vector is not None else vector, *attention_vectors]
        pairs = [(leaf, v) for leaf, v in zip(leaves[1:], beside, strict=False) if v is not None]
        with torch.enable_grad():
            attended = attentions[0] if attentions else None
            output = _equation(operation._replace(draw=part), leaves[1], attended, want, compute_dtype(operand.dtype))
            gradients = torch.autograd.grad(
                (scale * leaves[0] * output).sum(), [leaf for leaf, _ in pairs], create_graph=True
            )
            dot = torch.stack([(gradient * v).sum() for gradient, (_, v) in zip(gradients, pairs, strict=True)]).sum()
            found = torch.autograd.grad(dot, leaves, materialize_grads=True)
        for total, more, whole in zip(totals, found, (reduced, not by_row, True), strict=False):
            (total if whole else total[rows]).add_(more)
    dtypes = [tensor.dtype for tensor in (upstream, operand, attention) if tensor is not None]
    return *(total.to(d) for total, d in zip(totals, dtypes, strict=True)), *(() if attentions else (None,))


def _leaf(x: Tensor) -> Tensor:
    return x.detach().double().requires_grad_()


def _examples(operation: Operation, operand: Tensor) -> int:
    return operand.shape[1] if operation.target is None else operation.target.shape[0]


def _equation(
    operation: Operation, operand: Tensor, attention: Tensor | None, want: Want, drawn: torch.dtype
) -> Tensor:
    """The operator's output before any reduction: (r, n, d) of "mix", (r, n) of a loss."""
    mu = _weights(operation, operand, attention, want, drawn)
    if operation.name == "mix":
        return product(mu, operand)
    assert operation.target is not None
    assert operation.options is not None
    options = operation.options
    if operation.numbers is not None:
        smoothing: Any = operation.numbers[2]  # used in torch operations only
        options = options._replace(label_smoothing=smoothing)
    y = probabilities(operation.target, operand.shape[2], options, operand.dtype)
    logits = product(mu, shifted(operand)) if operation.name == "mixed_cross_entropy" else operand
    return -(mixed_targets(mu, y, operation.target) * without_masks(log_softmax(logits))).sum(-1)


def _weights(operation: Operation, operand: Tensor, attention: Tensor | None, want: Want, drawn: torch.dtype) -> Tensor:
    """The weights mu (r, n, b), as a function of the attention if its gradient is wanted."""

    def sample(given: Tensor | None) -> Tensor:
        b, r = _examples(operation, operand), operand.shape[0]
        draw, numbers = operation.draw, operation.numbers
        return ops.call(
            operation.backend, "sample", b, r, drawn, given, operation.ignored, draw, numbers=numbers
        ).double()

    with torch.no_grad():
        mu = sample(None if attention is None else attention.detach())
        if attention is None or not want.attention:
            return mu
        # mu_i = a_i ratio_i / sum_j a_j ratio_j. The ratios come from the weights themselves where they can, as those
        # of examples without attention may leave nothing else in the range of the dtype.
        plain, a = sample(None), attention.detach().unsqueeze(1)
        alive = ((mu > 0) & (a > 0)).any(-1, keepdim=True)  # others were drawn with uniform attention, a constant
        ratio = torch.where(a > 0, mu / a, plain / (a * plain).sum(-1, keepdim=True))
        ratio = torch.where(alive & (plain > 0), ratio, 0).clamp(max=torch.finfo(ratio.dtype).max)
    attended = ratio * attention.unsqueeze(1)
    return torch.where(alive, attended / (attended.sum(-1, keepdim=True) + ~alive), mu)
