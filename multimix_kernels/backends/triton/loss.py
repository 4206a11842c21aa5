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
from .sums import finish
from .weights.sample import Sampler
from .weights.stream import LOG_SPACE


def _new(x: Tensor, shape: tuple[int, ...], wanted: bool = True) -> Tensor:
    return x.new_empty(shape if wanted else (0,), dtype=torch.float32)


def _run(kernel, operand, target: Target, want, attention, ignored, draw, rows, upstream, scale):
    r = operand.shape[0]
    b = target.values.shape[0]
    sampler = Sampler(b, attention, ignored, draw)

    def run():
        gradient, grad_attention = _new(operand, tuple(operand.shape), want[0]), _new(operand, (r, b), want[1])
        outputs = (gradient if want[0] else None, grad_attention if want[1] else None)
        return *kernel(operand, target, sampler, rows, upstream, scale, *outputs), gradient, grad_attention

    flags = (tuple(want), target.by_label, upstream is None, rows is None, sampler.flags)
    return tuned(kernel.__module__ + kernel.__name__, operand, b, draw.n, flags, run)


def forward(kernel, operand, target, options, want, attention, ignored, draw):
    """The loss and its gradients."""
    prepared = Target(target, operand.shape[2], options.label_smoothing, options.ignore_index)
    rows = _new(operand, (operand.shape[0], draw.n)) if options.reduction == NONE else None
    scale = 1 / (operand.shape[0] * draw.n) if options.reduction == MEAN else 1.0
    sums, mass, *gradients = _run(kernel, operand, prepared, want, attention, ignored, draw, rows, None, scale)
    if rows is not None:
        return rows, *gradients
    # As in F.cross_entropy the mean is NaN if every example is ignored.
    checked = mass if options.reduction == MEAN and prepared.by_label else None
    with device.on_device(operand):
        loss = finish(sums, scale, checked, prepared.values.shape[0])
    return loss, *gradients


def backward(kernel, grad_rows, operand, target, options, want, attention, ignored, draw):
    """The gradients for given d loss / d rows (r, n)."""
    prepared = Target(target, operand.shape[2], options.label_smoothing, options.ignore_index)
    upstream = upstream_of(grad_rows)
    _, _, *gradients = _run(kernel, operand, prepared, want, attention, ignored, draw, None, upstream, upstream.scale)
    return tuple(gradients)


def mixed(scores, target, sampler, rows, upstream, scale, gradient, grad_attention):
    """The kernels of the mixed cross-entropy that suit the sizes: loss and scores' gradient by the same ones always."""
    operand = device.operand(scores)
    b, c = sampler.b, scores.shape[2]
    common = scores, target, sampler, operand
    # Draws in log space, and subsets, leave too few registers for all in one kernel, and would gain nothing by it.
    fused = not sampler.subset and sampler.kind != LOG_SPACE.value
    if not fused or shapes.family(scores).mixed_small(b, c, operand) is None:
        large = mixed_large if b <= shapes.MOST_PAIRS_OF_EXAMPLES else mixed_many
        return large.launch(*common, rows, upstream, scale, gradient, grad_attention)
    found = mixed_small.launch(*common, rows, upstream, scale, gradient)
    if grad_attention is not None:
        mixed_large.launch(*common, None, upstream, scale, None, grad_attention)
    return found
