"""The classifier as a module."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .functional import Alpha, dense_multimix_cross_entropy, multimix_cross_entropy


class MultiMixHead(nn.Linear):
    """An `nn.Linear` classifier (same parameters, same state_dict) that also computes the MultiMix loss.

    `head(x)` gives logits. `head(x, target)` gives the loss: mixed in training mode, plain cross-entropy in eval mode.

    Args:
        in_features: d. out_features: c. bias: whether to learn one.
        dense: inputs are feature maps (b, d, *spatial), mixed at every location; logits are of their mean over the
            locations. Otherwise inputs are (b, d).
        n, m, alpha, label_smoothing, ignore_index, backend: as in `multimix_cross_entropy`.
        attention, attention_activation, attention_grad: as in `dense_multimix_cross_entropy`; with dense only.
        device, dtype: of the parameters.
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
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.dense = dense
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
        if target is not None and self.training:
            loss, options = multimix_cross_entropy, {}
            if self.dense:
                loss, options = dense_multimix_cross_entropy, self.attention_options
            options = options | self.mix_options | self.loss_options
            return loss(input, target, self.weight, self.bias, alpha=self.alpha, **options)
        logits = super().forward(input.flatten(2).mean(2) if self.dense and input.dim() > 2 else input)
        return logits if target is None else F.cross_entropy(logits, target, **self.loss_options)

    def extra_repr(self) -> str:
        """Arguments that differ from those of `nn.Linear`."""
        return f"{super().extra_repr()}, dense={self.dense}, n={self.mix_options['n']}"
