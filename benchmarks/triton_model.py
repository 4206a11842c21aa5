"""An ESTIMATE of the Triton kernels' time on an H200, from counted work and the chip's rates. Nothing here is measured.

`python -m benchmarks.triton_model` prints a table. Per kernel the time is the largest of: operations over the matrix
units' rate, lane-instructions over the issue rate, special functions over theirs, and bytes over the L2 cache's; each
launch of a super-block adds a few microseconds. Real kernels overlap these less than perfectly, and below n = 10**4 too
few tiles fill the chip: expect a factor of one and a half to three on top, more for small n.
"""

from dataclasses import dataclass

from multimix_kernels.backends.triton import config

from .cases import CASES, Case

PROCESSORS, CLOCK = 132, 1.755e9  # of an H200 under load
MATRIX = {
    "bf16": 790e12,
    "tf32": 400e12,
    "fp32": 55e12,
}  # operations per second: of a large product for bf16, the others in proportion
LANES = 128 * PROCESSORS * CLOCK  # lane-instructions per second
SPECIAL = 16 * PROCESSORS * CLOCK  # special functions per second
L2 = 5.5e12  # bytes per second
LAUNCH = 4e-6  # seconds between dependent kernels

# Lane-instructions, from the compiled code for sm_90: see the report of triton_report.
GAMMA = (
    120  # sample: 3800 instructions for 32 weights of a thread, of which the loop over rejects runs about three times
)
GAMMA_FUSED = 200  # mixed_small: 8 to 16 weights of a thread, so that the loop over rejects weighs more
SCORE = {"normaliser": 8, "gradient": 8, "fused": 14}  # for each mixed score


@dataclass(frozen=True)
class Work:
    """One kernel over all rows."""

    name: str
    operations: float
    instructions: float
    special: float
    cached: float  # bytes
    launches: int

    def seconds(self, operand: str) -> float:
        """The largest of the floors, and the launches."""
        floors = (
            self.operations / MATRIX[operand],
            self.instructions / LANES,
            self.special / SPECIAL,
            self.cached / L2,
        )
        return max(floors) + self.launches * LAUNCH


def full_step(case: Case, n: int, operand: str) -> list[Work]:
    """Loss and gradient of the scores: not the linear layer before it."""
    rows, b, c = n * case.r, case.b, case.c
    gammas, scores = rows * b, rows * c
    small = config.NVIDIA.mixed_small(b, c, operand)
    if small is not None:
        padded = small.classes
        products = 4 if operand == "bf16" else 3
        instructions = gammas * GAMMA_FUSED + rows * padded * SCORE["fused"]
        return [
            Work("mixed_small", products * 2 * rows * b * padded, instructions, 6 * gammas + scores, 0, 1),
            Work("add_up", 0, 0, 0, config.PARTIAL_BYTES, 1),
        ]
    itemsize = 2 if operand == "bf16" else 4
    blocks = max(1, -(-rows * b * itemsize // config.SCRATCH_BYTES))
    shape = config.NVIDIA.large[operand]
    traffic = rows * b * itemsize
    chunks = -(-c // shape.classes)
    tiles = -(-rows // shape.rows)
    return [
        Work("sample", 0, gammas * GAMMA, 6 * gammas, traffic, blocks),
        Work("normaliser", 2 * rows * b * (c + b), scores * SCORE["normaliser"], scores,
             traffic + tiles * b * c * itemsize, blocks),
        Work("gradient", 4 * rows * b * c + 2 * rows * b * b, scores * SCORE["gradient"], scores,
             (chunks + 1) * traffic + blocks * 2 * config.PARTIAL_BYTES, blocks),
        Work("add_up", 2 * b * b * c, 0, 0, config.PARTIAL_BYTES, 1),
    ]  # fmt: skip


def table(operand: str) -> list[str]:
    """The lines of the table for one operand type."""
    lines = []
    for case in CASES.values():
        for n in case.n:
            works = full_step(case, n, operand)
            total = sum(work.seconds(operand) for work in works)
            products = 4 * n * case.r * case.b * case.c / MATRIX[operand]
            floor = max(products, n * case.r * case.b * 55 / LANES)  # two products; 55 lane-instructions for a gamma
            parts = ", ".join(f"{work.name} {work.seconds(operand) * 1e3:.3g}" for work in works)
            lines.append(f"| {case.name} | {n} | {operand} | {total * 1e3:.3g} | {floor * 1e3:.3g} | {parts} |")
    return lines


def main() -> None:
    """Prints the estimates."""
    print("ESTIMATES for an H200, in milliseconds, of loss and gradients from scores; nothing was measured.\n")
    print("| case | n | operands | estimate | floor | by kernel |\n| --- | --- | --- | --- | --- | --- |")
    for operand in ("bf16", "tf32", "fp32"):
        print("\n".join(table(operand)))


if __name__ == "__main__":
    main()
