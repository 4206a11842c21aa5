"""Mixtures of any head in bounded memory: rows in chunks, whose embeddings and logits the backward computes again.

A head that is not linear needs the mixed embeddings, n x d numbers, and keeps its own activations for the backward.
Here only one chunk of rows exists at a time. Rows are named by (seed, row), so the chunks are the rows of the one draw,
and the loss and its gradients those of the unchunked call, to rounding. Cost: the forward pass of the head twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import arguments, backends
from .functional import Alpha, _mix

MIXTURES = 4096  # mixed embeddings in a chunk where no size is given


def multimix_head_cross_entropy(
    head: Callable[[Tensor], Tensor],
    input: Tensor,
    target: Tensor,
    *,
    chunk: int | None = None,
    attention: Tensor | None = None,
    n: int = 1000,
    m: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    label_smoothing: float | Tensor = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """MultiMix of a head that is not linear, at the memory of one chunk of mixtures whatever n is.

    The same as `mixture = multimix(input, ...)` and `mixture.cross_entropy(head(mixture.embeddings), target)`, with
    ignored examples left out of every mixture. A linear head goes to `multimix_cross_entropy`, which is faster.

    Args:
        head: maps embeddings (k, d) to logits (k, c), or (k, d, *spatial) to (k, c, *spatial), each row by itself.
            Batch normalisation sees the statistics of a chunk, and counts each chunk twice in its running ones;
            dropout draws the same in both passes.
        input: embeddings z (b, d) or feature maps (b, d, *spatial); float32, bfloat16, float16 or float64.
        target: class indices (b,) int64, or probabilities (b, c).
        chunk: interpolated examples (rows) at a time; None: about 4096 mixtures, locations counted.
        attention: (b, *spatial), not negative, or None for uniform; gradients flow to it if it requires grad.
        n, m, alpha, label_smoothing, ignore_index, reduction, seed, generator, row_offset, backend: as in
            `multimix_cross_entropy`.

    Returns:
        A scalar, or with reduction "none" (n,) or (n, *spatial); float32, float64 for float64 logits.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    if not callable(head):
        raise TypeError(f"head: expected a module or function of embeddings, got {type(head).__name__}")
    arguments.check_input(input, "input", dense=True)
    label_smoothing = arguments.check_loss_options(label_smoothing, reduction)
    ignore_index = arguments.check_ignore_index(ignore_index)
    target = _check_target(target, input)
    if attention is not None:
        arguments.check_attention(attention, input.shape[0], input.shape[2:], input)
    chunk = None if chunk is None else arguments.as_integer(chunk, "chunk", "an int or None")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: expected at least 1 interpolated example, got {chunk}")
    draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, input.shape[0], input.device)
    name = backends.choose(backend, input.device, input.dtype, "mix").name
    rows = chunk or max(1, MIXTURES // input.shape[2:].numel())
    options: dict[str, Any] = dict(label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction)
    ignored = arguments.ignored_examples(target, ignore_index)

    def losses(input: Tensor, attention: Tensor | None, first: int, count: int) -> Tensor:
        part = draw._replace(n=count, row_offset=draw.row_offset + first)
        mixture = _mix(input, attention, ignored, name, part)
        return mixture.cross_entropy(head(mixture.embeddings), target, **options)

    parts = []
    for first in range(0, draw.n, rows):
        count = min(rows, draw.n - first)
        loss = checkpoint(losses, input, attention, first, count, use_reentrant=False)
        # Means of unequal chunks, so that a mean without any example is NaN like the unchunked one.
        parts.append(loss * (count / draw.n) if reduction == "mean" else loss)
    return torch.cat(parts) if reduction == "none" else torch.stack(parts).sum()


def _check_target(target: Tensor, input: Tensor) -> Tensor:
    """What decides who is mixed; labels are checked against the classes when there are logits."""
    classes = target.shape[1] if isinstance(target, Tensor) and target.dim() == 2 else "c"
    return arguments.check_target(target, input.shape[0], classes, input.device, None)[0]
