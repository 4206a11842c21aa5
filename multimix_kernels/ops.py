"""torch.library schemas and fake implementations: the same operators in one namespace per backend.

The operators are opaque to torch.compile and are not differentiable themselves; `autograd` wraps them. Shapes here are
always (r, b, ...) or (r, n, ...), with r = 1 location when not dense. The operand of `mixed_cross_entropy` is the
scores (r, b, c) of the examples, that of `soft_cross_entropy` the logits (r, n, c) of the mixtures. Every operator ends
with the attention (r, b), the mask of ignored examples (b,), and the draw; its overload "scheduled" with the numbers
that it reads when it runs.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor

from .backends import TABLE
from .backends.contract import NONE, SCHEMAS, Want, compute_dtype, flat, records
from .backends.scheduled import with_numbers, without_numbers
from .dispatch import idle


def _gradients(operand: Tensor, b: int, want: Want) -> tuple[Tensor, Tensor]:
    """Gradients are contiguous and in the compute dtype; those not wanted are one-dimensional and empty."""
    dtype = compute_dtype(operand.dtype)
    return (
        operand.new_empty(operand.shape if want.operand else (0,), dtype=dtype),
        operand.new_empty((operand.shape[0], b) if want.attention else (0,), dtype=dtype),
    )


def _sample(b, r, dtype, attention, ignored, draw):
    return draw.seed.new_empty((r, draw.n, b), dtype=dtype)


def _mix(values, attention, ignored, draw):
    return values.new_empty((values.shape[0], draw.n, values.shape[2]))


def _mix_backward(grad, values, want, *_):
    return _gradients(values, values.shape[1], want)


def _loss(operand, target, options, want, attention, ignored, draw):
    shape = (operand.shape[0], draw.n) if options.reduction == NONE else ()
    loss = operand.new_empty(shape, dtype=compute_dtype(operand.dtype))
    return loss, *_gradients(operand, target.shape[0], want)


def _loss_backward(grad_rows, operand, target, options, want, *_):
    return _gradients(operand, target.shape[0], want)


_FUNCTIONS: dict[Callable, Callable] = {}  # what operators written in Python call, which take records
_FAKES: dict[str, Callable] = {
    "sample": _sample,
    "mix": _mix,
    "mix_backward": _mix_backward,
    "mixed_cross_entropy": _loss,
    "mixed_cross_entropy_backward": _loss_backward,
    "soft_cross_entropy": _loss,
    "soft_cross_entropy_backward": _loss_backward,
}


def _with_records(name: str, function: Callable) -> Callable:
    """A function of records, as an operator that takes flat arguments."""

    @wraps(function)
    def run(*arguments):
        return function(*records(name, arguments))

    return run


def _outside_autocast(operator: Callable) -> Callable:
    """Autocast would reach into an operator that is written in torch."""

    @wraps(operator)
    def run(*arguments):
        device = next(x for x in arguments if isinstance(x, Tensor)).device
        if not torch.is_autocast_enabled(device.type):
            return operator(*arguments)
        with torch.autocast(device.type, enabled=False):
            return operator(*arguments)

    return run


_SCHEDULED_TAGS = tuple(
    getattr(torch.Tag, name) for name in ("pt2_compliant_tag", "cudagraph_unsafe") if hasattr(torch.Tag, name)
)


def _scheduled(backend: str, name: str) -> Callable:
    """The operator of numbers that are read now."""

    def run(*arguments):
        *others, numbers = arguments
        return OPERATORS[backend][name](*flat(name, with_numbers(records(name, others), numbers)))

    return run


def _register_scheduled(backend) -> dict:
    for name, schema in SCHEMAS.items():
        qualified = f"{backend.namespace}::{name}.scheduled"
        declared = schema.replace(") ->", ", Tensor numbers) ->")
        torch.library.define(qualified, declared, tags=_SCHEDULED_TAGS)
        fake = _with_records(name, _FAKES[name])
        torch.library.register_fake(qualified, lambda *arguments, fake=fake: fake(*arguments[:-1]))
        torch.library.impl(qualified, "CompositeExplicitAutograd", _scheduled(backend.name, name))
    namespace = getattr(torch.ops, backend.namespace)
    return {name: getattr(namespace, name).scheduled for name in SCHEMAS}


def _register(backend) -> dict:
    namespace = getattr(torch.ops, backend.namespace)
    for name, schema in SCHEMAS.items():
        qualified = f"{backend.namespace}::{name}"
        torch.library.define(qualified, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.register_fake(qualified, _with_records(name, _FAKES[name]))
        if backend.operators is not None:
            function = getattr(backend.operators, name)
            operator = _outside_autocast(_with_records(name, function))
            torch.library.impl(qualified, "CompositeExplicitAutograd", operator)
            _FUNCTIONS[getattr(namespace, name).default] = function
    return {name: getattr(namespace, name).default for name in SCHEMAS}


def _tf32_allowed() -> bool:
    """What PyTorch's matmul precision says of float32 on CUDA devices."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def _bfloat16_allowed() -> bool:
    """The same of the CPU; by default it says what `torch.backends.fp32_precision` does."""
    return torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]


# The libraries ask this way, as the stable ABI has no other.
for _qualified, _allowed in (
    ("multimix_cuda::tf32_allowed", _tf32_allowed),
    ("multimix_cpu::bfloat16_allowed", _bfloat16_allowed),
):
    torch.library.define(_qualified, "() -> bool")
    torch.library.impl(_qualified, "CompositeExplicitAutograd", _allowed)

# OPERATORS[backend name][operator name], each bound once.
OPERATORS = {name: _register(backend) for name, backend in TABLE.items()}
SCHEDULED = {name: _register_scheduled(backend) for name, backend in TABLE.items()}


def call(backend: str, name: str, *arguments, numbers: Tensor | None = None):
    """An operator of a backend, called with records; see `backends.contract`, and `backends.scheduled` for numbers."""
    if numbers is not None:
        return SCHEDULED[backend][name](*flat(name, without_numbers(arguments)), numbers)
    operator = OPERATORS[backend][name]
    if not torch.compiler.is_compiling():
        function = _FUNCTIONS.get(operator)
        if function is not None and idle(_tensors(arguments)):
            return function(*arguments)
    return operator(*flat(name, arguments))


def _tensors(arguments) -> list[Tensor | None]:
    """Those among the arguments, and of the draw, which comes last; its seed first, as there always is one."""
    draw = arguments[-1]
    return [draw.seed, draw.alpha, *(x for x in arguments if isinstance(x, Tensor))]
