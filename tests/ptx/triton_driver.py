"""A driver for Triton whose GPU is virtual: the library's own launchers run unchanged, on CPU tensors.

Triton compiles as for a GPU of the chosen architecture, down to PTX and no further. What becomes of a launch is up to
an executor: `Machine` runs the PTX and raises an AssertionError with the report if there was a fault; `Recorder`
compiles nothing and notes names, grids and times.
"""

import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver as drivers

from multimix_kernels.backends import TABLE
from multimix_kernels.backends.triton.host import device, shapes

from . import machine

WARP = 32
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}  # that a block may have
MOST_INSTRUCTIONS = 1 << 30  # of a launch; more is taken for a hang
FORMATS = {
    "i1": "?", "u1": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
    "fp16": "e", "fp32": "f", "fp64": "d",
}  # fmt: skip


class Executor(Protocol):
    """What becomes of kernels and launches."""

    compiles: bool

    def load(self, name: str, ptx: str) -> Any:
        """A kernel's handle."""

    def launch(self, kernel: Any, grid: tuple[int, int, int], threads: int, shared: int, arguments: Iterator) -> None:
        """One launch; arguments are pairs of a type of Triton and a value, to be read if at all now."""


def flat(signature, value) -> Iterator[tuple[str, Any]]:
    """The arguments that a compiled kernel has: records in their parts, and no constants."""
    if isinstance(signature, tuple):
        for part in zip(signature, value, strict=True):
            yield from flat(*part)
    elif signature != "constexpr":
        yield signature, value


def packed(kind: str, value) -> bytes:
    """An argument as the kernel reads it."""
    if kind.startswith("*"):
        return struct.pack("Q", value.data_ptr() if isinstance(value, torch.Tensor) else int(value or 0))
    return struct.pack(FORMATS[kind], value)


def ranges_of(arguments) -> list[tuple[int, int, bool]]:
    """The memory of the tensors among the arguments: of each storage all, and no byte more."""
    storages = [value.untyped_storage() for _, value in arguments if isinstance(value, torch.Tensor)]
    return sorted({(s.data_ptr(), s.data_ptr() + s.nbytes(), True) for s in storages if s.nbytes()})


@dataclass
class Machine:
    """Runs what is launched; counts by kernel."""

    seed: int = 0  # of the order of blocks and warps; 0: in order
    approximate_error: float = 0.0
    check: int = machine.CHECK_FAULTS
    mutate: Callable[[str], str] | None = None  # of PTX, before a launch
    launches: Counter = field(default_factory=Counter)
    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    compiles = True

    def load(self, name: str, ptx: str):
        """Read once, however often it is launched."""
        return name, ptx, machine.Module(ptx)

    def launch(self, kernel, grid, threads, shared, arguments):
        """All blocks, before this returns."""
        name, ptx, module = kernel
        arguments = list(arguments)
        if self.mutate is not None:
            module = machine.Module(self.mutate(ptx))
        values = [packed(*argument) for argument in arguments]
        nothing = len(module.sizes(name)) - len(values)  # Triton's own scratch, of which these kernels have none
        report = module.launch(
            name, grid, (threads,), values + [bytes(8)] * nothing, shared=shared, seed=self.seed, check=self.check,
            approximate_error=self.approximate_error, most_instructions=MOST_INSTRUCTIONS, ranges=ranges_of(arguments),
        )  # fmt: skip
        self.launches[name] += 1
        self.counts[name].update(report.counts)
        if report.faults:
            raise machine.Faults(f"{name}, grid {grid}: {report.faults[:8]}")


@dataclass
class Launch:
    """One launch as the host saw it."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    seconds: float  # when, by time.perf_counter


@dataclass
class Recorder:
    """Compiles and runs nothing: what the host does is left, and noted."""

    launches: list[Launch] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)  # what would have been compiled, in this order
    compiles = False

    def load(self, name: str, ptx: str):
        """A name is enough."""
        self.kernels.append(name)
        return name

    def launch(self, kernel, grid, threads, shared, arguments):
        """Nothing is written: results are what memory held before."""
        self.launches.append(Launch(kernel, grid, threads, time.perf_counter()))


class Driver(DriverBase):
    """What Triton asks of a driver. The number of the device is its architecture, as Triton keeps kernels by device."""

    def __init__(self, architecture: int, executor: Executor) -> None:
        self.architecture, self.executor = architecture, executor
        limits = dict(max_shared_mem=SHARED_BYTES[architecture], warpSize=WARP, multiprocessor_count=1)
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: limits,
            # There is one: the module, the function, registers, spills and the most threads.
            load_binary=lambda name, ptx, *_: (name, executor.load(name, ptx.decode()), 0, 0, 1024),
            unload_module=lambda _: None,
        )

    def launcher_cls(self, source, metadata):
        """What is called for a launch, with all arguments of the kernel, constants among them."""
        signature = tuple(source.signature.values())

        def launch(x, y, z, stream, function, options, launch_metadata, enter, leave, *arguments):
            given = flat(signature, arguments)
            self.executor.launch(function, (x, y, z), metadata.num_warps * WARP, metadata.shared, given)

        return launch

    @staticmethod
    def is_active():
        """Only where it is chosen."""
        return False

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, WARP)

    def get_current_device(self):
        return self.architecture

    def set_current_device(self, _):
        pass

    def get_current_stream(self, _):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def map_python_to_cpp_type(self, kind):
        raise NotImplementedError

    def get_benchmarker(self):
        raise NotImplementedError


def _stages_of_names(backend, stages, options, language=None):
    """A pipeline that knows a kernel's name, and that it is to be launched with the given warps."""

    def name(module, metadata):
        metadata.update(name=str(module.get_entry_func_name()), shared=0, tmem_size=None)
        return b""

    stages["ttir"] = lambda module, metadata: module
    stages["cubin"] = name


def _operand(x: torch.Tensor) -> str:
    if x.dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    return device.OPERANDS[x.dtype]


@contextmanager
def virtual_gpu(architecture: int, executor: Executor, programs: int = 3) -> Iterator[Executor]:
    """Inside, the Triton backend takes CPU tensors, as on a GPU of this architecture with so many multiprocessors."""
    active = drivers._active if hasattr(drivers, "_active") else None
    family = shapes.FAMILIES.get(architecture // 10, shapes.NVIDIA)
    changes = [
        (device, "operand", _operand),
        (device, "assembly", lambda _: True),
        (device, "programs", lambda _: programs),
        (shapes, "_family_of", lambda _: family),
        # PTX goes where machine code would, under keys of its own in Triton's cache.
        (CUDABackend, "make_cubin", lambda _, ptx, *__: ptx.encode()),
        (CUDABackend, "hash", lambda self: f"virtual {executor.compiles} {self.target.arch}"),
    ]
    if not executor.compiles:
        changes.append((CUDABackend, "add_stages", _stages_of_names))
    with ExitStack() as stack:
        stack.enter_context(patch.dict(vars(TABLE["triton"]), devices=("cpu", "cuda"), missing=lambda _: None))
        for change in changes:
            stack.enter_context(patch.object(*change))
        drivers.set_active(Driver(architecture, executor))
        try:
            yield executor
        finally:
            drivers._active = active
