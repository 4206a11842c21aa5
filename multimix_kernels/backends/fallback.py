"""The warning that the reference is used because something better is missing: once per process and kind of device."""

import sys
import warnings
from collections.abc import Mapping

PACKAGE = __name__.partition(".")[0]
SILENCE = "to keep the reference without this warning, name it: backend='reference' or MULTIMIX_BACKEND=reference"

warned: set[str] = set()  # kinds of devices


def text(device_type: str, reasons: Mapping[str, str | None]) -> str:
    """What is missing, and the command that mends it.

    Args:
        device_type: of the tensors.
        reasons: the backends that could do better, and why each cannot be used; None: it can, but has to be named.
    """
    where = "the CPU" if device_type == "cpu" else f"{device_type} tensors"
    used = f"multimix_kernels: on {where} the slow reference is used, whose memory grows with n"
    usable = [f'backend="{name}"' for name, reason in reasons.items() if reason is None]
    if usable:
        name = f"name {' or '.join(usable)} to use {'it' if len(usable) == 1 else 'them'}"
        return f"{used}, since the GPU backends have not been verified on a GPU; {name}; {SILENCE}"
    missing = "; ".join(f"backend {name!r} is not available: {reason}" for name, reason in reasons.items())
    return f"{used}: {missing}; {SILENCE}"


def warn(device_type: str, reasons: Mapping[str, str | None]) -> None:
    """Warns, in the name of the line that called the package."""
    warned.add(device_type)
    level, frame = 1, sys._getframe(0)
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in (PACKAGE, "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(text(device_type, reasons), UserWarning, stacklevel=level)
