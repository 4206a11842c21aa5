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
    label_smoothing: float = 0.0,
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
    _check_target(target, input, ignore_index)
    arguments.check_loss_options(label_smoothing, reduction)
    if chunk is not None and not arguments.is_integer(chunk):
        raise TypeError(f"chunk: expected an int or None, got {chunk!r}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk: expected at least 1 interpolated example, got {chunk}")
    draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, input.shape[0], input.device)
    name = backends.choose(backend, input.device, input.dtype).name
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


def _check_target(target: Tensor, input: Tensor, ignore_index: int) -> None:
    """What decides who is mixed; the classes are checked against the logits, when there are some."""
    b = input.shape[0]
    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected a Tensor ({b},) or ({b}, c), got {type(target).__name__}")
    if target.dim() == 2:
        c = target.shape[1]
        arguments.check_target(target, b, c, input.device, ignore_index)
    elif target.shape != (b,) or target.device != input.device or target.dtype != torch.int64:
        raise ValueError(
            f"target: expected class indices ({b},) int64 on {input.device} or probabilities ({b}, c), got "
            f"{target.dtype} of shape {tuple(target.shape)} on {target.device}"
        )
    elif not arguments.is_integer(ignore_index):
        raise TypeError(f"ignore_index: expected an int, got {ignore_index!r}")
