"""Compiles every kernel ahead of time, without a GPU, and reads what came out: registers, spills, instructions.

Cases are the configurations that the launchers use for b = 128 examples, and for b = 1024 where those differ;
instruction counts are of the whole compiled kernel, loops counted once.
"""

import collections
import re
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import config, mix, mixed_large, mixed_small, prepare, reduce, sample, soft
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
B, MANY = 128, 1024  # examples
FLOATS = {"keep", "uniform_part", "smoothing", "scale", "low", "low_rest", "high", "high_rest"}
TYPES = {
    **{name: "*i64" for name in ("seed_ptr", "alpha_ptr", "target_ptr")},
    **{name: "*i8" for name in ("kept_ptr", "left_out_ptr")},
    "ignored_ptr": "*i16", "sums_ptr": "*fp64",
}  # fmt: skip
OPERANDS = {"scores_ptr", "logits_ptr", "values_ptr", "grad_ptr", "weights_ptr", "on_target_ptr", "targets_ptr"}
OPERANDS |= {"packed_ptr"}
ALIGNED = {"x_location", "x_example", "l_location", "g_row", "g_location", "p_place", "p_split", "p_class", "g_split"}
REPRESENTATIVE = {"mixed_small c=100", "normaliser", "gradient", "soft"}  # and the first sampler
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
    types: tuple[tuple[str, str], ...] = ()  # of arguments, where they are not the usual
    representative: bool = False  # one of the few that stand for all

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
    spills: int  # bytes of stack, or spilled vector registers
    lanes: int  # scalar registers that are kept in lanes of vector registers
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
    sums = dict(p_example=1, WIDTH=B, GRAM=True, LABELS=True, SCALED=False, TILE=config.ADD_UP_TILE)
    found.append(Case("add_up", reduce.add_up_kernel, "fp32", sums, 4, 1, False))
    ready = dict(
        x_class=1, p_example=1, y_example=1, t_example=1, t_class=0, WIDTH=B, CLASSES=1024, R=2, CHUNK=1024,
        OPERAND="bf16", LABELS=True, SCORES=True, PACKED=True, ON_TARGET=True, TARGETS=False, IGNORED=True,
    )  # fmt: skip
    types = (("sums_ptr", "*fp32"), ("ignored_ptr", "*i8"))
    found.append(Case("prepare", prepare.prepare_kernel, "bf16", ready, 4, 1, False, types))
    found.append(Case("finish", prepare.finish_kernel, "bf16", dict(CHECKED=True, TILE=1024), 4, 1, False))
    found.append(Case("centre", reduce.centre_kernel, "bf16", dict(WIDTH=B, R=32, B=B), 4, 1, False))
    few = REPRESENTATIVE | {found[0].name}
    return [replace(case, representative=case.name in few and case.operand == "bf16") for case in found]


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

    def case(name, kernel, shape, columns, b=B, types=(), **constants):
        sizes = {"WIDTH": b, "DEPTH": min(b, shape.depth), "R": shape.rows, columns: shape.classes, "OPERAND": operand}
        return Case(name, kernel, operand, sizes | constants, shape.warps, shape.stages, True, types)

    large, two, softs = family.large[operand], family.two_accumulators[operand], family.soft[operand]
    x, labels = dict(x_class=1, PACKED=True), dict(LABELS=True)
    values, g = dict(x_feature=1, PACKED=True), dict(g_feature=1)
    one = dict(WEIGHTED=False)
    total = dict(HEIGHT=1152, FIRST=False, IN_PLACE=False)
    soft_case = dict(
        l_class=1, t_example=0, t_class=0, LABELS=True, PACKED=True, ROWS=False, GRADIENT=True, WEIGHTS=False,
        WEIGHTED=False, SCALED=False, UNIT=8, OUT_UNIT=8,
    )  # fmt: skip
    wide = (("logits_ptr", "*fp32"), ("grad_ptr", "*fp32"), ("out_ptr", "*fp32"))
    return found + [
        case("normaliser", mixed_large.normaliser_kernel, large, "CLASSES", **x, **labels, ROWS=False),
        case("gradient", mixed_large.gradient_kernel, large, "CLASSES", **x, **one, **total),
        case("weights gradient", mixed_large.weights_gradient_kernel, two, "CLASSES", **x, **labels, **one),
        case("soft", soft.soft_kernel, softs, "CLASSES", **soft_case),
        case("mix", mix.mix_kernel, two, "FEATURES", **values),
        case("mix values gradient", mix.values_gradient_kernel, large, "FEATURES", **g, **total),
        case("mix weights gradient", mix.weights_gradient_kernel, two, "FEATURES", **g, **values, ADD=False),
        case("mix many", mix.mix_kernel, two, "FEATURES", MANY, wide, **values),
        case("soft many", soft.soft_kernel, softs, "CLASSES", MANY, wide, **soft_case),
        case("mix values gradient many", mix.values_gradient_kernel, two, "FEATURES", MANY, wide, **g, **total),
    ]


def _type(name: str, case: Case) -> str:
    if name in dict(case.types):
        return dict(case.types)[name]
    if name in FLOATS:
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    if name in TYPES:
        return TYPES[name]
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
    registers, spills, lanes, counts = read(compiled)
    local = sum(count for name, count in counts.items() if name in ("LDL", "STL") or name.startswith("scratch_"))
    matrix = {m: sum(count for name, count in counts.items() if name.startswith(m)) for m in MATRIX}
    matrix = {name: count for name, count in matrix.items() if count}
    shared = compiled.metadata.shared
    return Report(target, case, registers, spills, lanes, local, shared, sum(counts.values()), matrix, counts)


def _read_nvidia(compiled) -> tuple[int, int, int, dict[str, int]]:
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
    return registers, stack, 0, counts


def _read_amd(compiled) -> tuple[int, int, int, dict[str, int]]:
    listing = compiled.asm["amdgcn"]

    def value(name):
        return int(re.findall(rf"\.{name}:\s+(\d+)", listing)[0])

    counts = collections.Counter(
        re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)", listing, re.MULTILINE)
    )
    return value("vgpr_count"), value("vgpr_spill_count"), value("sgpr_spill_count"), counts


def row(report: Report) -> str:
    """A line of the table."""
    matrix = ", ".join(f"{count} {name}" for name, count in report.matrix.items()) or "-"
    return (
        f"| {report.target} | {report.case.name} | {report.case.operand} | {report.registers} | {report.spills} | "
        f"{report.local} | {report.lanes} | {report.shared} | {report.instructions} | {matrix} |"
    )


HEADER = """| target | kernel | operands | registers | spilled | local | lanes | shared | instructions | matrix |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def family_of(target: str) -> config.Family:
    """The family of a target."""
    if TARGETS[target].backend == "hip":
        return config.CDNA
    return config.FAMILIES.get(TARGETS[target].arch // 10, config.NVIDIA)


def operands(target: str) -> tuple[str, ...]:
    """The operand types that are compiled for a target."""
    return ("bf16", "fp32") if family_of(target) is config.CDNA else ("bf16", "tf32", "fp32")
