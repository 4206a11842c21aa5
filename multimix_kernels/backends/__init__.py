"""The table of backends, and the choice among them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch

from . import fallback, native, triton
from .reference import operators as reference_operators
from .triton import operators as triton_operators
from .verdicts import choice, plan

LOW = (torch.float32, torch.bfloat16, torch.float16)
ENVIRONMENT_VARIABLE = "MULTIMIX_BACKEND"


@dataclass(frozen=True)
class Backend:
    """One row of the table. A backend is a namespace of operators; `operators` is its Python module, if it has one."""

    name: str
    devices: tuple[str, ...]  # device types; empty: every device
    dtypes: tuple[torch.dtype, ...]
    missing: Callable[[int | None], str | None]  # why it cannot be used on the GPU of an index, or (None) on any device
    operators: object | None = None  # None: a compiled library registers the implementations
    mixes_embeddings: bool = False  # follows the order of the paper instead of mixing scores
    to_verify: bool = False  # where it is not named it is used on devices only that it is verified on; see `verdicts`

    @property
    def namespace(self) -> str:
        """The torch.ops namespace of its operators."""
        return f"multimix_{self.name}"

    @property
    def reason(self) -> str | None:
        """Why it is not available here, in one sentence; None if it is."""
        return self.missing(None)

    def accepts(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether it takes tensors of this device and dtype."""
        return (not self.devices or device.type in self.devices) and dtype in self.dtypes


# The CPU library is loaded with the package, for exported graphs that call its operators. A backend for GPUs is looked
# at when somebody asks or names it: that initialises CUDA, which merely importing must not do, as forks fail after it.
native.missing("cpu")
_triton_is_missing = cache(triton.missing)

# Best first; among those that are verified on a device their times there decide.
TABLE: Mapping[str, Backend] = MappingProxyType({
    row.name: row
    for row in (
        Backend("cuda", ("cuda",), LOW, lambda index: native.missing("cuda", index), to_verify=True),
        Backend("triton", triton.DEVICES, LOW, _triton_is_missing, triton_operators, to_verify=True),
        Backend("cpu", ("cpu",), (*LOW, torch.float64), lambda index: native.missing("cpu")),
        Backend("reference", (), (*LOW, torch.float64), lambda index: None, reference_operators, mixes_embeddings=True),
    )
})  # fmt: skip


def _missing(name: str, index: int | None) -> str | None:
    return TABLE[name].missing(index)


def _to_verify(device_type: str, index: int | None) -> list[str]:
    """The available backends of a device that are used there when they are verified."""
    rows = (row for row in TABLE.values() if row.to_verify and device_type in row.devices)
    return [row.name for row in rows if row.missing(index) is None]


def best(device_type: str, index: int | None, dtype: torch.dtype, operation: str, may_check: bool = True) -> str | None:
    """The backend where none is named; None where no backend takes the dtype.

    Args:
        device_type, index, dtype: of the operands.
        operation: what is computed, one of `plan.OPERATIONS`.
        may_check: whether backends are verified on the device now, if they are not yet, and a warning given.

    Raises:
        RuntimeError: the reference would be used because none is verified, and MULTIMIX_VERIFY is "require".
    """
    standing = None
    if any(row.to_verify and device_type in row.devices and dtype in row.dtypes for row in TABLE.values()):
        standing = choice.standing(device_type, index, lambda: _to_verify(device_type, index), may_check)
    if standing is not None:
        by_kind = standing.choice.get(operation, {})
        kind = plan.kind_of(dtype)
        for name in by_kind.get(kind if kind in by_kind else str(dtype).removeprefix("torch."), ()):
            if name in TABLE and dtype in TABLE[name].dtypes and TABLE[name].missing(index) is None:
                return name
    for row in TABLE.values():
        takes = (not row.devices or device_type in row.devices) and dtype in row.dtypes
        if takes and not row.to_verify and row.missing(index) is None:
            if row.mixes_embeddings and may_check:
                _say_why_reference(device_type, index, dtype, operation)
            return row.name
    return None


def _say_why_reference(device_type: str, index: int | None, dtype: torch.dtype, operation: str) -> None:
    """Warns once for each kind of device that the reference is used where a backend could do better; or refuses."""
    required = choice.mode() == "require"
    if device_type in fallback.warned and not required:
        return
    rows = [row for row in TABLE.values() if device_type in row.devices and dtype in row.dtypes]
    if device_type == "cpu" and not choice.known("cpu", index):
        rows = [row for row in rows if not row.to_verify]  # not the simulator of the tests
        required = False
    if not rows:
        return
    reasons = {}
    for row in rows:
        reason, kind = row.missing(index), plan.kind_of(dtype)
        verdict = None if reason else choice.why_not(device_type, index, row.name, operation, kind)
        reasons[row.name] = fallback.Reason(reason, verdict)
    if required:
        raise RuntimeError(fallback.refusal(device_type, reasons))
    fallback.warn(device_type, reasons)


# torch.compiler.assume_constant_result, without importing torch._dynamo, which takes longer than all of this package.
# Dynamo calls such a function while it traces: a backend is found, and warnings given, without breaking the graph.
_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
best._dynamo_marked_constant = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here, for which devices, and if not, why. True in a boolean context if it can."""

    available: bool
    devices: tuple[str, ...]
    reason: str | None

    def __bool__(self) -> bool:
        return self.available


def available_backends() -> dict[str, Availability]:
    """Every backend by name, best first: whether it is available here, for which devices, and why not if not.

    Initialises CUDA where there is any.
    """
    found = {}
    for row in TABLE.values():
        reason = row.reason
        found[row.name] = Availability(reason is None, row.devices or ("any",), reason)
    return found


def choose(
    name: str | None, device: torch.device, dtype: torch.dtype, operation: str = "mixed_cross_entropy"
) -> Backend:
    """The named backend, else the one MULTIMIX_BACKEND names, else the best one for these operands.

    On a GPU that is the fastest of those that are verified there for the operation, one of `plan.OPERATIONS`; the first
    call of a process may have to check them.

    Raises:
        ValueError: no such backend, or it does not take this device or dtype.
        RuntimeError: it is not available here; or none is verified, and MULTIMIX_VERIFY is "require".
    """
    source = "backend"
    if name is None:
        name, source = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if name is None:
        found = best(device.type, device.index, dtype, operation)
        if found is None:
            raise ValueError(f"input: no backend takes dtype {dtype} on device {device.type}")
        return TABLE[found]
    if not isinstance(name, str) or name not in TABLE:
        raise ValueError(f"{source}: there is no backend {name!r}; accepted: {', '.join(map(repr, TABLE))}, or None")
    row = TABLE[name]
    reason = _missing(name, device.index if device.type in row.devices else None)
    if reason is not None:
        raise RuntimeError(f"{source}: {name!r} is not available: {reason}")
    if not row.accepts(device, dtype):
        dtypes = ", ".join(str(d).removeprefix("torch.") for d in row.dtypes)
        raise ValueError(
            f"{source}: {name!r} takes {dtypes} on {' or '.join(row.devices) or 'any device'}, "
            f"got {dtype} on {device.type}"
        )
    return row
