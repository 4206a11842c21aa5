"""The result of `multimix`: mixed embeddings, and the weights that made them, by name."""

import torch
from torch import Tensor

from . import arguments, autograd, ops
from .backends.contract import NONE, REDUCTIONS, Draw, LossOptions
from .backends.scheduled import numbers_of
from .memory import reserve


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
        # Tensors of its own: the caller may change theirs for the next draw.
        alpha = None if draw.alpha is None else draw.alpha.clone()
        self._draw = draw = draw._replace(seed=draw.seed.clone(), alpha=alpha)
        self._b, self._spatial, self._backend = values.shape[1], spatial, backend
        self._attention = attention = None if attention is None else attention.clone()
        self._ignored = ignored
        reserve(
            f"embeddings of n = {draw.n} mixtures", (draw.n, values.shape[2], *spatial), values.dtype, values.device
        )
        self.embeddings = self._public(autograd.mix(values, attention, ignored, backend, draw))

    @property
    def seed(self) -> Tensor:
        """int64 Tensor (1,) that names the weights."""
        return self._draw.seed

    def targets(self, target: Tensor, num_classes: int, *, ignore_index: int = -100) -> Tensor:
        """Mixed targets (n, c) or (n, c, *spatial), float32 (float64 for float64 probabilities).

        An example with target ignore_index adds nothing to the rows that it is mixed into, as in `cross_entropy`.

        Args:
            target: class indices (b,) of an integer dtype, or probabilities (b, c).
            num_classes: c.
            ignore_index: the class index of examples without a label.

        Raises:
            ValueError, TypeError: naming the argument.
        """
        num_classes = arguments.as_integer(num_classes, "num_classes")
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1 class, got {num_classes}")
        ignore_index = arguments.check_ignore_index(ignore_index)
        target, _ = arguments.check_target(target, self._b, num_classes, self.seed.device, ignore_index)
        y = target
        if not target.is_floating_point():
            known = (target >= 0) & (target < num_classes) & (target != ignore_index)
            known = torch.where(known, target, num_classes)
            # Not F.one_hot, which reads values.
            y = (known.unsqueeze(1) == torch.arange(num_classes, device=target.device)).float()
        elif target.dtype != torch.float64:
            y = target.float()
        y = y.expand(self._locations, -1, -1)
        shape = (self._draw.n, num_classes, *self._spatial)
        reserve(f"targets of n = {self._draw.n} mixtures", shape, y.dtype, y.device)
        with torch.no_grad():
            return self._public(autograd.mix(y, self._attention, self._ignored, self._backend, self._draw))

    def cross_entropy(
        self,
        logits: Tensor,
        target: Tensor,
        *,
        label_smoothing: float | Tensor = 0.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Tensor:
        """Cross-entropy of any head's logits against the mixed targets, which are never written out.

        Differentiable in the logits, and in the attention if it requires grad. An example with target ignore_index
        adds nothing to the targets of the rows that it is mixed into. A logit of -inf gives its class probability 0, at
        no cost where the mixed target is 0 and at infinite cost where it is not.

        Args:
            logits: (n, c) or (n, c, *spatial), from `embeddings`.
            target: class indices (b,) of an integer dtype, or probabilities (b, c).
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
        smoothing = arguments.check_loss_options(label_smoothing, reduction)
        ignore_index = arguments.check_ignore_index(ignore_index)
        target, _ = arguments.check_target(target, self._b, c, logits.device, ignore_index)
        options = LossOptions(smoothing, ignore_index, REDUCTIONS[reduction])
        return self._cross_entropy(logits, target, options)

    def _cross_entropy(self, logits: Tensor, target: Tensor, options: LossOptions) -> Tensor:
        """The same, of arguments that are checked."""
        n, c = logits.shape[:2]
        if options.reduction == NONE:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            reserve(f"losses of n = {n} rows", (n, *self._spatial), dtype, logits.device)
        rows = logits.reshape(n, c, self._locations).permute(2, 0, 1)
        loss = autograd.cross_entropy(
            "soft_cross_entropy", rows, self._attention, target, self._ignored, options, self._backend, self._draw
        )
        return loss if options.reduction != NONE else loss.T.reshape(n, *self._spatial)

    def weights(self) -> Tensor:
        """The weights (n, b) or (n, b, *spatial), float32 (float64 for float64 input), for inspection."""
        dtype = torch.float64 if self.embeddings.dtype == torch.float64 else torch.float32
        attention = None if self._attention is None else self._attention.detach()
        shape = (self._draw.n, self._b, *self._spatial)
        reserve(f"weights of n = {self._draw.n} rows of b = {self._b} examples", shape, dtype, self.seed.device)
        weights = ops.call(
            self._backend, "sample", self._b, self._locations, dtype, attention, self._ignored, self._draw,
            numbers=numbers_of(self._draw),
        )  # fmt: skip
        return self._public(weights)

    @property
    def _locations(self) -> int:
        return torch.Size(self._spatial).numel()

    def _public(self, rows: Tensor) -> Tensor:
        """(r, n, x) -> (n, x, *spatial)."""
        return rows.permute(1, 2, 0).reshape(rows.shape[1], rows.shape[2], *self._spatial)
