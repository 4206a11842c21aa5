"""The public functions: they check arguments, draw the seed, choose the backend, and call autograd.

Symbols: b examples in the mini-batch, d embedding dimensions, c classes, n interpolated examples per location, m
examples in each interpolation. Source of the method: Venkataramanan, Kijak, Amsaleg, Avrithis, "Embedding Space
Interpolation Beyond Mini-Batch, Beyond Pairs and Beyond Examples", NeurIPS 2023, arXiv 2311.05538.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import arguments, autograd, backends, ops
from .attention import ACTIVATIONS, KINDS, attention_map
from .backends.contract import REDUCTIONS, Draw, LossOptions
from .backends.scheduled import numbers_of
from .memory import reserve
from .mixture import Mixture

Alpha = float | tuple[float | Tensor, float | Tensor] | Tensor


def multimix_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
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
    """MultiMix: cross-entropy of a linear classifier on n random convex combinations of a mini-batch.

    For k = 1...n: lambda_k ~ Dirichlet(alpha_k), and the loss is the mean of
    H(sum_i lambda_ki y_i, softmax(W sum_i lambda_ki z_i + bias)).

    A bias of -inf or finfo.min takes its class away: its probability is 0, at no cost where its mixed target is 0, at
    infinite cost where it is not (label smoothing puts target on every class), as in
    `torch.nn.functional.cross_entropy`.

    Args:
        input: embeddings z (b, d); float32, bfloat16, float16 or float64.
        target: class indices (b,), or probabilities (b, c). Indices of any integer dtype are converted to int64;
            `torch.nn.functional.cross_entropy` takes int64 and uint8 only.
        weight: W (c, d) of the classifier (a 1x1 convolution's (c, d, 1, 1) is taken too).
        bias: (c,) or None.
        n: number of interpolated examples.
        m: examples in each interpolation, drawn uniformly without replacement; None: all b. At most b: where the
            last mini-batch of an epoch is smaller, pass min(m, len(input)), or drop that batch.
        alpha: Dirichlet concentration within [0.01, 1000]: a float; a (low, high) range, from which one is drawn
            for each interpolation; or a Tensor (b,), one per example, whose draws take longer. A number that changes
            from step to step may be a Tensor () on the CPU: a compiled graph reads it when it runs. A float is compiled
            once more when it changes for the first time, and read from then on.
        label_smoothing: as in `torch.nn.functional.cross_entropy`; a float, or a Tensor () on the CPU as for alpha.
        ignore_index: an example with this class index is left out of every mixture. If all are, the mean is NaN.
        reduction: "mean", "sum", or "none".
        seed: int or int64 Tensor with one element that names the draw; None draws one with torch.randint. Where
            torch.distributed is initialised, such a seed is mixed with the global rank, so that ranks with the same
            torch.manual_seed draw different weights, each reproducibly; rank 0 draws what one process draws. Ranks
            that must agree (tensor or pipeline parallel) pass the same seed, or generators in the same state.
        generator: for drawing the seed, which is then not mixed with the rank.
        row_offset: interpolations row_offset ... row_offset + n - 1 of the seed's stream are used, so that shards
            of one draw can be computed apart.
        backend: None (the best available, on a GPU the fastest that is verified there; or MULTIMIX_BACKEND),
            "reference", "cpu", "triton" or "cuda". The first call on a GPU may have to verify them, in a process of
            its own, which takes a minute; MULTIMIX_VERIFY=off skips it, `require` makes a missing verdict an error.

    Returns:
        A scalar, or (n,) with reduction "none"; float32, float64 for float64 input.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    arguments.check_input(input, "input", dense=False)
    head = _Head(input, target, weight, bias, label_smoothing, ignore_index, reduction)
    return head.loss(None, n, m, alpha, seed, generator, row_offset, backend)


def dense_multimix_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    attention: str | Tensor = "gap",
    attention_activation: str = "relu",
    attention_grad: bool = False,
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
    """Dense MultiMix: MultiMix at every spatial location, with weights scaled by the examples' attention there.

    At location j: mu_ki is proportional to a_ij lambda_ki, and the loss is the mean over locations and k of
    H(sum_i mu_ki y_i, softmax(W sum_i mu_ki z_ij + bias)). A row whose every attention is zero uses uniform
    attention. A bias of -inf takes its class away, as in `multimix_cross_entropy`.

    Args:
        input: feature maps z (b, d, *spatial).
        target: class indices (b,) int64, or probabilities (b, c), one per image.
        weight, bias: the classifier, (c, d) and (c,).
        attention: "gap", "cam" or "uniform" (see `attention_map`), or a Tensor (b, *spatial), not negative.
        attention_activation: "relu" or "softmax".
        attention_grad: whether gradients flow through the attention; otherwise it is a constant.
        n: number of interpolated examples per location.
        m, alpha, label_smoothing, ignore_index, reduction, seed, generator, row_offset, backend: as in
            `multimix_cross_entropy`.

    Returns:
        A scalar, or (n, *spatial) with reduction "none"; float32, float64 for float64 input.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    arguments.check_input(input, "input", dense=True)
    head = _Head(input, target, weight, bias, label_smoothing, ignore_index, reduction)
    arguments.check_choice(attention_activation, "attention_activation", ACTIVATIONS)
    if isinstance(attention, str):
        arguments.check_choice(attention, "attention", KINDS, " or a Tensor (b, *spatial)")
        with torch.set_grad_enabled(attention_grad and torch.is_grad_enabled()):
            attention = attention_map(input, attention, attention_activation, weight=head.weight, target=head.target)
    else:
        arguments.check_attention(attention, input.shape[0], input.shape[2:], input)
        attention = attention if attention_grad else attention.detach()
    return head.loss(attention, n, m, alpha, seed, generator, row_offset, backend)


def mixed_cross_entropy(
    scores: Tensor,
    target: Tensor,
    *,
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
    """MultiMix of class scores: the loss of any head that is linear in what it mixes.

    Weights sum to one, so W z~ + bias = sum_i mu_i (W z_i + bias): mixing the scores of the examples gives the same
    loss as mixing their embeddings, and never sees d.

    A score of -inf or finfo.min of its dtype says that the class does not exist for the example: mixtures in which this
    example has weight give the class probability 0, at no cost where its mixed target is 0 and at infinite cost where
    it is not (label smoothing puts target on every class), as in `torch.nn.functional.cross_entropy`. These scores have
    no gradient.

    Args:
        scores: W z_i + bias, (b, c) or (b, c, *spatial).
        target: class indices (b,) int64, or probabilities (b, c).
        attention: (b, *spatial), not negative, or None for uniform; gradients flow to it if it requires grad.
        n, m, alpha, label_smoothing, ignore_index, reduction, seed, generator, row_offset, backend: as in
            `multimix_cross_entropy`.

    Returns:
        A scalar, or with reduction "none" (n,) or (n, *spatial); float32, float64 for float64 scores.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    arguments.check_input(scores, "scores", dense=True)
    b, c, *spatial = scores.shape
    smoothing = arguments.check_loss_options(label_smoothing, reduction)
    ignore_index = arguments.check_ignore_index(ignore_index)
    target, ignored = arguments.check_target(target, b, c, scores.device, ignore_index)
    if attention is not None:
        arguments.check_attention(attention, b, spatial, scores)
    draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, b, scores.device)
    name = backends.choose(backend, scores.device, scores.dtype, "mixed_cross_entropy").name
    _reserve_rows(reduction, draw, spatial, scores)
    loss = autograd.cross_entropy(
        "mixed_cross_entropy", _locations_first(scores), _flat_attention(attention), target, ignored,
        LossOptions(smoothing, ignore_index, REDUCTIONS[reduction]), name, draw,
    )  # fmt: skip
    return loss if reduction != "none" else loss.T.reshape(draw.n, *spatial)


