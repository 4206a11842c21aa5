"""The warning that the reference is used because something better is missing: once per process and kind of device."""

import sys
import warnings
from collections.abc import Mapping
from typing import NamedTuple

PACKAGE = __name__.partition(".")[0]
SILENCE = "to keep the reference without this warning, name it: backend='reference' or MULTIMIX_BACKEND=reference"
VERIFY = "python -m multimix_kernels verify"

warned: set[str] = set()  # kinds of devices


class Reason(NamedTuple):
    """Why a backend is not used: it is missing here, or has no good verdict on this device. Clauses."""

    missing: str | None
    verdict: str | None = None


def _clauses(reasons: Mapping[str, Reason]) -> str:
    """What is in the way, and the command that mends it."""
    clauses = [
        f"backend {name!r} is {f'not available: {why.missing}' if why.missing else f'not used: {why.verdict}'}"
        for name, why in reasons.items()
    ]
    if any(why.missing is None for why in reasons.values()):
        clauses.append(f"to verify now: {VERIFY}")
    return "; ".join(clauses)


def text(device_type: str, reasons: Mapping[str, Reason]) -> str:
    """The warning.

    Args:
        device_type: of the tensors.
        reasons: the backends that could do better, and why each is not used.
    """
    where = "the CPU" if device_type == "cpu" else f"{device_type} tensors"
    used = f"multimix_kernels: on {where} the slow reference is used, whose memory grows with n"
    return f"{used}: {_clauses(reasons)}; {SILENCE}"


def refusal(device_type: str, reasons: Mapping[str, Reason]) -> str:
    """The error where a verified backend is required."""
    return f"MULTIMIX_VERIFY=require: no backend is verified for these {device_type} tensors: {_clauses(reasons)}"


def warn(device_type: str, reasons: Mapping[str, Reason]) -> None:
    """Warns, in the name of the line that called the package."""
    warned.add(device_type)
    level, frame = 1, sys._getframe(0)
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in (PACKAGE, "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text(device_type, reasons), UserWarning, stacklevel=level)
