"""What the compiler made of the CUDA kernels: `python -m benchmarks.compiled cuda [library or wheel]`.

Read from the compiled library: no GPU is needed, nothing is run. Columns: registers of a thread, bytes of its stack,
instructions that use local memory, static shared memory (what is asked for at the launch is not in the binary),
instructions (loops counted once), instructions of the tensor cores. Fails where a kernel spills or uses local memory,
but for those named below, and where one with matrix products has no instruction of the tensor cores.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..text import table
from . import kernels, tools
from .kernels import Kernel

LIBRARY = Path(__file__).parents[2] / "multimix_kernels" / "backends" / "lib" / "multimix_cuda.so"
# Kernels without matrix products. Every other one must use the tensor cores.
NO_PRODUCTS = frozenset({
    "add_up_kernel", "centre_kernel", "finish_loss_kernel", "label_classes_kernel", "label_rank_kernel",
    "largest_kernel", "masses_kernel", "origins_kernel", "pack_kernel", "pack_scores_kernel", "relative_kernel",
    "row_losses_kernel", "row_sums_kernel", "sample_kernel", "soft_rows_kernel", "sum_splits_kernel",
})  # fmt: skip
BY_CLASS = re.compile(r"row_loss_kernelI.*Lb1E")  # their targets are mixed already
# Bytes of stack that 16-bit operands cost where the pointers of copies leave too few registers.
SPILLED = {"gradient_kernel": 8, "mix_columns_kernel": 8}
HEADER = ("target", "kernel", "registers", "stack", "local", "shared", "instructions", "matrix")


def complaints(kernel: Kernel) -> list[str]:
    """What is wrong with a kernel."""
    found = []
    if kernel.stack > SPILLED.get(kernel.name, 0) or (kernel.local and not kernel.stack):
        found.append(f"{kernel.stack} bytes of stack, {kernel.local} instructions with local memory")
    if not kernel.matrix and kernel.name not in NO_PRODUCTS and not BY_CLASS.search(kernel.symbol):
        found.append("no instruction of the tensor cores")
    return found


def row(kernel: Kernel, name: str) -> tuple[str, ...]:
    """A line of the table."""
    matrix = ", ".join(f"{count} {opcode}" for opcode, count in kernel.matrix.items()) or "-"
    numbers = (kernel.registers, kernel.stack, kernel.local, kernel.shared, kernel.instructions)
    return (kernel.architecture, name, *map(str, numbers), matrix)


def unpacked(path: Path, folder: Path) -> Path:
    """The library itself, from a wheel too."""
    if path.suffix != ".whl":
        return path
    with zipfile.ZipFile(path) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith("/multimix_cuda.so")), None)
        if name is None:
            raise SystemExit(f"{path.name} has no CUDA library")
        return Path(wheel.extract(name, folder))


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; 1 if there is something to complain about."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled cuda", description=__doc__.splitlines()[0])
    parser.add_argument(
        "library", nargs="?", type=Path, default=LIBRARY, help="a library or a wheel; default: in place"
    )
    path = parser.parse_args(arguments).library
    if not path.exists():
        parser.error(f"there is no {path}; MULTIMIX_BUILD=cuda builds it")
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = kernels.read(unpacked(path, Path(folder)))
    except (tools.Missing, subprocess.CalledProcessError) as error:
        print(f"{error}{getattr(error, 'stderr', '')}", file=sys.stderr)
        return 1
    names = kernels.readable([kernel.symbol for kernel in found])
    wrong = [] if found else [f"{path.name} has no kernels"]
    for kernel, name in zip(found, names, strict=True):
        wrong += [f"{kernel.architecture} {name}: {complaint}" for complaint in complaints(kernel)]
    print(table(HEADER, map(row, found, names), markdown=True, left=("kernel", "matrix")))
    print(f"\n{len(found)} kernels, {len(wrong)} complaints", *wrong, sep="\n")
    return 1 if wrong else 0
