"""Compiles every kernel ahead of time, without a GPU, and reads what came out: registers, spills, instructions.

`python -m multimix_kernels.backends.triton.aot sm_90` prints the table of a target. Cases are the configurations that
the launchers use for b = 128 examples; instruction counts are of the whole compiled kernel, loops counted once.
"""

import collections
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import config, mix, mixed_large, mixed_small, reduce, sample, soft
from .stream import ACCURATE, HARDWARE, LOG_SPACE

TARGETS = {
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 86, 89, 90, 100, 120)},
    **{arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942")},
}
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
MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "v_mfma")
B = 128
FLOATS = {"keep", "uniform_part", "scale", "low", "low_rest", "high", "high_rest"}
WORDS = {"seed_ptr", "alpha_ptr", "target_ptr"}
OPERANDS = {"scores_ptr", "logits_ptr", "values_ptr", "grad_ptr", "weights_ptr", "on_target_ptr", "targets_ptr"}
ALIGNED = {"pitch", "l_location", "g_row", "g_location"}
DRAW = dict(PER_EXAMPLE=False, SUBSET=False, ATTENTION=False, IGNORED=True)


@dataclass(frozen=True)
class Case:
    """A kernel at one configuration."""

    name: str
    kernel: Any
    operand: str
    constants: dict
    warps: int
    stages: int
    products: bool = True

    @property
    def needs_matrix_instructions(self) -> bool:
        """IEEE float32 has none on NVIDIA GPUs."""
        return self.products and self.operand != "fp32"


@dataclass
class Report:
    """What the compiler made of a case."""

    target: str
    case: Case
    registers: int
    spills: int  # bytes of stack, or spilled registers
    local: int  # instructions that use local memory
    shared: int
    instructions: int
    matrix: dict[str, int]
    counts: dict[str, int] = field(repr=False)


def cases(family: config.Family, operands: tuple[str, ...] = ("bf16", "tf32", "fp32")) -> list[Case]:
    """The configurations in use."""
    found = []
    kinds = {"hardware": HARDWARE, "accurate": ACCURATE, "log space": LOG_SPACE}
    for name, kind in kinds.items():
        if kind.value == HARDWARE.value and family.lanes != 32:
            continue
        tile = family.sampler(B, kind.value == LOG_SPACE.value)
        constants = dict(
            E=tile.registers, R=tile.rows, C=tile.groups, KIND=kind.value, **DRAW, OPERAND="bf16", SCRATCH=True,
            PLAIN=False, WIDTH=B,
        )  # fmt: skip
        found.append(Case(f"sample, {name}", sample.sample_kernel, "bf16", constants, tile.warps, 1, False))
        if kind.value != LOG_SPACE.value:
            every = constants | dict(SUBSET=True, ATTENTION=True, PLAIN=True)
            found.append(
                Case(f"sample subset attention, {name}", sample.sample_kernel, "bf16", every, tile.warps, 1, False)
            )
    for operand in operands:
        found += _products(family, operand)
    sums = dict(HEIGHT=1152, WIDTH=B, LABELS=True, SCALED=False, TILE=config.ADD_UP_TILE)
    found.append(Case("add_up", reduce.add_up_kernel, "fp32", sums | dict(GRAM=1024), 4, 1, False))
    found.append(Case("centre", reduce.centre_kernel, "bf16", dict(WIDTH=B, R=32, B=B), 4, 1, False))
    return found


