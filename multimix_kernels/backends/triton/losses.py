"""The loss operators: the choice of the kernel, reductions, and scales."""

import torch
from torch import Tensor

from ..reference.operators import MEAN, NONE
from ..reference.stream import Draw
from . import config, mixed_large, mixed_small
from .sample import Sampler
from .target import Target


def _new(x: Tensor, shape: tuple[int, ...], wanted: bool = True) -> Tensor:
    return x.new_empty(shape if wanted else (0,), dtype=torch.float32)


def _run(operand, target: Target, want, attention, ignored, draw, rows, grad_rows, scale, kernel):
    r = operand.shape[0]
    b = target.values.shape[0]
    sampler = Sampler(b, attention, ignored, draw)
    gradient, grad_attention = _new(operand, tuple(operand.shape), want[0]), _new(operand, (r, b), want[1])
    outputs = (gradient if want[0] else None, grad_attention if want[1] else None)
    return kernel(operand, target, sampler, rows, grad_rows, scale, *outputs), gradient, grad_attention


def forward(kernel, operand, target, smoothing, ignore_index, reduction, want, attention, ignored, draw):
    """The loss and its gradients."""
    draw = Draw(*draw)
    prepared = Target(target, operand.shape[2], smoothing, ignore_index, operand.dtype)
    count = operand.shape[0] * draw.n
    rows = _new(operand, (operand.shape[0], draw.n)) if reduction == NONE else None
    scale = 1 / count if reduction == MEAN else 1.0
    total, *gradients = _run(operand, prepared, want, attention, ignored, draw, rows, None, scale, kernel)
    if rows is not None:
        return rows, *gradients
    loss = total * scale
    if reduction == MEAN and prepared.by_label:
        loss = loss.masked_fill((target == ignore_index).all(), torch.nan)
    return loss.float(), *gradients


def backward(kernel, grad_rows, operand, target, smoothing, ignore_index, want, attention, ignored, draw):
    """The gradients for given d loss / d rows (r, n), which go into products relative to their largest."""
    prepared = Target(target, operand.shape[2], smoothing, ignore_index, operand.dtype)
    largest = grad_rows.abs().amax().float().reshape(1)
    scale = torch.where(largest > 0, largest, 1)
    relative = (grad_rows.float() / scale).contiguous()
    _, *gradients = _run(operand, prepared, want, attention, ignored, Draw(*draw), None, relative, scale, kernel)
    return tuple(gradients)


def mixed(scores, target, sampler, rows, grad_rows, scale, gradient, grad_attention):
    """The kernel of the mixed cross-entropy that suits the sizes."""
    operand = config.operand(scores)
    if (
        grad_attention is None
        and config.family().mixed_small(target.values.shape[0], scores.shape[2], operand) is not None
    ):
        return mixed_small.launch(scores, target, sampler, operand, rows, grad_rows, scale, gradient)
    return mixed_large.launch(scores, target, sampler, operand, rows, grad_rows, scale, gradient, grad_attention)
