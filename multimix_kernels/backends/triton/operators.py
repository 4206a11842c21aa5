"""The operators; what needs Triton is imported by the first call."""

from .host.capture import capturable


@capturable
def sample(b, r, dtype, attention, ignored, draw):
    """Interpolation weights (r, n, b)."""
    from .weights.sample import sample

    return sample(b, r, dtype, attention, ignored, *draw)


@capturable
def mix(values, attention, ignored, draw):
    """Convex combinations mu @ values: (r, b, d) -> (r, n, d)."""
    from .mix import mix

    return mix(values, attention, ignored, draw)


@capturable
def mix_backward(grad, values, want, attention, ignored, draw):
    """Gradients of `mix` with respect to values (r, b, d) and attention (r, b), in float32."""
    from .mix import mix_backward

    return mix_backward(grad, values, want.operand, want.attention, attention, ignored, draw)


@capturable
def mixed_cross_entropy(scores, target, options, want, attention, ignored, draw):
    """Loss of the mixed scores mu @ scores (r, n, c) against the mixed targets, with its gradients."""
    from .loss import forward, mixed

    return forward(mixed, scores, target, options, want, attention, ignored, draw)


@capturable
def mixed_cross_entropy_backward(grad_rows, scores, target, options, want, attention, ignored, draw):
    """Gradients of scores (r, b, c) and attention (r, b) for given d loss / d rows (r, n)."""
    from .loss import backward, mixed

    return backward(mixed, grad_rows, scores, target, options, want, attention, ignored, draw)


@capturable
def soft_cross_entropy(logits, target, options, want, attention, ignored, draw):
    """Loss of any head's logits (r, n, c) against the mixed targets, with its gradients."""
    from .loss import forward
    from .soft import launch

    return forward(launch, logits, target, options, want, attention, ignored, draw)


@capturable
def soft_cross_entropy_backward(grad_rows, logits, target, options, want, attention, ignored, draw):
    """Gradients of logits (r, n, c) and attention (r, b) for given d loss / d rows (r, n)."""
    from .loss import backward
    from .soft import launch

    return backward(launch, grad_rows, logits, target, options, want, attention, ignored, draw)