def _products(family: config.Family, operand: str) -> list[Case]:
    """The kernels with matrix products: contiguous rows, labels, gradients wanted."""
    found = []
    kind = HARDWARE.value if family.lanes == 32 else ACCURATE.value
    for c in (10, 100):
        small = family.mixed_small(B, c, operand)
        if small is None:
            continue
        pair = small.pair
        constants = dict(
            E=pair.registers, R=pair.rows, G=pair.groups, CLASSES=small.classes, KIND=kind, **DRAW, OPERAND=operand,
            LABELS=True, ROWS=False, GRADIENT=True, WEIGHTED=False,
        )  # fmt: skip
        found.append(Case(f"mixed_small c={c}", mixed_small.mixed_small_kernel, operand, constants, pair.warps, 1))

    def case(name, kernel, shape, columns, **constants):
        sizes = {"WIDTH": B, "DEPTH": min(B, shape.depth), "R": shape.rows, columns: shape.classes, "OPERAND": operand}
        return Case(name, kernel, operand, sizes | constants, shape.warps, shape.stages)

    large, two, softs = family.large[operand], family.two_accumulators[operand], family.soft[operand]
    flags = dict(LABELS=True)
    return found + [
        case("normaliser", mixed_large.normaliser_kernel, large, "CLASSES", **flags, ROWS=False),
        case("gradient", mixed_large.gradient_kernel, large, "CLASSES", HEIGHT=1152, WEIGHTED=False, FIRST=False),
        case("weights gradient", mixed_large.weights_gradient_kernel, two, "CLASSES", **flags, WEIGHTED=False),
        case("soft", soft.soft_kernel, softs, "CLASSES", l_class=1, LABELS=True, ROWS=False, GRADIENT=True,
             WEIGHTS=False, WEIGHTED=False, SCALED=False, UNIT=8, OUT_UNIT=8),
        case("mix", mix.mix_kernel, two, "FEATURES"),
        case("mix values gradient", mix.values_gradient_kernel, large, "FEATURES", g_feature=1, HEIGHT=512,
             FIRST=False),
        case("mix weights gradient", mix.weights_gradient_kernel, two, "FEATURES", g_feature=1),
    ]  # fmt: skip


def _type(name: str, case: Case) -> str:
    if name in FLOATS:
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    if name == "ignored_ptr":
        return "*i16"
    if name in WORDS:
        return "*i64"
    low = {"bf16": "bf16", "fp16": "fp16"}.get(case.operand, "fp32")
    operand = name in OPERANDS or (name == "out_ptr" and case.kernel in (sample.sample_kernel, mix.mix_kernel))
    return f"*{low}" if operand else "*fp32"


def compile_case(case: Case, target: str) -> Report:
    """One kernel for one target."""
    names = case.kernel.arg_names
    signature = {name: "constexpr" if name in case.constants else _type(name, case) for name in names}
    divisible = {i for i, name in enumerate(names) if signature[name].startswith("*") or name in ALIGNED}
    aligned = {(i,): [["tt.divisibility", 16]] for i in divisible}
    source = ASTSource(case.kernel, signature, case.constants, aligned)
    options = config.options(case.warps, case.stages, TARGETS[target].backend == "hip")
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    read = _read_amd if TARGETS[target].backend == "hip" else _read_nvidia
    registers, spills, counts = read(compiled)
    local = sum(count for name, count in counts.items() if name in ("LDL", "STL") or name.startswith("scratch_"))
    matrix = {m: sum(count for name, count in counts.items() if name.startswith(m)) for m in MATRIX}
    matrix = {name: count for name, count in matrix.items() if count}
    shared = compiled.metadata.shared
    return Report(target, case, registers, spills, local, shared, sum(counts.values()), matrix, counts)


def _read_nvidia(compiled) -> tuple[int, int, dict[str, int]]:
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
    return registers, stack, counts


def _read_amd(compiled) -> tuple[int, int, dict[str, int]]:
    listing = compiled.asm["amdgcn"]

    def value(name):
        return int(re.findall(rf"\.{name}:\s+(\d+)", listing)[0])

    counts = collections.Counter(
        re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)", listing, re.MULTILINE)
    )
    return value("vgpr_count"), value("vgpr_spill_count") + value("sgpr_spill_count"), counts


def row(report: Report) -> str:
    """A line of the table."""
    matrix = ", ".join(f"{count} {name}" for name, count in report.matrix.items()) or "-"
    return (
        f"| {report.target} | {report.case.name} | {report.case.operand} | {report.registers} | {report.spills} | "
        f"{report.local} | {report.shared} | {report.instructions} | {matrix} |"
    )


HEADER = """| target | kernel | operands | registers | spilled | local memory | shared bytes | instructions | matrix |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def family_of(target: str) -> config.Family:
    """The family of a target."""
    return config.CDNA if TARGETS[target].backend == "hip" else config.NVIDIA


def operands(target: str) -> tuple[str, ...]:
    """The operand types that are compiled for a target."""
    return ("bf16", "fp32") if family_of(target) is config.CDNA else ("bf16", "tf32", "fp32")


def main() -> None:
    """Prints the table of the targets named on the command line, of all if none is."""
    print(HEADER)
    for target in sys.argv[1:] or TARGETS:
        for case in cases(family_of(target), operands(target)):
            print(row(compile_case(case, target)), flush=True)


if __name__ == "__main__":
    main()
