"""Kernels whose launches cost the host little.

`triton.JITFunction.run` takes 10 to 30 us a launch: it writes the options out as a string, compares all globals of the
kernel, and asks for settings. Here the compiled kernel is kept under what Triton specialises by, and is launched
directly. Cost of a launch, by estimate: 50 ns for an argument, 150 ns for a tensor, 2 us, and Triton's launcher.
The first launch of a kind, and whatever is unusual, goes Triton's own way.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from types import NoneType
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver

from .. import INTERPRET

KNOWN = (3, 6), (3, 9)  # the first and the last Triton whose specialisation and launches are those below
ALIGNED = 16  # what Triton looks for in addresses and integers
ONE, MULTIPLE, OTHER = range(3)
UNSPECIALISED = (float, bool, NoneType)  # their types are all that counts


def specialise(values: Iterable, counts: Iterable[bool], found: list) -> None:
    """Appends to `found` what Triton specialises by, of tensors, numbers, None and tuples of these.

    counts: which integers are not specialised; those in tuples are. TypeError: of a value that is none of these.
    """
    for x, count in zip(values, counts, strict=False):
        kind = type(x)
        if kind is Tensor:
            found += kind, x.dtype, x.data_ptr() % ALIGNED == 0
        elif kind is int:
            found.append(kind)
            if not count:
                found.append(ONE if x == 1 else OTHER if x % ALIGNED else MULTIPLE)
            if not -(1 << 31) <= x < 1 << 31:
                found.append("i64" if x < 1 << 63 else "u64")
        elif kind in UNSPECIALISED:
            found.append(kind)
        elif isinstance(x, tuple):
            found += kind, len(x)
            specialise(x, repeat(False), found)
        elif isinstance(x, Tensor):
            specialise((x.as_subclass(Tensor),), (count,), found)
        else:
            raise TypeError(f"an argument of the type {kind}")


def watched() -> bool:
    """Whether somebody looks at launches, or has kernels compiled otherwise than by default: profilers, debuggers."""
    runtime = knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook  # None, or chains of hooks that may be empty
    return bool(
        getattr(enter, "calls", enter)
        or getattr(leave, "calls", leave)
        or runtime.add_stages_inspection_hook
        or runtime.debug
        or knobs.compilation.instrumentation_mode
    )


class Kernel(triton.JITFunction):
    """A kernel that Triton compiles, launched at once where it has been launched with arguments of the same kind.

    Device and stream are those of the moment, and a launch changes nothing: threads at worst prepare the same twice.
    Constants are the last arguments; what stands before them is given by position.
    """

    def __init__(self, function: Callable, **options) -> None:
        super().__init__(function, **options)
        constants = [parameter.is_constexpr for parameter in self.params]
        self._first = constants.index(True) if True in constants else len(constants)
        self._simple = all(constants[self._first :]) and not any(parameter.has_default for parameter in self.params)
        self._counts = [parameter.do_not_specialize for parameter in self.params[: self._first]]
        self._launches: dict[tuple, tuple] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Callable:
        return partial(self.run, grid=grid, warmup=False)

    def run(self, *arguments, grid, warmup, **keywords) -> Any:
        """A launch on the current stream of the current device; with `warmup` only a compilation."""
        first, active = self._first, driver.active
        device = active.get_current_device()
        known: tuple | None = None
        usual = self._simple and isinstance(grid, tuple) and len(arguments) >= first
        direct = usual and not (warmup or self.pre_run_hooks or watched())
        if direct:
            found: list = []
            try:
                specialise(arguments, self._counts, found)
                key = device, arguments[first:], tuple(keywords), tuple(keywords.values()), tuple(found)
                known = self._launches.get(key)
            except TypeError:  # also of what cannot be hashed
                direct = False
        if known is None:
            kernel = super().run(*arguments, grid=grid, warmup=warmup, **keywords)
            if direct and isinstance(kernel, CompiledKernel) and kernel.function is not None:
                self._launches[key] = kernel, kernel.run, kernel.function, kernel.packed_metadata
            return kernel
        kernel, launch, function, metadata = known
        x, y, z = (*grid, 1, 1)[:3]
        constants = [keywords[name] for name in self.arg_names[len(arguments) :]]
        stream = active.get_current_stream(device)
        launch(x, y, z, stream, function, metadata, None, None, None, *arguments, *constants)
        return kernel


def kernel(**options) -> Callable[[Callable], Any]:
    """A decorator in the place of `triton.jit`, for kernels; functions that they call are Triton's."""
    # For AMD's GPUs Triton also specialises tensors by their size.
    direct = known(triton.__version__) and not INTERPRET and not torch.version.hip
    return partial(Kernel, **options) if direct else triton.jit(**options)


def known(version: str) -> bool:
    """Whether kernels of this Triton are launched directly."""
    first, last = KNOWN
    return first <= tuple(map(int, version.split(".")[:2])) <= last
