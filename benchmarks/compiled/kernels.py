"""The kernels in a CUDA library: the architectures they are for, registers, memory, instructions."""

import collections
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import tools

MATRIX = ("HMMA", "HGMMA", "UTCHMMA")
LOCAL = ("LDL", "STL")
OPERANDS = ("bf16", "f16", "tf32", "fp32")  # as csrc/cuda/products/fragments.h counts them
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", re.MULTILINE)


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture."""

    architecture: str  # sm_90a
    symbol: str
    registers: int
    stack: int  # bytes of a thread, spills included
    shared: int  # bytes of static shared memory; what is asked for at the launch is not known here
    instructions: int  # loops counted once
    counts: dict[str, int]  # by opcode

    @property
    def name(self) -> str:
        """Of the function, without namespace and template arguments."""
        lengths = re.finditer(r"(?=(\d+))", self.symbol)
        names = (self.symbol[found.end(1) :][: int(found[1])] for found in lengths)
        return next((name for name in names if re.fullmatch("[a-z_]+_kernel", name)), self.symbol)

    @property
    def local(self) -> int:
        """Instructions that use local memory."""
        return sum(self.counts.get(name, 0) for name in LOCAL)

    @property
    def matrix(self) -> dict[str, int]:
        """Instructions of the tensor cores."""
        return {name: self.counts[name] for name in MATRIX if self.counts.get(name)}


def architectures(library: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Of machine code and of PTX (as sm_90a): the number of compiled files with it."""

    def listed(kind: str) -> dict[str, int]:
        try:
            text = tools.run("cuobjdump", f"--list-{kind}", library)
        except subprocess.CalledProcessError as error:
            if "No " not in error.stderr + error.stdout:
                raise
            return {}
        return dict(collections.Counter(re.findall(r"\.(sm_\w+)\.(?:cubin|ptx)\b", text)))

    return listed("elf"), listed("ptx")


def usage(text: str) -> dict[str, dict[str, int]]:
    """What cuobjdump says of every function."""
    found = re.findall(r"^ *Function ([^\s:]+):\s*\n\s*(REG:.*)$", text, re.MULTILINE)
    return {name: {k: int(v) for k, v in re.findall(r"([A-Z]+):(\d+)", row)} for name, row in found}


def instructions(text: str) -> dict[str, dict[str, int]]:
    """The opcodes of every function in a listing of nvdisasm."""
    parts = re.split(r"^\.text\.([^\s:]+):", text, flags=re.MULTILINE)
    counts = {
        name: collections.Counter(_OPCODE.findall(body)) for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    for count in counts.values():
        del count["NOP"]
    return {name: dict(count) for name, count in counts.items()}


def read(library: Path) -> list[Kernel]:
    """Every kernel for every architecture, by architecture and name."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        tools.run("cuobjdump", "-xelf", "all", library.resolve(), folder=Path(folder))
        for file in Path(folder).glob("*.cubin"):
            architecture = file.name.split(".")[-2]
            counts = instructions(tools.run("nvdisasm", "-c", file))
            for symbol, used in usage(tools.run("cuobjdump", "-res-usage", file)).items():
                count = counts.get(symbol, {})
                total = sum(count.values())
                found.append(Kernel(architecture, symbol, used["REG"], used["STACK"], used["SHARED"], total, count))
    return sorted(found, key=lambda kernel: (kernel.architecture, kernel.name, kernel.symbol))


def readable(symbols: list[str]) -> list[str]:
    """C++ names without parameters, where there is c++filt."""
    if shutil.which("c++filt") is None or not symbols:
        return symbols
    text = subprocess.run(["c++filt", "-p"], input="\n".join(symbols), capture_output=True, text=True).stdout
    text = re.sub(r"\(multimix::Operand\)(\d)", lambda found: OPERANDS[int(found[1])], text)
    return [re.sub(r"^void |\(anonymous namespace\)::|multimix::", "", line) for line in text.splitlines()]


def target(architecture: str) -> str:
    """As nvcc calls an architecture: 9.0a+PTX -> sm_90a."""
    return f"sm_{architecture.removesuffix('+PTX').replace('.', '')}"
