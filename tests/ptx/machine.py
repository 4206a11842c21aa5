"""Builds the machine that executes PTX, and runs kernels on it: `Module(text).launch(...)`."""

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

HERE = Path(__file__).parent / "machine"
CACHE = Path(__file__).parents[2] / "build" / "ptx"
FLAGS = ["-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-Wall", "-pthread"]
CHECK_FAULTS, COUNT_TRAFFIC, CHECK_ROUNDED = 1, 2, 4  # the last: operands of products in TF32 are rounded to it


class Range(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_uint64), ("end", ctypes.c_uint64), ("writable", ctypes.c_int)]


class Options(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint64),
        ("check", ctypes.c_int),
        ("approximate_error", ctypes.c_double),
        ("most_instructions", ctypes.c_uint64),
    ]


def find_compiler() -> str | None:
    """A C++20 compiler of this machine."""
    return next((c for c in (os.environ.get("CXX"), "g++", "c++", "clang++") if c and shutil.which(c)), None)


def run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def make(target: Path, command: Sequence[str | Path]) -> None:
    """A file by a command that writes it, so that others see all of it or nothing."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / target.name
        run([*command, "-o", part])
        os.replace(part, target)


def build() -> Path:
    """The shared library, unless there is one of the same sources, compiler and processor."""
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("there is no C++ compiler: install g++ or clang++, or set CXX")
    CACHE.mkdir(parents=True, exist_ok=True)
    target = subprocess.run([compiler, "-march=native", "-Q", "--help=target"], capture_output=True).stdout
    headers = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.h")))
    common = repr((compiler, FLAGS)).encode() + target + headers
    objects = []
    for source in sorted(HERE.glob("*.cpp")):
        name = hashlib.sha256(common + source.read_bytes()).hexdigest()[:20]
        objects.append((source, CACHE / f"{source.stem}-{name}.o"))
    library = CACHE / f"machine-{hashlib.sha256(repr(objects).encode()).hexdigest()[:20]}.so"
    if not library.exists():
        jobs = max(1, int(os.environ.get("MAX_JOBS", os.cpu_count() or 1)))
        with ThreadPoolExecutor(jobs) as pool:
            todo = [(target, [compiler, *FLAGS, "-c", source]) for source, target in objects if not target.exists()]
            list(pool.map(lambda item: make(*item), todo))
        make(library, [compiler, "-shared", "-pthread", *(path for _, path in objects)])
    return library


@cache
def load() -> ctypes.CDLL:
    """The library, built if need be."""
    library = ctypes.CDLL(str(build()))
    library.ptx_load.restype = ctypes.c_void_p
    library.ptx_symbol.restype = ctypes.c_void_p
    library.ptx_load.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    library.ptx_unload.argtypes = [ctypes.c_void_p]
    library.ptx_kernels.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.ptx_parameters.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32), ctypes.c_int,
    ]  # fmt: skip
    library.ptx_symbol.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)]
    library.ptx_launch.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(Range), ctypes.c_size_t,
        ctypes.POINTER(Options), ctypes.c_char_p, ctypes.c_size_t,
    ]  # fmt: skip
    return library


class Unknown(ValueError):
    """PTX that the machine does not know."""


class Faults(AssertionError):
    """What a launch did wrong."""


@dataclass(frozen=True)
class Report:
    """Of one launch: what was wrong, and how many instructions of each class warps executed."""

    faults: list[dict] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def kinds(self) -> set[str]:
        return {fault["kind"] for fault in self.faults}


class Module:
    """PTX that was read.

    Args:
        text: a module of PTX

    Raises:
        Unknown: names the line and the instruction that the machine does not know.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._library, error = load(), ctypes.create_string_buffer(4096)
        self._handle = self._library.ptx_load(text.encode(), error, len(error))
        if not self._handle:
            raise Unknown(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.ptx_unload(self._handle)

    @property
    def kernels(self) -> list[str]:
        names = ctypes.create_string_buffer(1 << 20)
        self._library.ptx_kernels(self._handle, names, len(names))
        return names.value.decode().split()

    def sizes(self, kernel: str) -> list[int]:
        """Bytes of each parameter."""
        sizes = (ctypes.c_uint32 * 512)()
        count = self._library.ptx_parameters(self._handle, kernel.encode(), sizes, len(sizes))
        if count < 0:
            raise KeyError(kernel)
        return list(sizes[:count])

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence["torch.Tensor | int | float | bytes"],
        *,
        shared: int = 0,
        seed: int = 0,
        check: int = CHECK_FAULTS,
        approximate_error: float = 0.0,
        most_instructions: int = 0,
        ranges: Sequence[tuple[int, int, bool]] | None = None,
    ) -> Report:
        """Runs a kernel. Tensors are passed as pointers, and are what it may touch unless `ranges` names that.

        Args:
            grid, block: up to three sizes
            arguments: one for each parameter; a float is a float32 or float64, by the parameter's size
            shared: bytes of dynamic shared memory
            ranges: (begin, end, writable) of memory that may be touched
        """
        values = [pack(value, size) for value, size in zip(arguments, self.sizes(kernel), strict=True)]
        if ranges is None:
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in arguments if torch.is_tensor(t)}
            ranges = [(begin, begin + storage.nbytes(), True) for begin, storage in storages.items()]
        buffers = [ctypes.create_string_buffer(value, max(len(value), 1)) for value in values]
        pointers = (ctypes.c_void_p * max(len(buffers), 1))(*(ctypes.addressof(buffer) for buffer in buffers))
        report = ctypes.create_string_buffer(1 << 17)
        self._library.ptx_launch(
            self._handle, kernel.encode(), three(grid), three(block), shared, pointers,
            (Range * max(len(ranges), 1))(*(Range(*item) for item in ranges)), len(ranges),
            ctypes.byref(Options(seed, check, approximate_error, most_instructions)), report, len(report),
        )  # fmt: skip
        return Report(**json.loads(report.value.decode()))


def three(sizes: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_uint32 * 3)(*sizes, *(1,) * (3 - len(sizes)))


def pack(value: "torch.Tensor | int | float | bytes", size: int) -> bytes:
    """A parameter's bytes."""
    if isinstance(value, bytes):
        return value.ljust(size, b"\0")
    if torch.is_tensor(value):
        value = value.data_ptr()
    if isinstance(value, float):
        return bytes(ctypes.c_float(value)) if size == 4 else bytes(ctypes.c_double(value))
    return (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
