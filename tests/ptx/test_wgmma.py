"""wgmma against NumPy, to the bit, for every type, layout of its operands in shared memory, and number of columns in
use; and what must be reported of it, each beside its right twin."""

import numpy as np
import pytest

from . import tensor_cores, written
from .test_matrix import fragments_of_a, numbers, places_of_d

THREADS = 128
ALIGNED = 1024  # bytes


class Layout:
    """A matrix in shared memory as a descriptor names it (PTX ISA, "Canonical Layouts").

    Eight rows of `width` bytes are an atom, and bits 4.. of an address are xored with bits 7.. .
    """

    def __init__(self, swizzle: int, transposed: bool, rows: int, k: int, size: int) -> None:
        self.swizzle, self.transposed = swizzle, transposed
        self.width = 16 << swizzle
        offsets = np.empty((rows, k), np.int64)
        row, column = np.meshgrid(np.arange(rows), np.arange(k), indexing="ij")
        if transposed:  # rows run along the atom's width; eight elements of k make an atom
            in_width = self.width // size
            atoms = rows // in_width if rows >= in_width else 1
            atom = 8 * self.width
            self.leading, self.stride = (atom, atom * atoms) if swizzle else (atom * atoms, atom)
            outer, inner = row // in_width, row % in_width
            steps = (self.leading, self.stride) if swizzle else (self.stride, self.leading)
            offsets = outer * steps[0] + column // 8 * steps[1] + column % 8 * self.width + inner * size
        elif swizzle:
            self.leading, self.stride = 16, 8 * self.width
            offsets = row // 8 * self.stride + row % 8 * self.width + column * size
        else:
            self.leading, self.stride = 128 * rows // 8, 128
            chunk, inner = column * size // 16, column * size % 16
            offsets = row // 8 * self.stride + row % 8 * 16 + chunk * self.leading + inner
        self.offsets = offsets ^ ((offsets >> 7 & (1 << swizzle) - 1) << 4)
        self.bytes = -(-(int(offsets.max()) + size) // ALIGNED) * ALIGNED

    def image(self, bits: np.ndarray) -> np.ndarray:
        """Shared memory that holds a matrix with a row for each row of A or column of B."""
        memory = np.zeros(self.bytes, np.uint8)
        memory.view(bits.dtype)[self.offsets // bits.itemsize] = bits
        return memory

    def descriptor(self, start: int) -> int:
        """As the PTX ISA encodes it."""
        mode = {0: 0, 1: 3, 2: 2, 3: 1}[self.swizzle]
        return start >> 4 | (self.leading >> 4) << 16 | (self.stride >> 4) << 32 | mode << 62


class Product:
    """D = A B (+ D) of a warpgroup: m 64, n columns, 32 bytes along k."""

    def __init__(self, type_, n, swizzle_a=3, swizzle_b=3, transposed_a=False, transposed_b=False, in_registers=False):
        self.type, self.n, self.in_registers = type_, n, in_registers
        self.k = 8 if type_ == "tf32" else 16
        self.transposes = (transposed_a, transposed_b)
        size = 4 if type_ == "tf32" else 2
        self.a = Layout(swizzle_a, transposed_a, 64, self.k, size)
        self.b = Layout(swizzle_b, transposed_b, n, self.k, size)
        self.d = [f"%f{i}" for i in range(n // 2)]

    def instruction(self, use_d: bool = True, scale_a: int = 1, scale_b: int = 1) -> str:
        """wgmma.mma_async alone."""
        operands = ["%r4,%r5,%r6,%r7".join("{}") if self.in_registers else str(self.a.descriptor(0))]
        operands += [str(self.b.descriptor(self.a.bytes)), "%p1" if use_d else "0", str(scale_a), str(scale_b)]
        if self.type != "tf32":
            operands += [str(int(t)) for t in self.transposes[self.in_registers :]]
        return (
            f"wgmma.mma_async.sync.aligned.m64n{self.n}k{self.k}.f32.{self.type}.{self.type} "
            f"{{{','.join(self.d)}}}, {', '.join(operands)};"
        )

    def parts(self, **scales) -> list[str]:
        """All that a right kernel does, in its order."""
        return [
            "setp.eq.u32 %p1, 0, 0;",
            written.copy_to_shared(self.a.bytes + self.b.bytes, 0, THREADS),
            written.load_registers(self.d, 1),
            written.load_registers([f"%r{i}" for i in range(4, 8)], 2),
            "fence.proxy.async.shared::cta;",
            "bar.sync 0;",
            "wgmma.fence.sync.aligned;",
            self.instruction(**scales),
            "wgmma.commit_group.sync.aligned;",
            "wgmma.wait_group.sync.aligned 0;",
            written.store_registers(self.d, 3),
        ]

    def text(self, parts: list[str]) -> str:
        """A kernel."""
        return written.kernel("\n".join(parts), shared=self.a.bytes + self.b.bytes)

    def operands(self):
        """Bits of A and B, with a row for each row of A and column of B, and D."""
        a, b = (tensor_cores.to_bits(self.type, numbers(s, rows, self.k)) for s, rows in ((0, 64), (1, self.n)))
        return a, b, numbers(2, 64, self.n).astype(np.float32)

    def run(self, parts, a, b, c, **options):
        """D and the report."""
        rows, columns = places_of_d(self.n)
        warps = range(4)
        start = np.concatenate([c[rows + 16 * w, columns] for w in warps], axis=1)
        registers = np.concatenate([fragments_of_a(a[16 * w : 16 * w + 16]) for w in warps], axis=1)
        out = np.zeros_like(start)
        image = np.concatenate([self.a.image(a), self.b.image(b)])
        report = written.run(
            self.text(parts), image, np.ascontiguousarray(start), np.ascontiguousarray(registers), out,
            threads=THREADS, **options,
        )  # fmt: skip
        d = np.empty((64, self.n), np.float32)
        for w in warps:
            d[rows + 16 * w, columns] = out[:, 32 * w : 32 * w + 32]
        return d, report

    def wanted(self, a, b, c):
        """The model's."""
        left, right = tensor_cores.values(self.type, a), tensor_cores.values(self.type, b).T
        return tensor_cores.product(self.type, left, right, c, self.k, 25)


LAYOUTS = [
    *((type_, dict(swizzle_a=s, swizzle_b=s)) for type_ in ("bf16", "tf32") for s in range(4)),
    *(("bf16", dict(swizzle_a=s, swizzle_b=s, transposed_a=True, transposed_b=True)) for s in range(4)),
    ("bf16", dict(transposed_b=True)), ("f16", dict(transposed_a=True, swizzle_b=2)),
    ("bf16", dict(in_registers=True)), ("bf16", dict(in_registers=True, transposed_b=True)),
    ("tf32", dict(in_registers=True)),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "layout"), LAYOUTS)
def test_layouts(type_, layout):
    product = Product(type_, 64, **layout)
    a, b, c = product.operands()
    d, report = product.run(product.parts(), a, b, c)
    assert not report.faults
    assert np.array_equal(d, product.wanted(a, b, c))


@pytest.mark.parametrize("n", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("type_", ["bf16", "tf32"])
def test_columns(type_, n):
    product = Product(type_, n)
    a, b, c = product.operands()
    d, report = product.run(product.parts(), a, b, c)
    assert not report.faults
    assert np.array_equal(d, product.wanted(a, b, c))


def test_scales():
    """D is left out, A and B are negated."""
    product = Product("bf16", 16)
    a, b, c = product.operands()
    d, report = product.run(product.parts(use_d=False, scale_a=-1), a, b, c)
    assert not report.faults
    assert np.array_equal(d, product.wanted(a ^ np.uint16(0x8000), b, 0 * c))
    d, _ = product.run(product.parts(scale_b=-1), a, b, c)
    assert np.array_equal(d, product.wanted(a, b ^ np.uint16(0x8000), c))


COPY, LOAD_D, LOAD_A, PROXY, BARRIER, FENCE, PRODUCT, COMMIT, WAIT, STORE = range(1, 11)  # in Product.parts


def without(*numbers):
    """Parts left out."""
    return lambda parts: [part for number, part in enumerate(parts) if number not in numbers]


def moved(number, to):
    """A part to behind another."""

    def change(parts):
        kept = [part for k, part in enumerate(parts) if k != number]
        at = kept.index(parts[to]) + 1
        return [*kept[:at], parts[number], *kept[at:]]

    return change


def added(text, behind):
    """Text behind a part."""
    return lambda parts: [*parts[: behind + 1], text, *parts[behind + 1 :]]


FAULTS = {
    "result read early": (without(WAIT), "wgmma result read early"),
    "not committed": (without(COMMIT), "wgmma result read early"),
    "waits for an older group": (
        lambda parts: [part.replace("wait_group.sync.aligned 0", "wait_group.sync.aligned 1") for part in parts],
        "wgmma result read early",
    ),
    "result written early": (added("mov.f32 %f0, 0f00000000;", COMMIT), "wgmma result written early"),
    "no wgmma.fence": (without(FENCE), "missing wgmma.fence"),
    "wgmma.fence before the registers are written": (moved(LOAD_D, FENCE), "missing wgmma.fence"),
    "no fence.proxy.async": (without(PROXY), "missing fence.proxy.async"),
    "fence.proxy.async before the stores": (moved(COPY, PROXY), "missing fence.proxy.async"),
    "no second wgmma.fence": (
        lambda parts: [*parts, "mov.f32 %f0, 0f00000000;", *parts[PRODUCT : WAIT + 1]],
        "missing wgmma.fence",
    ),
    "no barrier": (without(BARRIER), "race"),
    "operand overwritten early": (added("st.shared.b32 [%r62], %r63;", COMMIT), "asynchronous"),
    "half a warp": (lambda parts: ["setp.ge.u32 %p2, %r0, 112; @%p2 ret;", *parts], "part of a warp"),
}
RIGHT = {
    "as it is": lambda parts: parts,
    "fence.proxy.async by those who read, behind the barrier": moved(PROXY, BARRIER),
    "operand overwritten behind a barrier": lambda parts: [*parts, "bar.sync 0; st.shared.b32 [%r62], %r63;"],
    "registers renamed": lambda parts: [
        *parts[: COMMIT + 1], "mov.f32 %f300, %f0;", parts[WAIT], "mov.f32 %f0, %f300;", parts[STORE]
    ],
    "constants moved behind the fence": lambda parts: [
        *parts, parts[FENCE], "mov.f32 %f0, 0f00000000;", *parts[PRODUCT : WAIT + 1]
    ],
    "another register written meanwhile": added("mov.f32 %f301, 0f00000000;", COMMIT),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    change, kind = FAULTS[name]
    product = Product("bf16", 16)
    _, report = product.run(change(product.parts()), *product.operands())
    assert kind in " ".join(report.kinds), report.faults


@pytest.mark.parametrize("name", RIGHT)
def test_right_twins(name):
    product = Product("bf16", 16)
    a, b, c = product.operands()
    d, report = product.run(RIGHT[name](product.parts()), a, b, c)
    assert not report.faults
    assert np.array_equal(d, product.wanted(a, b, c))


def test_operand_register_written_early():
    product = Product("bf16", 16, in_registers=True)
    parts = product.parts()
    _, report = product.run(added("mov.b32 %r5, 0;", COMMIT)(parts), *product.operands())
    assert report.kinds == {"wgmma operand written early"}
    _, report = product.run(added("mov.b32 %r5, 0;", WAIT)(parts), *product.operands())
    assert not report.faults
