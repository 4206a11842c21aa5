"""The result of `multimix`: mixed embeddings, and the weights that made them, by name."""

import torch
from torch import Tensor

from . import arguments, autograd, ops
from .backends.contract import REDUCTIONS, Draw, LossOptions


class Mixture:
    """n convex combinations of a mini-batch. Made by `multimix`; the weights are not stored but drawn again.

    Attributes:
        embeddings: (n, d) or (n, d, *spatial), in the dtype of the input, differentiable.
        seed: int64 Tensor (1,) that names the weights.
    """

    def __init__(
        self,
        values: Tensor,
        attention: Tensor | None,
        ignored: Tensor | None,
        spatial: tuple[int, ...],
        backend: str,
        draw: Draw,
    ) -> None:
        # A seed of its own: the caller may use the tensor for the next draw.
        self._draw = draw = draw._replace(seed=draw.seed.clone())
        self._b, self._spatial, self._backend = values.shape[1], spatial, backend
        self._attention, self._ignored = attention, ignored
        self.embeddings = self._public(autograd.mix(values, attention, ignored, backend, draw))

    @property
    def seed(self) -> Tensor:
        """int64 Tensor (1,) that names the weights."""
        return self._draw.seed

    def targets(self, target: Tensor, num_classes: int) -> Tensor:
        """Mixed targets (n, c) or (n, c, *spatial), float32 (float64 for float64 probabilities).

        Args:
            target: class indices (b,) int64 or probabilities (b, c).
            num_classes: c.
        """
        if not arguments.is_integer(num_classes):
            raise TypeError(f"num_classes: expected an int, got {num_classes!r}")
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1 class, got {num_classes}")
        target = arguments.check_target(target, self._b, num_classes, self.seed.device, -100)
        y = target
        if not target.is_floating_point():
            known = torch.where((target >= 0) & (target < num_classes), target, num_classes)
            y = (
                known.unsqueeze(1) == torch.arange(num_classes, device=target.device)
            ).float()  # F.one_hot reads values
        elif target.dtype != torch.float64:
            y = target.float()
        y = y.expand(self._locations, -1, -1)
        with torch.no_grad():
            return self._public(autograd.mix(y, self._attention, self._ignored, self._backend, self._draw))

    def cross_entropy(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        """Cross-entropy of any head's logits against the mixed targets, which are never written out.

        Differentiable in the logits, and in the attention if it requires grad. An example with target ignore_index
        adds nothing to the targets of the rows that it is mixed into. A logit of -inf gives its class probability 0, at
        no cost where the mixed target is 0 and at infinite cost where it is not.

        Args:
            logits: (n, c) or (n, c, *spatial), from `embeddings`.
            target: class indices (b,) int64 or probabilities (b, c).
            label_smoothing, ignore_index, reduction: as in `torch.nn.functional.cross_entropy`.

        Returns:
            A scalar, or with reduction "none" (n,) or (n, *spatial); float32, float64 for float64 logits.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        arguments.check_input(logits, "logits", dense=True)
        n, c, *spatial = logits.shape
        if n != self._draw.n or tuple(spatial) != self._spatial:
            expected = (self._draw.n, "c", *self._spatial)
            raise ValueError(f"logits: expected shape {expected} to match the embeddings, got {tuple(logits.shape)}")
        if logits.device != self.seed.device:
            raise ValueError(f"logits: expected device {self.seed.device}, got {logits.device}")
        arguments.check_target(target, self._b, c, logits.device, ignore_index)
        arguments.check_loss_options(label_smoothing, reduction)
        rows = logits.reshape(n, c, self._locations).permute(2, 0, 1)
        loss = autograd.cross_entropy(
            "soft_cross_entropy", rows, self._attention, target, self._ignored,
            LossOptions(label_smoothing, ignore_index, REDUCTIONS[reduction]), self._backend, self._draw,
        )  # fmt: skip
        return loss if reduction != "none" else loss.T.reshape(n, *self._spatial)

    def weights(self) -> Tensor:
        """The weights (n, b) or (n, b, *spatial), float32 (float64 for float64 input), for inspection."""
        dtype = torch.float64 if self.embeddings.dtype == torch.float64 else torch.float32
        attention = None if self._attention is None else self._attention.detach()
        weights = ops.call(
            self._backend, "sample", self._b, self._locations, dtype, attention, self._ignored, self._draw
        )
        return self._public(weights)

    @property
    def _locations(self) -> int:
        return torch.Size(self._spatial).numel()

    def _public(self, rows: Tensor) -> Tensor:
        """(r, n, x) -> (n, x, *spatial)."""
        return rows.permute(1, 2, 0).reshape(rows.shape[1], rows.shape[2], *self._spatial)
