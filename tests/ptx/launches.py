"""What a step costs the host on a GPU with the Triton backend, seen by a driver that only notes launches.

`python -m tests.ptx.launches [times]`: for the loss of scores with its gradient and the backward, bfloat16, b 128, on a
GPU as sm_90 with 132 multiprocessors, as tables in Markdown: launches of this library's kernels, kernels compiled by the
first step, calls of Python and of its built-in functions in each later step; with `times` the median of the host's
microseconds, torch's kernels included, which run on the CPU, and Triton's own launcher, which is in C, left out. Then
kernels compiled in a run of steps, where the first step is not the last to compile.
"""

import cProfile
import multiprocessing
import pstats
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

import multimix_kernels as mk
from benchmarks.cases import ALPHA, CASES

from .triton_driver import Recorder, virtual_gpu

MULTIPROCESSORS = 132
SHOWN = ("cifar10-r18", "cifar100-r18", "imagenet-r50", "dense-cifar100", "dense-imagenet")
ROWS = (10**3, 10**6)
SECONDS = 2.0  # of timed steps
RUN = (*[128] * 48, 127, 40)  # batch sizes of 50 steps
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


def compilations(name: str, *_) -> str:
    """A row of the second table."""
    step = step_of(name)
    with virtual_gpu(90, Recorder(), programs=MULTIPROCESSORS) as gpu:
        counts = [0]
        for some in (RUN[:1], RUN[1:-2], RUN[-2:-1], RUN[-1:]):
            for b in some:
                step(b, 1000, 0)
            counts.append(len(gpu.kernels))
        for row_offset in (1000, 2**31 - 1000, 2**40):
            step(128, 1000, row_offset)
        counts.append(len(gpu.kernels))
    return "| " + " | ".join([name, *(str(y - x) for x, y in zip(counts, counts[1:], strict=False))]) + " |"


def sampled(*_) -> str:
    """The same of weights that are written out, of other numbers of examples."""
    with virtual_gpu(90, Recorder(), programs=MULTIPROCESSORS) as gpu:
        counts = [0]
        for some in ((128,), (128,), (127, 126, 112, 65), (40,)):
            for b in some:
                mk.sample_dirichlet(1000, b, seed=1, backend="triton")
            counts.append(len(gpu.kernels))
        mk.sample_dirichlet(1000, 128, seed=1, row_offset=2**40, backend="triton")
        counts.append(len(gpu.kernels))
    return "| sample_dirichlet | " + " | ".join(str(y - x) for x, y in zip(counts, counts[1:], strict=False)) + " |"


def main(timed: bool) -> None:
    """Prints the tables, each row from a process that has compiled nothing."""
    context = multiprocessing.get_context("fork")
    with context.Pool(1, maxtasksperchild=1) as pool:
        print("| scores of | n | launches | kernels | compiled | calls | host us |\n" + "|---" * 7 + "|")
        for arguments in ((name, n, timed) for name in SHOWN for n in ROWS):
            print(pool.apply(launches, arguments), flush=True)
        print("\n| compiled at | step 1, b 128 | steps 2 to 48 | then b 127 | then b 40 | then other row_offsets |")
        print("|---" * 6 + "|")
        for name in SHOWN:
            print(pool.apply(compilations, (name,)), flush=True)
        print(pool.apply(sampled), flush=True)


if __name__ == "__main__":
    main("times" in sys.argv[1:])
