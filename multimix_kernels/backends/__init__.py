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
    by_default: bool = True  # whether it may be chosen without being named

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

# Best first. No GPU has run the Triton and CUDA kernels yet: they have to be named.
TABLE: Mapping[str, Backend] = MappingProxyType({
    row.name: row
    for row in (
        Backend("cuda", ("cuda",), LOW, lambda index: native.missing("cuda", index), by_default=False),
        Backend("triton", triton.DEVICES, LOW, lambda index: _triton_is_missing(), triton_operators, by_default=False),
        Backend("cpu", ("cpu",), (*LOW, torch.float64), lambda index: native.missing("cpu")),
        Backend("reference", (), (*LOW, torch.float64), lambda index: None, reference_operators, mixes_embeddings=True),
    )
})  # fmt: skip


def _missing(name: str, index: int | None) -> str | None:
    return TABLE[name].missing(index)


def _warn_of_reference(device_type: str, index: int | None, dtype: torch.dtype) -> None:
    """Says once for each kind of device why the reference is used where a backend could do better."""
    if device_type in fallback.warned:
        return
    rows = [row for row in TABLE.values() if device_type in row.devices and dtype in row.dtypes]
    if rows:
        fallback.warn(device_type, {row.name: row.missing(index) for row in rows})


# torch.compiler.assume_constant_result, without importing torch._dynamo, which takes longer than all of this package.
# Dynamo calls such a function while it traces: reasons are found, and warnings given, without breaking the graph.
_missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
_warn_of_reference._dynamo_marked_constant = True  # type: ignore[attr-defined]


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


def choose(name: str | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The named backend, else the one MULTIMIX_BACKEND names, else the best one for this device and dtype.

    Raises:
        ValueError: no such backend, or it does not take this device or dtype.
        RuntimeError: it is not available here.
    """
    source = "backend"
    if name is None:
        name, source = os.environ.get(ENVIRONMENT_VARIABLE) or None, ENVIRONMENT_VARIABLE
    if name is None:
        for row in TABLE.values():
            if row.by_default and row.accepts(device, dtype) and _missing(row.name, device.index) is None:
                if row.mixes_embeddings:
                    _warn_of_reference(device.type, device.index, dtype)
                return row
        raise ValueError(f"input: no backend takes dtype {dtype} on device {device.type}")
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
