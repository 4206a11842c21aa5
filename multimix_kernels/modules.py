"""The classifier as a module."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from . import arguments
from .attention import ACTIVATIONS, KINDS
from .functional import Alpha, dense_multimix_cross_entropy, multimix_cross_entropy


class MultiMixHead(nn.Linear):
    """An `nn.Linear` classifier (same parameters, same state_dict) that also computes the MultiMix loss.

    `head(x)` gives logits. `head(x, target)` gives the loss: mixed in training mode, plain cross-entropy in eval mode.

    Args:
        in_features: d. out_features: c. bias: whether to learn one.
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
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        backend: str | None = None,
        device=None,
        dtype=None,
    ) -> None:
        n, m = arguments.check_rows(n), arguments.check_subset(m, None)
        arguments.check_alpha(alpha, None, None)
        label_smoothing = arguments.check_loss_options(label_smoothing, "mean")
        ignore_index = arguments.check_ignore_index(ignore_index)
        arguments.check_choice(attention, "attention", KINDS)
        arguments.check_choice(attention_activation, "attention_activation", ACTIVATIONS)
        arguments.check_backend(backend)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.dense, self.clamp_m = dense, clamp_m
        self.mix_options: dict[str, Any] = dict(n=n, m=m, backend=backend)
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha, persistent=False)  # moves with the module, is not in its state_dict
        else:
            self.alpha = alpha
        self.attention_options: dict[str, Any] = dict(
            attention=attention, attention_activation=attention_activation, attention_grad=attention_grad
        )
        self.loss_options: dict[str, Any] = dict(label_smoothing=label_smoothing, ignore_index=ignore_index)

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:
        """Logits (b, c); with a target (b,) or (b, c), the loss, a scalar."""
        self._check_shape(input, target is not None)
        if target is not None and self.training:
            loss, options = multimix_cross_entropy, self.mix_options | self.loss_options
            if self.dense:
                loss, options = dense_multimix_cross_entropy, self.attention_options | options
            if self.clamp_m and options["m"] is not None:
                options["m"] = min(options["m"], input.shape[0])
            return loss(input, target, self.weight, self.bias, alpha=self.alpha, **options)
        logits = super().forward(input.flatten(2).mean(2) if self.dense and input.dim() > 2 else input)
        if target is None:
            return logits
        b, c = logits.shape
        target = arguments.check_target(target, b, c, logits.device, self.loss_options["ignore_index"])
        return F.cross_entropy(logits, target, **self.loss_options)

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
