"""The loss and the classifier as modules."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import arguments
from .attention import ACTIVATIONS, KINDS
from .functional import Alpha, dense_multimix_cross_entropy, mixed_cross_entropy, multimix_cross_entropy
from .scalars import as_number, is_number


def _mix_options(n: int, m: int | None, alpha: Alpha, backend: str | None) -> dict[str, Any]:
    """What shapes the mixtures, checked as far as it does not depend on the inputs."""
    arguments.check_alpha(alpha, None, None)
    arguments.check_backend(backend)
    return dict(n=arguments.check_rows(n), m=arguments.check_subset(m, None), backend=backend)


def _clamped(options: dict[str, Any], clamp_m: bool, b: int) -> dict[str, Any]:
    """With as many examples in a mixture as there are, if that is allowed."""
    return options | {"m": min(options["m"], b)} if clamp_m and options["m"] is not None else options


def _loss_options(label_smoothing: float | Tensor, ignore_index: int, reduction: str = "mean") -> dict[str, Any]:
    """How rows are compared with targets. A label smoothing that is a Tensor is read at each call."""
    number = arguments.check_loss_options(label_smoothing, reduction)
    return dict(
        label_smoothing=label_smoothing if isinstance(label_smoothing, Tensor) else number,
        ignore_index=arguments.check_ignore_index(ignore_index),
        reduction=reduction,
    )


def _plain_loss(logits: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
    """Cross-entropy of what is not mixed, for every target that the mixed losses take."""
    arguments.check_input(logits, "scores", dense=False)
    b, c = logits.shape
    target, _ = arguments.check_target(target, b, c, logits.device, options["ignore_index"])

    def loss(label_smoothing: float) -> Tensor:
        return F.cross_entropy(logits, target, **options | {"label_smoothing": label_smoothing})

    smoothing = options["label_smoothing"]
    if isinstance(smoothing, Tensor):
        smoothing = as_number(smoothing, "label_smoothing")
    if not isinstance(smoothing, Tensor):
        return loss(smoothing)
    # Not known yet, in a graph; the loss is linear in it. A masked class has an infinite part of none.
    none, smoothing = loss(0.0), smoothing.to(logits.dtype)
    return torch.where(smoothing == 0, none, (1 - smoothing) * none + smoothing * loss(1.0))


def _hold_alpha(module: "MultiMixLoss | MultiMixHead", alpha: Alpha) -> None:
    """A Tensor of the examples moves with the module, and is not in its state_dict; a number stays on the CPU."""
    if isinstance(alpha, Tensor) and not is_number(alpha):
        module.register_buffer("alpha", alpha, persistent=False)
    else:
        module.alpha = alpha


class MultiMixLoss(nn.Module):
    """The MultiMix loss in the place of `nn.CrossEntropyLoss`: `criterion(model(x), y)`.

    In training mode it mixes the scores of the mini-batch (`mixed_cross_entropy`): for a model that ends in a linear
    layer this is the loss of mixed embeddings, as the weights of a mixture sum to one. In eval mode it is
    `torch.nn.functional.cross_entropy` (dense scores: of their mean over the locations). It has no parameters; as an
    attribute of the model it follows the model's `train()` and `eval()`.

    Args:
        n, m, alpha, label_smoothing, ignore_index, backend: as in `multimix_cross_entropy`.
        clamp_m: mix all examples of a mini-batch that has fewer than m, as the last one of an epoch may; otherwise
            that is an error.
        reduction: "mean", "sum", or "none": (n,) or (n, *spatial) in training mode, (b,) in eval mode.

    Raises:
        ValueError, TypeError: naming the argument, here for all that does not depend on the inputs.
    """

    alpha: Alpha

    def __init__(
        self,
        *,
        n: int = 1000,
        m: int | None = None,
        clamp_m: bool = False,
        alpha: Alpha = (0.5, 2.0),
        label_smoothing: float | Tensor = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.clamp_m = clamp_m
        self.mix_options = _mix_options(n, m, alpha, backend)
        self.loss_options = _loss_options(label_smoothing, ignore_index, reduction)
        _hold_alpha(self, alpha)

    def forward(self, scores: Tensor, target: Tensor, attention: Tensor | None = None) -> Tensor:
        """The loss of scores (b, c), or (b, c, *spatial) with attention (b, *spatial) or uniform, and targets of (b,).

        Args:
            scores: the model's output before any softmax.
            target: class indices (b,) int64, or probabilities (b, c).
            attention: weights of the locations, not negative; None: uniform. Not used in eval mode.
        """
        arguments.check_input(scores, "scores", dense=True)
        if not self.training:
            return _plain_loss(scores.flatten(2).mean(2) if scores.dim() > 2 else scores, target, self.loss_options)
        options = _clamped(self.mix_options, self.clamp_m, scores.shape[0]) | self.loss_options
        return mixed_cross_entropy(scores, target, attention=attention, alpha=self.alpha, **options)

    def extra_repr(self) -> str:
        """The options that shape the mixtures."""
        return f"n={self.mix_options['n']}, m={self.mix_options['m']}, alpha={self.alpha}"


class MultiMixHead(nn.Linear):
    """An `nn.Linear` classifier (same parameters, same state_dict) that also computes the MultiMix loss.

    `head(x)` gives logits. `head(x, target)` gives the loss: mixed in training mode, plain cross-entropy in eval mode.

    Args:
        in_features: d.
        out_features: c.
        bias: whether to learn one.
        dense: inputs are feature maps (b, d, *spatial), mixed at every location; logits are of their mean over the
            locations. Otherwise inputs are (b, d).
        n, m, alpha, label_smoothing, ignore_index, backend: as in `multimix_cross_entropy`.
        clamp_m: mix all examples of a mini-batch that has fewer than m, as the last one of an epoch may; otherwise
            that is an error.
        attention, attention_activation, attention_grad: as in `dense_multimix_cross_entropy`; with dense only.
            attention is one of the names.
        device, dtype: of the parameters.

    Raises:
        ValueError, TypeError: naming the argument, here for all that does not depend on the inputs.
    """

    alpha: Alpha

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dense: bool = False,
        n: int = 1000,
        m: int | None = None,
        clamp_m: bool = False,
        alpha: Alpha = (0.5, 2.0),
        attention: str = "gap",
        attention_activation: str = "relu",
        attention_grad: bool = False,
        label_smoothing: float | Tensor = 0.0,
        ignore_index: int = -100,
        backend: str | None = None,
        device=None,
        dtype=None,
    ) -> None:
        mix_options = _mix_options(n, m, alpha, backend)
        loss_options = _loss_options(label_smoothing, ignore_index)
        arguments.check_choice(attention, "attention", KINDS)
        arguments.check_choice(attention_activation, "attention_activation", ACTIVATIONS)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.dense, self.clamp_m = dense, clamp_m
        self.mix_options, self.loss_options = mix_options, loss_options
        _hold_alpha(self, alpha)
        self.attention_options: dict[str, Any] = dict(
            attention=attention, attention_activation=attention_activation, attention_grad=attention_grad
        )

    @classmethod
    def from_linear(cls, linear: nn.Linear, **options) -> "MultiMixHead":
        """A head that shares the very parameters of a trained `nn.Linear`: an optimiser that holds them goes on.

        Args:
            linear: the classifier of a model.
            options: the keyword arguments of `MultiMixHead`.

        Raises:
            TypeError: linear is no plain `nn.Linear`: a subclass that computes something else, one with
                parametrized or pruned parameters, or a lazy one that has seen no input yet.
        """
        if not isinstance(linear, nn.Linear) or type(linear).forward not in (nn.Linear.forward, cls.forward):
            raise TypeError(f"linear: expected an nn.Linear that computes what nn.Linear does, got {type(linear)}")
        for name in ("weight", "bias"):
            parameter = linear._parameters.get(name)
            if parameter is None and (name == "weight" or getattr(linear, "bias", None) is not None):
                raise TypeError(
                    f"linear: expected a {name} that is a parameter, got one that is computed from others; remove the "
                    "parametrization or pruning first"
                )
            if parameter is not None and is_lazy(parameter):
                raise TypeError("linear: expected initialised parameters, got a lazy layer that has seen no input yet")
        has_bias = linear.bias is not None
        head = cls(
            linear.in_features, linear.out_features, has_bias, device="meta", dtype=linear.weight.dtype, **options
        )
        head.weight, head.bias = linear.weight, linear.bias
        return head.train(linear.training)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """Logits (b, c); with a target (b,) or (b, c), the loss, a scalar."""
        self._check_shape(input, target is not None)
        if target is not None and self.training:
            loss, options = multimix_cross_entropy, _clamped(self.mix_options, self.clamp_m, input.shape[0])
            if self.dense:
                loss, options = dense_multimix_cross_entropy, self.attention_options | options
            options = options | self.loss_options
            return loss(input, target, self.weight, self.bias, alpha=self.alpha, **options)
        logits = super().forward(input.flatten(2).mean(2) if self.dense and input.dim() > 2 else input)
        return logits if target is None else _plain_loss(logits, target, self.loss_options)

    def _check_shape(self, input: Tensor, loss: bool) -> None:
        """Without a target, a head that is not dense takes what `nn.Linear` takes: (..., d)."""
        arguments.check_tensor(input, "input", "a Tensor")
        d = self.in_features
        if self.dense and (input.dim() < 2 or input.shape[1] != d):
            raise ValueError(f"input: expected shape (b, {d}, *spatial), got {tuple(input.shape)}")
        if not self.dense and (input.shape[-1:] != (d,) or (loss and input.dim() != 2)):
            expected = f"(b, {d})" if loss else f"(..., {d})"
            raise ValueError(
                f"input: expected shape {expected}, got {tuple(input.shape)}; "
                f"feature maps (b, {d}, *spatial) need MultiMixHead(dense=True)"
            )

    def extra_repr(self) -> str:
        """Arguments that differ from those of `nn.Linear`."""
        return f"{super().extra_repr()}, dense={self.dense}, n={self.mix_options['n']}"