def multimix(
    input: Tensor,
    *,
    attention: Tensor | None = None,
    n: int = 1000,
    m: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    backend: str | None = None,
) -> Mixture:
    """n random convex combinations of a mini-batch's embeddings, for heads that are not linear.

    Args:
        input: embeddings (b, d) or feature maps (b, d, *spatial).
        attention: (b, *spatial), not negative, or None for uniform; gradients flow to it if it requires grad. An
            example with zero attention everywhere is left out.
        n, m, alpha, seed, generator, row_offset, backend: as in `multimix_cross_entropy`.

    Returns:
        A `Mixture`: its `embeddings` go through the user's head, whose logits go to its `cross_entropy`.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    arguments.check_input(input, "input", dense=True)
    if attention is not None:
        arguments.check_attention(attention, input.shape[0], input.shape[2:], input)
    draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, input.shape[0], input.device)
    name = backends.choose(backend, input.device, input.dtype, "mix").name
    return _mix(input, attention, None, name, draw)


def sample_dirichlet(
    n: int,
    b: int,
    *,
    m: int | None = None,
    alpha: Alpha = (0.5, 2.0),
    spatial: tuple[int, ...] = (),
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    row_offset: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Dirichlet weights: the draw that the losses of this library make, written out.

    Args:
        n: rows. b: examples in each row.
        spatial: for independent draws at every location.
        dtype: float32, bfloat16, float16 or float64 of the result.
        device: of the result; None: the default device.
        m, alpha, seed, generator, row_offset, backend: as in `multimix_cross_entropy`.

    Returns:
        (n, b) or (n, b, *spatial); sums over examples are one.

    Raises:
        ValueError, TypeError: naming the argument.
        RuntimeError: the backend is not available here, with the reason.
    """
    b = arguments.as_integer(b, "b")
    if not 1 <= b <= 2**63 - 1:
        raise ValueError(f"b: expected at least 1 example, and at most 2**63 - 1, got {b}")
    spatial = arguments.check_spatial(spatial)
    if dtype not in arguments.DTYPES:
        raise TypeError(f"dtype: expected float32, bfloat16, float16 or float64, got {dtype}")
    device = torch.empty(0, device=device).device  # "cuda" is the current device, "cpu:0" is "cpu"
    draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, b, device)
    name = backends.choose(backend, device, dtype, "sample").name
    reserve(f"weights of n = {draw.n} rows of b = {b} examples", (draw.n, b, *spatial), dtype, device)
    r = torch.Size(spatial).numel()
    weights = ops.call(name, "sample", b, r, dtype, None, None, draw, numbers=numbers_of(draw))
    return weights.permute(1, 2, 0).reshape(draw.n, b, *spatial)


