"""An ESTIMATE of the Triton kernels' time on an H200. No GPU has confirmed it, and nothing here is measured.

`python -m benchmarks.compiled model` compiles the kernels for sm_90 and prints a table. A tile needs the compiled
kernel's instructions over the issue rate, its special functions over theirs, its products over the matrix units'. At
the least the longest of the three decides, at the most they follow each other. Tiles are shared out among the
multiprocessors in whole tiles; a kernel takes at least its bytes over the L2 cache's rate, and each launch a few
microseconds. Latency that nothing hides is left out.
"""

import argparse
import math
from dataclasses import dataclass

from multimix_kernels.backends.triton.host import shapes

from ..cases import CASES, Case
from . import aot, cases

TARGET = "sm_90"
FAMILY = cases.family_of(TARGET)
PROCESSORS, CLOCK = 132, 1.755e9  # of an H200 under load
MATRIX = {"bf16": 790e12, "tf32": 400e12, "fp32": 55e12}  # operations per second of large products
ISSUE = 4  # instructions of warps that a multiprocessor issues in a cycle
SPECIAL = 0.5  # of them special functions
L2 = 5.5e12  # bytes per second
LAUNCH = 3e-6  # seconds between dependent kernels
REJECT_TURNS = 3.3  # of the sampler's loop over rejects, made by the slowest of 32 lanes with 32 weights each
GAMMA = 55  # lane-instructions of a gamma variate in the floor


@dataclass(frozen=True)
class Work:
    """One kernel over all rows."""

    name: str
    report: aot.Report
    tiles: int
    instructions: float  # of a tile, per warp
    turns: float  # how often a tile executes the compiled special functions
    operations: float  # of matrix products, all tiles
    cached: float  # bytes
    launches: int

    def seconds(self, operand: str, overlap: bool) -> float:
        """The longest of the floors, or their sum, and the launches."""
        warps = self.report.case.warps
        issue = self.instructions * warps / ISSUE
        special = self.report.counts.get("MUFU", 0) * self.turns * warps / SPECIAL
        products = self.operations / self.tiles / (MATRIX[operand] / PROCESSORS) * CLOCK
        cycles = max(issue, special, products) if overlap else issue + special + products
        return max(math.ceil(self.tiles / PROCESSORS) * cycles / CLOCK, self.cached / L2) + self.launches * LAUNCH


def compiled(operand: str) -> dict[str, aot.Report]:
    """The kernels that a step uses, by name."""
    used = {"sample, hardware", "mixed_small c=10", "mixed_small c=100", "normaliser", "gradient", "add_up", "prepare"}
    return {case.name: aot.compile_case(case, TARGET) for case in cases.cases(FAMILY, (operand,)) if case.name in used}


def full_step(case: Case, n: int, operand: str, reports: dict[str, aot.Report]) -> list[Work]:
    """Loss and gradient of the scores: not the linear layer before it."""
    rows, b, c = n * case.r, case.b, case.c
    small = FAMILY.mixed_small(b, c, operand)
    itemsize = 2 if operand == "bf16" else 4

    def whole(name, tiles, loop_turns=1.0, operations=0.0, cached=0.0, launches=1):
        report = reports[name]
        instructions = report.instructions + (loop_turns - 1) * (report.loops or (0,))[0]
        return Work(name.split()[0].strip(","), report, tiles, instructions, loop_turns, operations, cached, launches)

    add_up_tiles = case.r * math.ceil(c / 32) * math.ceil(b / 32)
    tail = [
        whole("prepare", max(1, case.r * b // 2), cached=3 * case.r * b * c * itemsize),
        whole("add_up", add_up_tiles, 4, cached=shapes.PARTIAL_BYTES, launches=2),
    ]
    if small is not None:
        report = reports[f"mixed_small c={c}"]
        products = (4 if operand == "bf16" else 3) * 2 * rows * b * small.classes
        instructions = report.loops[0] + (REJECT_TURNS - 1) * report.loops[1]
        tiles = case.r * math.ceil(n / small.pair.rows)
        return [Work("mixed_small", report, tiles, instructions, 1, products, 0, 1), *tail]
    shape, pair = FAMILY.large[operand], FAMILY.sampler(b, False)
    blocks = max(1, math.ceil(rows * b * itemsize / shapes.SCRATCH_BYTES))
    traffic, chunks, tiles = rows * b * itemsize, math.ceil(c / shape.classes), math.ceil(rows / shape.rows)
    gradient = reports["gradient"]
    drawn = whole("sample, hardware", math.ceil(rows / pair.rows), REJECT_TURNS, 0, traffic, blocks)
    return [
        Work("sample", drawn.report, drawn.tiles, drawn.instructions, 1, 0, traffic, blocks),
        whole("normaliser", tiles, chunks, 2 * rows * b * (c + b), traffic + tiles * b * c * itemsize, blocks),
        Work("gradient", gradient, tiles * (chunks + 1), gradient.loops[0], chunks / (chunks + 1),
             4 * rows * b * c + 2 * rows * b * b, (chunks + 1) * traffic + blocks * 2 * shapes.PARTIAL_BYTES, blocks),
        *tail,
    ]  # fmt: skip


def table(operand: str) -> list[str]:
    """The lines of the table for one operand type."""
    reports = compiled(operand)
    lines = []
    for case in CASES.values():
        for n in () if case.from_scores else case.n:
            works = full_step(case, n, operand, reports)
            least, most = (sum(work.seconds(operand, overlap) for work in works) for overlap in (True, False))
            products = 4 * n * case.r * case.b * case.c / MATRIX[operand]
            floor = max(products, n * case.r * case.b * GAMMA / (32 * ISSUE * PROCESSORS * CLOCK))
            parts = ", ".join(f"{work.name} {work.seconds(operand, False) * 1e3:.3g}" for work in works)
            times = " | ".join(f"{seconds * 1e3:.3g}" for seconds in (least, most, floor))
            lines.append(f"| {case.name} | {n} | {operand} | {times} | {parts} |")
    return lines


def main(arguments: list[str]) -> int:
    """Prints the estimates."""
    argparse.ArgumentParser("python -m benchmarks.compiled model", description=__doc__).parse_args(arguments)
    print("ESTIMATES for an H200 in milliseconds, of loss and gradient from scores. No GPU has confirmed them.\n")
    print("| case | n | operands | at least | at most | floor | at most, by kernel |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for operand in ("bf16", "tf32", "fp32"):
        print("\n".join(table(operand)))
    return 0
