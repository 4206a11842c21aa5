"""The loss operators: the choice of the kernel, reductions, and scales."""

import torch
from torch import Tensor

from ..contract import MEAN, NONE
from .host import device, shapes
from .host.tune import tuned
from .mixed import large as mixed_large
from .mixed import many as mixed_many
from .mixed import small as mixed_small
from .products.targets import Target, upstream_of
from .sums import NO_LOSSES, Losses
from .weights.sample import Sampler
from .weights.stream import LOG_SPACE


def _new(x: Tensor, shape: tuple[int, ...], wanted: bool = True) -> Tensor:
    return x.new_empty(shape if wanted else (0,), dtype=torch.float32)


def _run(kernel, operand, target: Target, losses: Losses, want, attention, ignored, draw, upstream, scale):
    r, b = operand.shape[0], target.values.shape[0]
    sampler = Sampler(b, attention, ignored, draw)

    def run():
        gradient, grad_attention = _new(operand, tuple(operand.shape), want[0]), _new(operand, (r, b), want[1])
        outputs = (gradient if want[0] else None, grad_attention if want[1] else None)
        kernel(operand, target, sampler, losses, upstream, scale, *outputs)
        return gradient, grad_attention

    flags = (tuple(want), target.by_label, upstream is None, losses.rows is None, sampler.flags)
    return tuned(kernel.__module__ + kernel.__name__, operand, b, draw.n, flags, run)


def forward(kernel, operand, target, options, want, attention, ignored, draw):
    """The loss and its gradients."""
    prepared = Target(target, operand.shape[2], options.label_smoothing, options.ignore_index)
    mean, r = options.reduction == MEAN, operand.shape[0]
    scale = 1 / (r * draw.n) if mean else 1.0
    rows = _new(operand, (r, draw.n)) if options.reduction == NONE else None
    out = _new(operand, ()) if rows is None else None
    # As in F.cross_entropy the mean is NaN if every example is ignored.
    losses = Losses(rows, out, scale, mean and prepared.by_label)
    gradients = _run(kernel, operand, prepared, losses, want, attention, ignored, draw, None, scale)
    return out if rows is None else rows, *gradients


def backward(kernel, grad_rows, operand, target, options, want, attention, ignored, draw):
    """The gradients for given d loss / d rows (r, n)."""
    prepared = Target(target, operand.shape[2], options.label_smoothing, options.ignore_index)
    upstream = upstream_of(grad_rows)
    return _run(kernel, operand, prepared, NO_LOSSES, want, attention, ignored, draw, upstream, upstream.scale)


def mixed(scores, target, sampler, losses, upstream, scale, gradient, grad_attention) -> None:
    """The kernels of the mixed cross-entropy that suit the sizes: loss and scores' gradient by the same ones always."""
    operand = device.operand(scores)
    b, c = sampler.b, scores.shape[2]
    common = scores, target, sampler, operand
    # Draws in log space, and subsets, leave too few registers for all in one kernel, and would gain nothing by it.
    fused = not sampler.subset and sampler.kind != LOG_SPACE.value
    if not fused or shapes.family(scores).mixed_small(b, c, operand) is None:
        large = mixed_large if b <= shapes.MOST_PAIRS_OF_EXAMPLES else mixed_many
        large.launch(*common, losses, upstream, scale, gradient, grad_attention)
        return
    mixed_small.launch(*common, losses, upstream, scale, gradient)
    if grad_attention is not None:
        mixed_large.launch(*common, NO_LOSSES, upstream, scale, None, grad_attention)
