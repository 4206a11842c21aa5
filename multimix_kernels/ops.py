"""torch.library schemas and fake implementations: the same operators in one namespace per backend.

The operators are opaque to torch.compile and are not differentiable themselves; `autograd` wraps them. Shapes here are
always (r, b, ...) or (r, n, ...), with r = 1 location when not dense. The operand of `mixed_cross_entropy` is the
scores (r, b, c) of the examples, that of `soft_cross_entropy` the logits (r, n, c) of the mixtures. Every operator ends
with the attention (r, b), the mask of ignored examples (b,), and the fields of `Draw`.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from .backends import TABLE
from .backends.reference.operators import NONE, compute_dtype
from .backends.reference.stream import Draw

__all__ = ["OPERATORS", "Draw"]

_DRAW = (
    "Tensor? attention, Tensor? ignored, "
    "Tensor seed, Tensor? alpha, SymInt n, SymInt m, float low, float high, SymInt row_offset"
)
_LOSS = "Tensor target, float label_smoothing, int ignore_index"
_WANT = "bool want_operand, bool want_attention"

SCHEMAS = {
    "sample": f"(SymInt b, SymInt r, ScalarType dtype, {_DRAW}) -> Tensor",
    "mix": f"(Tensor values, {_DRAW}) -> Tensor",
    "mix_backward": f"(Tensor grad, Tensor values, {_WANT}, {_DRAW}) -> (Tensor, Tensor)",
} | {
    name: schema
    for loss in ("mixed_cross_entropy", "soft_cross_entropy")
    for name, schema in {
        loss: f"(Tensor operand, {_LOSS}, int reduction, {_WANT}, {_DRAW}) -> (Tensor, Tensor, Tensor)",
        f"{loss}_backward": f"(Tensor grad_rows, Tensor operand, {_LOSS}, {_WANT}, {_DRAW}) -> (Tensor, Tensor)",
    }.items()
}


def _gradients(operand: Tensor, b: int, want_operand: bool, want_attention: bool) -> tuple[Tensor, Tensor]:
    """Gradients are contiguous and in the compute dtype; those not wanted are one-dimensional and empty."""
    dtype = compute_dtype(operand.dtype)
    return (
        operand.new_empty(operand.shape if want_operand else (0,), dtype=dtype),
        operand.new_empty((operand.shape[0], b) if want_attention else (0,), dtype=dtype),
    )


def _sample(b, r, dtype, attention, ignored, *draw):
    return draw[0].new_empty((r, Draw(*draw).n, b), dtype=dtype)


def _mix(values, attention, ignored, *draw):
    return values.new_empty((values.shape[0], Draw(*draw).n, values.shape[2]))


def _mix_backward(grad, values, want_values, want_attention, *_):
    return _gradients(values, values.shape[1], want_values, want_attention)


def _loss(operand, target, smoothing, ignore_index, reduction, want_operand, want_attention, attention, ignored, *draw):
    shape = (operand.shape[0], Draw(*draw).n) if reduction == NONE else ()
    loss = operand.new_empty(shape, dtype=compute_dtype(operand.dtype))
    return loss, *_gradients(operand, target.shape[0], want_operand, want_attention)


def _loss_backward(grad_rows, operand, target, smoothing, ignore_index, want_operand, want_attention, *_):
    return _gradients(operand, target.shape[0], want_operand, want_attention)


_FAKES: dict[str, Callable] = {
    "sample": _sample,
    "mix": _mix,
    "mix_backward": _mix_backward,
    "mixed_cross_entropy": _loss,
    "mixed_cross_entropy_backward": _loss_backward,
    "soft_cross_entropy": _loss,
    "soft_cross_entropy_backward": _loss_backward,
}


def _outside_autocast(operator: Callable) -> Callable:
    """Autocast would reach into an operator that is written in torch."""

    @wraps(operator)
    def run(*arguments):
        device = next(x for x in arguments if isinstance(x, Tensor)).device
        with torch.autocast(device.type, enabled=False):
            return operator(*arguments)

    return run


def _register(backend) -> dict:
    for name, schema in SCHEMAS.items():
        qualified = f"{backend.namespace}::{name}"
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, _FAKES[name])
        if backend.operators is not None:
            operator = _outside_autocast(getattr(backend.operators, name))
            torch.library.impl(qualified, "CompositeExplicitAutograd", operator)
    namespace = getattr(torch.ops, backend.namespace)
    return {name: getattr(namespace, name).default for name in SCHEMAS}


def _tf32_allowed() -> bool:
    """What PyTorch's matmul precision says of float32 on CUDA devices."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


# The CUDA library asks this way, as the stable ABI has no other.
torch.library.define("multimix_cuda::tf32_allowed", "() -> bool")
torch.library.impl("multimix_cuda::tf32_allowed", "CompositeExplicitAutograd", _tf32_allowed)

# OPERATORS[backend name][operator name], each bound once.
OPERATORS = {name: _register(backend) for name, backend in TABLE.items()}
