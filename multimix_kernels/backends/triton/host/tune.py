"""Opt-in tuning: with MULTIMIX_TRITON_TUNE=1 the first call of each shape class times a few configurations.

The fastest is kept for the process. What draws weights is not tuned: their bits stay the same. Losses and gradients may
be added up in another order than without tuning, and processes may choose differently: last bits can differ then.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor

from . import device, shapes

ENVIRONMENT_VARIABLE = "MULTIMIX_TRITON_TUNE"
REPEATS = 5
GAIN = 0.97  # another configuration must take less than this of the time of the one before
CHANGES = (dict(stages=1), dict(stages=3), dict(occupancy=2), dict(rows=64), dict(classes=64), dict(warps=4))

Result = TypeVar("Result")
chosen: dict[Hashable, shapes.Family] = {}
_timing = threading.Lock()  # one thread at a time, so that all get the one that was found, and timings are their own


def tuned(name: str, x: Tensor, b: int, n: int, flags: Hashable, run: Callable[[], Result]) -> Result:
    """run(), which has no side effects, under the configuration for operands like x, b examples and n rows."""
    if os.environ.get(ENVIRONMENT_VARIABLE) != "1":
        return run()
    sizes = tuple(shapes.power_of_two(size) for size in (*x.shape, b, n))
    key = (name, x.device, x.dtype, sizes, flags)
    if key not in chosen:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return run()
        with _timing:
            if key not in chosen:
                chosen[key] = _fastest(shapes.family(x), device.operand(x), run, x.device)
    with shapes.on_trial(chosen[key]):
        return run()


def neighbours(family: shapes.Family, operand: str) -> Iterator[shapes.Family]:
    """Families that differ in one thing."""
    yield replace(family, fused_occupancy=2)
    for table in ("large", "two_accumulators", "soft"):
        shapes = getattr(family, table)
        for change in CHANGES:
            changed = replace(shapes[operand], **change)
            if changed != shapes[operand]:
                yield replace(family, **{table: shapes | {operand: changed}})


def _fastest(family: shapes.Family, operand: str, run: Callable, device: torch.device) -> shapes.Family:
    best, least = family, measure(family, run, device)
    for candidate in neighbours(family, operand):
        seconds = measure(candidate, run, device)
        if seconds < GAIN * least:
            best, least = candidate, seconds
    return best


def measure(family: shapes.Family, run: Callable, device: torch.device) -> float:
    """Seconds of the fastest of some runs after the first; infinite if it does not fit on the chip."""
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources

    with shapes.on_trial(family):
        try:
            run()
        except (OutOfResources, CompilationError):
            return float("inf")
        return min(_once(run, device) for _ in range(REPEATS))


def _once(run: Callable, device: torch.device) -> float:
    if device.type != "cuda":
        start = perf_counter()
        run()
        return perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        first.record()
        run()
        last.record()
        last.synchronize()
    return first.elapsed_time(last) / 1e3
