"""What is verified, and what follows from it: operators by precision, what users call by operators, the choice.

A verdict's results are `results[backend][operator][kind]`, each {"cases": number, "failed": reason or None}. A kind is
a precision of operands: a dtype, or "tf32", float32 where PyTorch's matmul precision allows TF32.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

OPERATORS = (
    "sample", "mix", "mix_backward", "mixed_cross_entropy", "mixed_cross_entropy_backward", "soft_cross_entropy",
    "soft_cross_entropy_backward",
)  # fmt: skip
# What the public functions need. Weights are drawn again for second derivatives and for inspection.
OPERATIONS = {
    "sample": ("sample",),
    "mixed_cross_entropy": ("sample", "mixed_cross_entropy", "mixed_cross_entropy_backward"),
    "mix": ("sample", "mix", "mix_backward", "soft_cross_entropy", "soft_cross_entropy_backward"),
}
DTYPES = {
    "float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip
_KINDS = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


class Part(NamedTuple):
    """A part of a check: an operator of a backend at one precision."""

    backend: str
    operator: str
    kind: str

    def __str__(self) -> str:
        return f"{self.backend} {self.operator} {self.kind}"


def kind_of(dtype: torch.dtype) -> str:
    """The kind of operands of a dtype, by PyTorch's setting of today."""
    if dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "float32"
    return _KINDS.get(dtype) or str(dtype)


def parts(backends: Sequence[str], kinds: Sequence[str]) -> list[Part]:
    """All parts, the weights first, as all others need them."""
    return [Part(b, operator, kind) for b in backends for operator in OPERATORS for kind in kinds]


def reason(results: Mapping, backend: str, operation: str, kind: str) -> str | None:
    """Why a backend may not be used for what users call; None if all of it passed."""
    for operator in OPERATIONS[operation]:
        found = results.get(backend, {}).get(operator, {}).get(kind)
        if found is None:
            return f"its {operator} for {kind} was not checked"
        if found["failed"] is not None:
            return f"its {operator} for {kind} failed: {found['failed']}"
    return None


def choice(results: Mapping, times: Mapping, order: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """choice[operation][kind]: the backends that passed, the fastest over all shapes first; untimed ones by `order`."""

    def rank(backend: str, operation: str, kind: str):
        found = times.get(backend, {}).get(operation, {}).get(kind)
        return sum(map(math.log, found)) if found else math.inf, order.index(backend)

    kinds = {kind for operators in results.values() for by_kind in operators.values() for kind in by_kind}
    return {
        operation: {
            kind: sorted(
                (b for b in order if reason(results, b, operation, kind) is None),
                key=lambda b: rank(b, operation, kind),
            )
            for kind in sorted(kinds)
        }
        for operation in OPERATIONS
    }
