"""`python -m benchmarks.gpu.metrics FILE.csv ...`: a table of each kernel that ncu saw."""

import csv
import sys
from pathlib import Path

from ..text import table

COLUMNS = {
    "time": "Duration", "SM %": "Compute (SM) Throughput", "memory %": "Memory Throughput",
    "DRAM %": "DRAM Throughput", "L1 %": "L1/TEX Cache Throughput", "registers": "Registers Per Thread",
    "occupancy %": "Achieved Occupancy",
}  # fmt: skip
_NAME = 48
_PERCENT = ("memory %",)  # a metric of this name is there in bytes per second too


def read_kernels(path: Path) -> list[dict[str, str]]:
    """Kernels in the order of their launch: "kernel", and the columns as far as they are there."""
    lines = path.read_text(errors="replace").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    kernels: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(line for line in lines[start:] if line.startswith('"')):
        kernel = kernels.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        for column, metric in COLUMNS.items():
            unit = row["Metric Unit"]
            if row["Metric Name"] == metric and (column not in _PERCENT or unit == "%"):
                kernel[column] = f"{row['Metric Value']} {unit}" if column == "time" else row["Metric Value"]
    return list(kernels.values())


def render(kernels: list[dict[str, str]]) -> str:
    """Aligned columns."""
    return table(["kernel", *COLUMNS], [[k["kernel"][:_NAME], *(k.get(c, "-") for c in COLUMNS)] for k in kernels])


def main(arguments: list[str]) -> int:
    """Print the tables; 1 if there is no kernel in a file."""
    empty = False
    for path in map(Path, arguments):
        kernels = read_kernels(path) if path.exists() else []
        print(f"{path.name}: {len(kernels)} kernels\n{render(kernels) if kernels else ''}\n")
        empty |= not kernels
    return int(empty)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
