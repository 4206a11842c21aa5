"""What ran on the machine, by kernel: python -m tests.ptx.cuda.table FILE..., of files that MULTIMIX_PTX_COUNTS named.

A row for each kernel; for each file in how many cases it ran, in how many variants of its template, how often, how many
warp instructions that were, and with how many faults.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def read(path: str | Path) -> list[dict]:
    """The lines of a file: test, kernel, and what the machine reported."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def instructions(row: dict) -> int:
    """Warp instructions of a launch."""
    return row["counts"].get("executed", 0)


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Names of kernels without namespaces, types and arguments, where there is c++filt."""
    names = sorted(set(names))
    try:
        done = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    except OSError:
        return {name: name for name in names}
    return {
        name: re.search(r"(\w+)(<|\()", text.replace("(anonymous namespace)::", "")[5 * text.startswith("void ") :])[1]
        for name, text in zip(names, done.stdout.splitlines(), strict=True)
    }


def table(runs: dict[str, list[dict]]) -> str:
    """In Markdown; runs by the name of their column."""
    names = demangled(row["kernel"] for rows in runs.values() for row in rows)
    cells: dict = defaultdict(lambda: defaultdict(list))
    for column, rows in runs.items():
        for row in rows:
            cells[names[row["kernel"]]][column].append(row)
    lines = ["| kernel | " + " | ".join(f"{c}: cases, variants, launches, instructions, faults" for c in runs) + " |"]
    lines.append("|---" * (1 + len(runs)) + "|")
    for kernel in sorted(cells):
        texts = []
        for column in runs:
            rows = cells[kernel][column]
            counts = (
                len({row["test"] for row in rows}), len({row["kernel"] for row in rows}), len(rows),
                sum(map(instructions, rows)), sum(len(row["faults"]) for row in rows),
            )  # fmt: skip
            texts.append(", ".join(f"{count:,}" for count in counts))
        lines.append(f"| `{kernel}` | " + " | ".join(texts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table({Path(path).stem: read(path) for path in sys.argv[1:]}))
