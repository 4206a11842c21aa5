"""An ESTIMATE of the Triton kernels' time on an H200. No GPU has confirmed it, and nothing here is measured.

`python -m benchmarks.triton_model` compiles the kernels for sm_90 and prints a table. A tile takes the longest of: the
compiled kernel's instructions over the issue rate, its special functions over theirs, its products over the matrix
units'; tiles are shared out among the multiprocessors in whole tiles; a kernel takes at least its bytes over the L2
cache's rate, and each launch a few microseconds. Latency that nothing hides is left out: expect a factor of one to
three on top.
"""

import math
from dataclasses import dataclass

from multimix_kernels.backends.triton import aot, config

from .cases import CASES, Case

TARGET = "sm_90"
PROCESSORS, CLOCK = 132, 1.755e9  # of an H200 under load
MATRIX = {"bf16": 790e12, "tf32": 400e12, "fp32": 55e12}  # operations per second of large products
ISSUE = 4  # instructions of warps that a multiprocessor issues in a cycle
SPECIAL = 0.5  # of them special functions
L2 = 5.5e12  # bytes per second
LAUNCH = 3e-6  # seconds between dependent kernels
# Loops are counted once in compiled code; about three turns of the sampler's loop over rejects are made by the slowest
# of 32 lanes. Its length is an assumption.
REJECTS, REJECT_TURNS = 250, 3
GAMMA = 55  # lane-instructions of a gamma variate in the floor


@dataclass(frozen=True)
class Work:
    """One kernel over all rows."""

    name: str
    report: aot.Report
    tiles: int
    turns: float  # of the compiled code for a tile
    extra: float  # instructions beside it
    operations: float  # of matrix products, all tiles
    cached: float  # bytes
    launches: int

    def seconds(self, operand: str) -> float:
        """The longest of the floors, and the launches."""
        warps = self.report.case.warps
        issue = (self.report.instructions * self.turns + self.extra) * warps / ISSUE
        special = self.report.counts.get("MUFU", 0) * self.turns * warps / SPECIAL
        products = self.operations / self.tiles / (MATRIX[operand] / PROCESSORS) * CLOCK
        cycles = max(issue, special, products)
        return max(math.ceil(self.tiles / PROCESSORS) * cycles / CLOCK, self.cached / L2) + self.launches * LAUNCH


def compiled(operand: str) -> dict[str, aot.Report]:
    """The kernels that a step uses, by name."""
    used = {"sample, hardware", "mixed_small c=10", "mixed_small c=100", "normaliser", "gradient", "add_up", "prepare"}
    found = {}
    for case in aot.cases(config.NVIDIA, (operand,)):
        if case.name in used:
            found[case.name] = aot.compile_case(case, TARGET)
    return found


def full_step(case: Case, n: int, operand: str, reports: dict[str, aot.Report]) -> list[Work]:
    """Loss and gradient of the scores: not the linear layer before it."""
    rows, b, c = n * case.r, case.b, case.c
    small = config.NVIDIA.mixed_small(b, c, operand)
    itemsize = 2 if operand == "bf16" else 4
    tail = [
        Work("prepare", reports["prepare"], max(1, case.r * b // 2), 1, 0, 0, 3 * case.r * b * c * itemsize, 1),
        Work("add_up", reports["add_up"], case.r * math.ceil(c / 32) * math.ceil(b / 32), 4, 0, 0,
             config.PARTIAL_BYTES, 2),
    ]  # fmt: skip
    if small is not None:
        report = reports[f"mixed_small c={c}"]
        products = 4 if operand == "bf16" else 3
        tiles = case.r * math.ceil(n / small.pair.rows)
        work = products * 2 * rows * b * small.classes
        extra = REJECTS * (REJECT_TURNS - 1)
        return [Work("mixed_small", report, tiles, 1, extra, work, 0, 1), *tail]
    shape, pair = config.NVIDIA.large[operand], config.NVIDIA.sampler(b, False)
    blocks = max(1, math.ceil(rows * b * itemsize / config.SCRATCH_BYTES))
    traffic, chunks, tiles = rows * b * itemsize, math.ceil(c / shape.classes), math.ceil(rows / shape.rows)
    return [
        Work("sample", reports["sample, hardware"], math.ceil(rows / pair.rows), 1, REJECTS * (REJECT_TURNS - 1), 0,
             traffic, blocks),
        Work("normaliser", reports["normaliser"], tiles, chunks, 0, 2 * rows * b * (c + b),
             traffic + tiles * b * c * itemsize, blocks),
        Work("gradient", reports["gradient"], tiles * (chunks + 1), 1, 0, 4 * rows * b * c + 2 * rows * b * b,
             (chunks + 1) * traffic + blocks * 2 * config.PARTIAL_BYTES, blocks),
        *tail,
    ]  # fmt: skip


def table(operand: str) -> list[str]:
    """The lines of the table for one operand type."""
    reports = compiled(operand)
    lines = []
    for case in CASES.values():
        for n in case.n:
            works = full_step(case, n, operand, reports)
            total = sum(work.seconds(operand) for work in works)
            products = 4 * n * case.r * case.b * case.c / MATRIX[operand]
            floor = max(products, n * case.r * case.b * GAMMA / (32 * ISSUE * PROCESSORS * CLOCK))
            parts = ", ".join(f"{work.name} {work.seconds(operand) * 1e3:.3g}" for work in works)
            lines.append(f"| {case.name} | {n} | {operand} | {total * 1e3:.3g} | {floor * 1e3:.3g} | {parts} |")
    return lines


def main() -> None:
    """Prints the estimates."""
    print("ESTIMATES for an H200 in milliseconds, of loss and gradient from scores. No GPU has confirmed them.\n")
    print("| case | n | operands | estimate | floor | by kernel |\n| --- | --- | --- | --- | --- | --- |")
    for operand in ("bf16", "tf32", "fp32"):
        print("\n".join(table(operand)))


if __name__ == "__main__":
    main()