class _Head:
    """A linear classifier and a mini-batch, checked once."""

    def __init__(self, input, target, weight, bias, label_smoothing, ignore_index, reduction) -> None:
        self.input, self.bias, self.reduction = input, bias, reduction
        self.weight = arguments.check_classifier(weight, bias, input)
        self.label_smoothing = arguments.check_loss_options(label_smoothing, reduction)
        self.ignore_index = arguments.check_ignore_index(ignore_index)
        b, c = input.shape[0], self.weight.shape[0]
        self.target, self.ignored = arguments.check_target(target, b, c, input.device, self.ignore_index)

    def loss(self, attention, n, m, alpha, seed, generator, row_offset, backend) -> Tensor:
        """By mixing scores, or in the order of the paper for a backend that does."""
        b, _, *spatial = self.input.shape
        draw = arguments.make_draw(n, m, alpha, seed, generator, row_offset, b, self.input.device)
        row = backends.choose(backend, self.input.device, self.input.dtype, "mixed_cross_entropy")
        options = LossOptions(self.label_smoothing, self.ignore_index, REDUCTIONS[self.reduction])
        if row.mixes_embeddings:
            mixture = _mix(self.input, attention, self.ignored, row.name, draw)
            logits = F.linear(_channels_last(mixture.embeddings), self.weight, self.bias).movedim(-1, 1)
            return mixture._cross_entropy(logits, self.target, options)
        _reserve_rows(self.reduction, draw, spatial, self.input)
        if spatial:
            scores = F.linear(_locations_first(self.input), self.weight, self.bias)
        else:
            scores = F.linear(self.input, self.weight, self.bias).unsqueeze(0)
        loss = autograd.cross_entropy(
            "mixed_cross_entropy", scores, _flat_attention(attention), self.target, self.ignored, options, row.name,
            draw,
        )  # fmt: skip
        return loss if self.reduction != "none" else loss.T.reshape(draw.n, *spatial)


def _reserve_rows(reduction: str, draw: Draw, spatial: Sequence[int], x: Tensor) -> None:
    """The losses of all rows, where they are not reduced."""
    if reduction == "none":
        dtype = torch.promote_types(x.dtype, torch.float32)
        reserve(f"losses of n = {draw.n} rows", (draw.n, *spatial), dtype, x.device)


def _mix(input: Tensor, attention: Tensor | None, ignored: Tensor | None, backend: str, draw: Draw) -> Mixture:
    return Mixture(_locations_first(input), _flat_attention(attention), ignored, tuple(input.shape[2:]), backend, draw)


def _locations_first(x: Tensor) -> Tensor:
    """(b, d, *spatial) -> (r, b, d)."""
    return x.unsqueeze(0) if x.dim() == 2 else x.reshape(*x.shape[:2], x.shape[2:].numel()).permute(2, 0, 1)


def _channels_last(x: Tensor) -> Tensor:
    """(n, d, *spatial) -> (n, *spatial, d)."""
    return x.movedim(1, -1)


def _flat_attention(attention: Tensor | None) -> Tensor | None:
    """(b, *spatial) -> (r, b)."""
    return None if attention is None else attention.reshape(attention.shape[0], -1).T
