"""What an operator has to return, and how far from it it may be.

|error| against float64 is at most twice that of plain PyTorch in the same precision, plus 1e-6 of the largest sum of
absolute terms: where softmax and target cancel, rounding is relative to these halves of a gradient.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .. import ops
from ..backends.contract import compute_dtype
from ..backends.reference.equations import probabilities
from ..backends.verdicts.plan import DTYPES
from .cases import IGNORE, Case, arguments
from .formulas import Plain, Result

RELATIVE = 1e-6


class Expected(NamedTuple):
    """An output, and the largest error that it may have."""

    value: Tensor
    allowed: float


@lru_cache(256)
def expected(operator: str, case: Case, kind: str) -> list[Expected]:
    """By the reference in float64, on the CPU; the weights are those of the stream."""
    call = map(_wide, arguments(operator, case, kind))
    exact = ops.call("reference", operator, *call)
    lam = _weights("reference", case, "cpu", torch.float64)
    return _bounded(operator, case, kind, [exact] if isinstance(exact, Tensor) else list(exact), lam)


def expected_of_weights(operator: str, case: Case, kind: str, backend: str, device: torch.device) -> list[Expected]:
    """The same from the weights that a backend draws."""
    lam = _weights(backend, case, device, torch.float32).cpu().double()
    exact = [x.value for x in _plain(operator, case, torch.float64, False, kind, lam)]
    return _bounded(operator, case, kind, exact, lam)


def _wide(x):
    """Floating operands in float64."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _weights(backend: str, case: Case, device, dtype: torch.dtype) -> Tensor:
    """Before attention."""
    ignored = (case.labels == IGNORE).to(device) if case.ignored else None
    draw = case.draw._replace(seed=case.draw.seed.to(device))
    return ops.call(backend, "sample", case.b, case.r, dtype, None, ignored, draw)


def _plain(operator: str, case: Case, dtype: torch.dtype, tf32: bool, kind: str, lam: Tensor) -> list[Result]:
    """The operator in a dtype, of operands in the dtype of the kind. Masked classes are left out and put back."""
    call = arguments(operator, case, kind)
    plain = Plain(dtype, tf32, lam, call[-3])
    if operator == "mix":
        return plain.mix(call[0])
    if operator == "mix_backward":
        return plain.mix_backward(*call[:3])
    upstream = call.pop(0) if operator.endswith("backward") else None
    x, target, options, want = call[:4]
    y = probabilities(target, case.c, options, compute_dtype(dtype))
    if case.masked:
        x, y = x[..., :-1], y[..., :-1]
    found = plain.loss(operator.startswith("mixed"), x, y, options, want, upstream)
    if case.masked:
        at = 0 if upstream is not None else 1
        found[at] = found[at]._replace(value=torch.nn.functional.pad(found[at].value, (0, 1)))
    return found


def _bounded(operator: str, case: Case, kind: str, exact: list[Tensor], lam: Tensor) -> list[Expected]:
    exact = [x for x in exact if x.numel()]
    near = _plain(operator, case, DTYPES[kind], kind == "tf32", kind, lam)
    wide = _plain(operator, case, torch.float64, False, kind, lam)
    found = []
    for value, plain, size in zip(exact, near, wide, strict=True):
        if plain.parts is None or size.parts is None:
            error = (plain.value.double() - value).abs().max().item()
        else:  # of a sum that of its parts: by luck they may cancel
            error = (plain.parts.double() - size.parts).abs().sum().item()
        found.append(Expected(value, 2 * error + RELATIVE * size.size))
    return found
