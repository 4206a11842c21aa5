"""`warm_up`: a step of zeros, so that a later one has nothing to compile, to load or to verify."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from . import arguments
from .functional import (
    Alpha,
    dense_multimix_cross_entropy,
    mixed_cross_entropy,
    multimix,
    multimix_cross_entropy,
    sample_dirichlet,
)


def warm_up(
    b: int,
    c: int | None = None,
    *,
    d: int | None = None,
    spatial: tuple[int, ...] = (),
    n: int = 1000,
    m: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    attention: bool = False,
    attention_grad: bool = False,
    probabilities: bool = False,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> None:
    """Does what a first step would have to: compiles kernels, loads libraries, verifies backends.

    Triton compiles for some seconds, and in the capture of a CUDA graph nothing can be compiled. Afterwards a step of
    these sizes, dtypes and options compiles nothing, neither at once nor in a capture. Where sizes change (a last
    mini-batch), call it for each of them.

    What is done follows from the sizes: with c the loss of class scores (`mixed_cross_entropy`, `MultiMixLoss`,
    `MultiMixHead`); with d the mixing of embeddings (`multimix`), its `Mixture.cross_entropy` with c, and the loss of a
    linear head (`multimix_cross_entropy`, or `dense_multimix_cross_entropy` if spatial), whose matrix product torch has
    to prepare, too; with neither `sample_dirichlet`. Backward as well, except under `torch.no_grad`. Autocast and
    PyTorch's precision of matrix products should be those of the step. No generator of random numbers moves.

    Args:
        b: examples in the mini-batch.
        c: classes.
        d: embedding dimensions.
        spatial: sizes of the locations of feature maps and dense scores.
        n, m, alpha, label_smoothing, reduction, backend: as in `multimix_cross_entropy`.
        attention: whether `mixed_cross_entropy` and `multimix` are given attention.
        attention_grad: whether gradients flow to attention; as in `dense_multimix_cross_entropy`.
        probabilities: whether targets are probabilities (b, c), in the dtype of the operands, not class indices.
        dtype: float32, bfloat16, float16 or float64 of scores, embeddings and classifier.
        device: of all tensors; None: the default device.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason; or a CUDA graph is being captured.
    """
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("warm_up: a CUDA graph is being captured, in which nothing can be compiled; call it before")
    b, c, d = _size(b, "b"), c if c is None else _size(c, "c"), d if d is None else _size(d, "d")
    spatial = arguments.check_spatial(spatial)
    arguments.check_loss_options(label_smoothing, reduction)
    if dtype not in arguments.DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16, float16 or float64, got {dtype}")
    draw: dict[str, Any] = dict(n=n, m=m, alpha=alpha, seed=0, backend=backend)
    loss: dict[str, Any] = dict(label_smoothing=label_smoothing, reduction=reduction)
    if c is None and d is None:
        sample_dirichlet(b=b, spatial=spatial, dtype=dtype, device=device, **draw)
        return

    def leaf(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)

    given = None
    if attention:
        given = torch.ones((b, *spatial), dtype=dtype, device=device, requires_grad=attention_grad)
    if c is not None:
        target = _target(b, c, probabilities, dtype, device)
        scores = leaf(b, c, *spatial)
        _backward(mixed_cross_entropy(scores, target, attention=given, **draw, **loss), [scores, given])
    if d is None:
        return
    input = leaf(b, d, *spatial)
    mixture = multimix(input, attention=given, **draw)
    _backward(mixture.embeddings, [input, given])
    if c is not None:
        weight, bias, logits = leaf(c, d), leaf(c), leaf(n, c, *spatial)
        _backward(mixture.cross_entropy(logits, target, **loss), [logits, given])
        if spatial:
            found = dense_multimix_cross_entropy(
                input, target, weight, bias, attention_grad=attention_grad, **draw, **loss
            )
        else:
            found = multimix_cross_entropy(input, target, weight, bias, **draw, **loss)
        _backward(found, [input, weight, bias])


def _size(size: int, name: str) -> int:
    size = arguments.as_integer(size, name)
    if size < 1:
        raise ValueError(f"{name}: expected at least 1, got {size}")
    return size


def _target(b: int, c: int, probabilities: bool, dtype: torch.dtype, device) -> Tensor:
    if probabilities:
        return torch.full((b, c), 1 / c, dtype=dtype, device=device)
    return torch.zeros(b, dtype=torch.int64, device=device)


def _backward(output: Tensor, inputs: Sequence[Tensor | None]) -> None:
    """For the gradients that a loss of the output may send: dense ones, and one number for all elements."""
    if not output.requires_grad:
        return
    leaves = [x for x in inputs if x is not None and x.requires_grad]
    for upstream in _upstream(output):
        torch.autograd.grad(output, leaves, upstream, retain_graph=True)


def _upstream(output: Tensor) -> Iterator[Tensor]:
    yield torch.ones_like(output)
    if output.dim():
        yield output.new_ones(()).expand_as(output)
