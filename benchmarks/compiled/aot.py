"""Compiles every kernel ahead of time, without a GPU, and reads what came out: registers, spills, instructions.

Instruction counts are of the whole compiled kernel, loops counted once.
"""

import collections
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import triton
from triton.compiler import ASTSource

from multimix_kernels.backends.triton.host import device

from .arguments import arguments_of
from .cases import TARGETS, Case

SHARED_LIMIT = {
    "sm_80": 163,
    "sm_86": 99,
    "sm_89": 99,
    "sm_90": 227,
    "sm_100": 227,
    "sm_120": 99,
    "gfx90a": 64,
    "gfx942": 64,
}
WITHOUT_LOCAL_MEMORY = ("sm_80", "sm_90")
ALIGNED = {"l_location"}  # counts that are
MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "v_mfma")


@dataclass
class Report:
    """What the compiler made of a case."""

    target: str
    case: Case
    registers: int
    spills: int  # bytes of stack, or spilled vector registers
    lanes: int  # scalar registers that are kept in lanes of vector registers
    local: int  # instructions that use local memory
    shared: int
    instructions: int
    matrix: dict[str, int]
    counts: dict[str, int] = field(repr=False)
    loops: tuple[int, ...] = ()  # instructions of each, on NVIDIA GPUs, the longest first; one may contain another


def compile_case(case: Case, target: str) -> Report:
    """One kernel for one target."""
    names = case.kernel.arg_names
    given = arguments_of(case.kernel, case.operand, case.constants)
    signature, constants, aligned = {}, {}, {}

    def declare(value, path):
        """The type of an argument or of a field; what is known of it is noted."""
        if isinstance(value, tuple):
            return type(value)(*(declare(x, (*path, k)) for k, x in enumerate(value)))
        if not isinstance(value, str):
            constants[path] = value
            return "constexpr"
        if value.startswith("*") or (value == "i32" and (len(path) > 1 or names[path[0]] in ALIGNED)):
            aligned[path] = [["tt.divisibility", 16]]
        return value

    for k, name in enumerate(names):
        if name in case.constants:
            constants[k,], signature[name] = case.constants[name], "constexpr"
        else:
            signature[name] = declare(given[name], (k,))
    source = ASTSource(case.kernel, signature, constants, aligned)
    options = device.options(case.warps, case.stages, TARGETS[target].backend == "hip")
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    read = _read_amd if TARGETS[target].backend == "hip" else _read_nvidia
    registers, spills, lanes, counts, loops = read(compiled)
    local = sum(count for name, count in counts.items() if name in ("LDL", "STL") or name.startswith("scratch_"))
    matrix = {m: sum(count for name, count in counts.items() if name.startswith(m)) for m in MATRIX}
    matrix = {name: count for name, count in matrix.items() if count}
    shared = compiled.metadata.shared
    return Report(target, case, registers, spills, lanes, local, shared, sum(counts.values()), matrix, counts, loops)


def _read_nvidia(compiled) -> tuple[int, int, int, dict[str, int], tuple[int, ...]]:
    binaries = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()

        def tool(*command):
            return subprocess.run(
                [binaries / command[0], *command[1:], file.name], capture_output=True, text=True
            ).stdout

        usage, listing = tool("cuobjdump", "-res-usage"), tool("nvdisasm", "-c")
    opcode = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", re.MULTILINE)
    counts = collections.Counter(opcode.findall(listing))
    del counts["NOP"]
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    return registers, stack, 0, counts, _loops(listing)


def _loops(listing: str) -> tuple[int, ...]:
    """Instructions from where a branch goes back to, to the branch."""
    count, labels, found = 0, {}, []
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/", line):
            count += 1
            back = re.search(r"\bBRA\b.*(\.L_x_\d+)", line)
            if back and count - labels.get(back[1], count) > 1:  # not the last instruction, which waits for ever
                found.append(count - labels[back[1]])
    return tuple(sorted(found, reverse=True))


def _read_amd(compiled) -> tuple[int, int, int, dict[str, int], tuple[int, ...]]:
    listing = compiled.asm["amdgcn"]

    def value(name):
        return int(re.findall(rf"\.{name}:\s+(\d+)", listing)[0])

    counts = collections.Counter(
        re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)", listing, re.MULTILINE)
    )
    return value("vgpr_count"), value("vgpr_spill_count"), value("sgpr_spill_count"), counts, ()


def row(report: Report) -> str:
    """A line of the table."""
    matrix = ", ".join(f"{count} {name}" for name, count in report.matrix.items()) or "-"
    return (
        f"| {report.target} | {report.case.name} | {report.case.operand} | {report.registers} | {report.spills} | "
        f"{report.local} | {report.lanes} | {report.shared} | {report.instructions} | {matrix} |"
    )


MOST_SPILLED = 16  # bytes of a thread's stack: four registers, as a few variants of kernels that fill all 255 need

# What is known to need more. The README says so.
SPILLED = {
    ("sm_90", "mixed_small 256 x 64", "bf16"): 640,
    ("sm_90", "gradient, probabilities, upstream", "bf16"): 32,
}


def faults(report: Report) -> list[str]:
    """What is wrong with a kernel."""
    case, found = report.case, []
    if report.shared > 1024 * SHARED_LIMIT[report.target]:
        found.append("more shared memory than there is")
    if case.needs_matrix_instructions and not report.matrix:
        found.append("no matrix instructions")
    most = SPILLED.get((report.target, case.name, case.operand), MOST_SPILLED)
    if report.target in WITHOUT_LOCAL_MEMORY and (report.spills > most or (report.local and not report.spills)):
        found.append("local memory")
    return found


HEADER = """| target | kernel | operands | registers | spilled | local | lanes | shared | instructions | matrix |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
