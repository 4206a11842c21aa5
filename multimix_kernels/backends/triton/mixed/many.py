"""Mixed cross-entropy of many examples: nothing here has the size of all pairs of them.

A super-block of rows at a time: its mixed scores go to the scratch, `soft` turns them into losses and, in place, into
their gradient, and the gradients of `mix` lead that back to scores and attention.

Cost per row: 3 products of 2 b c operations with the gradient, 1 without; 2 c exponentials; the scratch, 2 b or 4 b
bytes per pass and about 24 c bytes, from the L2 cache.
"""

from ..host import device, shapes
from ..host.blocks import blocks
from ..mix import ValuesGradient, launch_mix, launch_weights_gradient, most_places, sizes_for
from ..products.operands import Preparation, preparation
from ..products.targets import Target, Upstream
from ..soft import launch_block, new_sums, target_for
from ..sums import AttentionGradient, Losses
from ..weights.sample import Sampler


def launch(scores, target: Target, sampler: Sampler, operand, losses: Losses, upstream: Upstream | None, scale,
           gradient, grad_attention) -> None:  # fmt: skip
    """Fills losses, gradient (r, b, c), grad_attention (r, b), where given."""
    r, b, c = scores.shape
    family, want_weights = shapes.family(scores), grad_attention is not None
    sizes = sizes_for(family.two_accumulators, operand, b, c)  # their operands are float32: small tiles
    height = shapes.ceil_div(c, sizes.features) * sizes.features
    most = most_places(height, sizes.width)
    soft = family.soft[operand]
    by_weights = AttentionGradient(grad_attention, sampler.attended, scale) if want_weights else None
    sums = None

    def prepare(here: slice) -> Preparation:
        """Of some locations. NaN stays: the product sees it, and what it may leave out."""
        return preparation(scores[here], target, sampler.left_out, sizes.width, height, operand, nan=True)

    with device.on_device(scores):
        classes = min(shapes.power_of_two(max(16, c)), soft.classes)
        ready = target_for(target, sampler.left_out, sizes.width, c, classes, scores.dtype)
        for block in blocks(sampler, r, scores.dtype, operand, want_weights, most, c, prepare):
            here = slice(block.first_location, block.first_location + block.places)
            sums = new_sums(block, soft.rows) if sums is None else sums
            if block.first == 0:
                values = block.preparation.finish().given_scores
            logits = block.logits
            if logits is None:
                raise ValueError("block: has no room for logits")
            launch_mix(values, block, logits, sizes, 0, 0, sampler.zeros, scores=True)
            launch_block(
                logits, 0, 0, target, ready, block, sampler, operand, losses.rows, sums, upstream, 1.0,
                None if gradient is None and not want_weights else logits,
                want_weights,
            )  # fmt: skip
            if gradient is not None:
                if block.first == 0:
                    total = ValuesGradient(gradient[here], sizes, block, most)
                total.add(logits, block, 0, 0)
                if block.last:
                    loss = losses.total(sums, ready.examples.mass) if here.stop == r else None
                    total.finish(scale, scores[here], loss)
            if by_weights is not None:
                launch_weights_gradient(logits, values, block, sizes, 0, 0, add=True)
                by_weights.add(block)
            if gradient is None and block.last and here.stop == r:
                losses.finish(sums, ready.examples.mass, b)
