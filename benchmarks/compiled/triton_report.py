"""What the compiler makes of the Triton kernels, target by target: `python -m benchmarks.compiled triton sm_90 gfx942`.

Compiled ahead of time: no GPU is needed, and nothing is run. Fails where a kernel does not fit its GPU, a product has
no matrix instructions, or one for sm_80 or sm_90 uses more local memory than four registers.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
import triton

from . import aot, cases

LEGEND = """registers: of a thread. spilled: bytes of stack; on AMD vector registers in memory. local: instructions that
use local memory. lanes: on AMD, scalar registers kept in lanes of vector registers, not in memory. shared: bytes.
Loops are counted once. matrix: matrix instructions; IEEE float32 has none on NVIDIA GPUs.
"""


def compile_one(index: int, target: str) -> tuple[str, bool, list[str]]:
    """A line of the table, whether memory is used for spills, and what is wrong; for the kernel of this index."""
    report = aot.compile_case(cases.cases_of(target)[index], target)
    return aot.row(report), report.spills > 0 or report.local > 0, aot.faults(report)


def main(arguments: list[str]) -> int:
    """Prints the table; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compiled triton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", choices=[[], *cases.TARGETS], metavar="target", help="default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: the processors here")
    parser.add_argument(
        "--brief", action="store_true", help="variants of kernels for sm_80 and sm_90 only, and one shape of each kind"
    )
    options = parser.parse_args(arguments)
    print(f"Triton {triton.__version__}, torch {torch.__version__}\n\n{LEGEND}\n{aot.HEADER}")
    work = [
        (k, target)
        for target in options.targets or cases.TARGETS
        for k, case in enumerate(cases.cases_of(target))
        if not (options.brief and (case.another_shape or (case.variant and target not in aot.WITHOUT_LOCAL_MEMORY)))
    ]
    wrong, spilled = [], 0
    # Not forked: torch has threads.
    with ProcessPoolExecutor(max(1, options.jobs), mp_context=get_context("spawn")) as pool:
        for row, spills, faults in pool.map(compile_one, *zip(*work, strict=True)):
            print(row, flush=True)
            spilled += spills
            wrong += [f"{fault}: {row}" for fault in faults]
    print(f"\n{len(work)} compiled, {spilled} with spills to memory")
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return bool(wrong)
