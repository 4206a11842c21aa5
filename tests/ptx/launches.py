"""What a step costs the host on a GPU with the Triton backend, seen by a driver that only notes launches.

`python -m tests.ptx.launches [times]`: for the loss of scores with its gradient and the backward, bfloat16, b 128, on a
GPU as sm_90 with 132 multiprocessors, as tables in Markdown. First launches of this library's kernels, those compiled
by the first step, and calls of functions, Python's and built-in ones, in each later step; with `times` also the median
of the host's microseconds, including torch's kernels, which run on the CPU, and without Triton's launcher, which is in
C. Then kernels compiled in a run of steps, where the first step is not the last to compile.
"""

import cProfile
import multiprocessing
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

import multimix_kernels as mk
from benchmarks.cases import ALPHA, CASES

from .triton_driver import Recorder, virtual_gpu

MULTIPROCESSORS = 132
SHOWN = ("cifar10-r18", "cifar100-r18", "imagenet-r50", "dense-cifar100", "dense-imagenet")
ROWS = (10**3, 10**6)
SECONDS = 2.0  # of timed steps
RUN = ((128,), (128,) * 47, (127,), (40,))  # batch sizes of 50 steps, in stages
SAMPLE = "sample_dirichlet"
Result = TypeVar("Result")
Step = Callable[[int, int, int], None]  # of b examples, n rows, from row_offset


def step_of(name: str) -> Step:
    """The loss of a case's scores, in memory as a linear head leaves them, and its gradient; dense with attention."""
    case = CASES[name]

    @cache
    def operands(b: int) -> tuple[Tensor, Tensor, Tensor | None]:
        scores = torch.zeros(case.r, b, case.c, dtype=torch.bfloat16).permute(1, 2, 0).view(b, case.c, *case.spatial)
        attention = torch.ones(b, *case.spatial) if case.dense else None
        return scores.requires_grad_(), torch.arange(b) % case.c, attention

    def step(b: int, n: int, row_offset: int = 0) -> None:
        scores, labels, attention = operands(b)
        scores.grad = None
        mk.mixed_cross_entropy(
            scores, labels, attention=attention, n=n, alpha=ALPHA, seed=1, row_offset=row_offset, backend="triton"
        ).backward()

    return step


def launches(name: str, n: int, timed: bool) -> str:
    """A row of the first table."""
    step = step_of(name)
    with virtual_gpu(90, Recorder(), programs=MULTIPROCESSORS) as gpu:
        step(128, n, 0)
        step(128, n, 0)
        gpu.launches.clear()
        profile = cProfile.Profile()
        profile.runcall(step, 128, n, 0)
        found = Counter(launch.kernel.removesuffix("_kernel") for launch in gpu.launches)
        microseconds = f"{1e6 * statistics.median(times(lambda: step(128, n, 0))):,.0f}" if timed else ""
    kernels = ", ".join(f"{kernel} {count}" if count > 1 else kernel for kernel, count in found.items())
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return f"| {name} | {n:,} | {found.total():,} | {kernels} | {len(gpu.kernels)} | {calls:,} | {microseconds} |"


def times(run: Callable[[], None]) -> Iterator[float]:
    """Seconds of runs, one after the other."""
    end = time.perf_counter() + SECONDS
    while (start := time.perf_counter()) < end:
        run()
        yield time.perf_counter() - start


def compilations(name: str, stages: Sequence[Sequence[int]] = RUN) -> list[int]:
    """Kernels compiled by steps of so many examples, stage by stage, and then by steps from other rows of the stream.

    name: of a case, or "sample_dirichlet", which writes out the weights of a step.
    """
    step = sample if name == SAMPLE else step_of(name)
    found = []
    with virtual_gpu(90, Recorder(), programs=MULTIPROCESSORS) as gpu:
        for steps in (*([(b, 0) for b in stage] for stage in stages), [(128, 1000), (128, 2**31 - 1000), (128, 2**40)]):
            before = len(gpu.kernels)
            for b, row_offset in steps:
                step(b, 1000, row_offset)
            found.append(len(gpu.kernels) - before)
    return found


def sample(b: int, n: int, row_offset: int) -> None:
    """Weights that are written out."""
    mk.sample_dirichlet(n, b, seed=1, row_offset=row_offset, backend="triton")


def in_fresh_processes(function: Callable[..., Result], calls: Iterable[tuple]) -> Iterator[Result]:
    """Results one after the other, each from a process that has compiled nothing."""
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for arguments in calls:
            yield pool.apply(function, arguments)


def main(timed: bool) -> None:
    """Prints the tables."""
    print("| scores of | n | launches | kernels | compiled | calls | host us |\n" + "|---" * 7 + "|")
    for row in in_fresh_processes(launches, ((name, n, timed) for name in SHOWN for n in ROWS)):
        print(row, flush=True)
    print("\n| compiled at | step 1, b 128 | steps 2 to 48 | then b 127 | then b 40 | then other row_offsets |")
    print("|---" * 6 + "|")
    names = (*SHOWN, SAMPLE)
    for name, counts in zip(names, in_fresh_processes(compilations, ((name,) for name in names)), strict=True):
        print("|", " | ".join([name, *map(str, counts)]), "|", flush=True)


if __name__ == "__main__":
    main("times" in sys.argv[1:])
