"""mma.sync, ldmatrix, stmatrix and wgmma against NumPy: results of every shape in use, to the bit."""

import numpy as np
import pytest

from . import tensor_cores, written

LANES = np.arange(32)
G, T = LANES // 4, LANES % 4  # as the PTX ISA calls groupID and threadID_in_group


def numbers(seed: int, *shape: int, spread: int = 6) -> np.ndarray:
    """Of different magnitudes, zeros among them."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape) * 2.0 ** generator.integers(-spread, spread, shape)
    return np.where(generator.random(shape) < 0.05, 0.0, x)


def units(bits: np.ndarray) -> np.ndarray:
    """Neighbours in a row as words of 32 bits."""
    return np.ascontiguousarray(bits).view(np.uint32)


def fragments_of_a(bits: np.ndarray) -> np.ndarray:
    """Registers by lanes, of 16 rows."""
    words = units(bits)
    return np.stack([words[G + 8 * (r % 2), T + 4 * (r // 2)] for r in range(words.shape[1] // 2)])


def fragments_of_b(bits: np.ndarray) -> np.ndarray:
    """Registers by lanes; `bits` has a row for each column of B."""
    words = units(bits)
    return np.stack([words[G, T + 4 * r] for r in range(words.shape[1] // 4)])


def places_of_d(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of registers by lanes."""
    r = np.arange(n // 2)[:, None]
    return G + 8 * (r // 2 % 2), 8 * (r // 4) + 2 * T + r % 2


SHAPES = [("bf16", 16), ("bf16", 8), ("f16", 16), ("f16", 8), ("tf32", 8), ("tf32", 4)]


def mma(type_: str, k: int, target: str) -> str:
    """D = A B + C of one warp."""
    words = k if type_ == "tf32" else k // 2
    names = [[f"%r{first + i}" for i in range(many)] for first, many in ((10, words // 2), (20, words // 4))]
    d = [f"%f{i}" for i in range(4)]
    a, b, accumulators = ("{" + ",".join(x) + "}" for x in (*names, d))
    return written.kernel(
        "\n".join([
            written.load_registers(names[0], 0), written.load_registers(names[1], 1), written.load_registers(d, 2),
            f"mma.sync.aligned.m16n8k{k}.row.col.f32.{type_}.{type_}.f32 {accumulators}, {a}, {b}, {accumulators};",
            written.store_registers(d, 3),
        ]), target=target,
    )  # fmt: skip


def run_mma(type_, k, target, a, b, c):
    """D by the machine; a and b are bits, b with a row for each column."""
    rows, columns = places_of_d(8)
    out = np.zeros((4, 32), np.float32)
    report = written.run(
        mma(type_, k, target), fragments_of_a(a), fragments_of_b(b),
        np.ascontiguousarray(c.astype(np.float32)[rows, columns]), out,
    )  # fmt: skip
    assert not report.faults
    d = np.empty((16, 8), np.float32)
    d[rows, columns] = out
    return d


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(("type_", "k"), SHAPES)
def test_mma(type_, k, target):
    a, b = (tensor_cores.to_bits(type_, numbers(seed, rows, k)) for seed, rows in ((0, 16), (1, 8)))
    c = numbers(2, 16, 8).astype(np.float32)
    d = run_mma(type_, k, target, a, b, c)
    left, right = tensor_cores.values(type_, a), tensor_cores.values(type_, b).T
    halves = target == "sm_80" and k == (8 if type_ == "tf32" else 16)
    bits = 24 if target == "sm_80" else 25
    assert np.array_equal(d, tensor_cores.product(type_, left, right, c, k // 2 if halves else k, bits))
    largest = np.abs(left[:, :, None] * right[None]).max(1) + np.abs(c)
    assert (np.abs(d - (left @ right + c)) <= largest * k * 2.0**-22).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("target", "wanted"), [("sm_80", 2.0**24), ("sm_90a", 2.0**24 + 2)])
def test_sums_are_truncated(target, wanted, sign):
    """2^24 + 4 / 2: halves are lost below the largest exponent on Ampere, and are just kept on Hopper."""
    a, b = np.zeros((16, 16)), np.ones((8, 16))
    a[:, :4] = sign / 2
    bits = [tensor_cores.to_bits("f16", x) for x in (a, b)]
    assert (run_mma("f16", 16, target, *bits, np.full((16, 8), sign * 2.0**24)) == sign * wanted).all()


@pytest.mark.parametrize(
    ("a", "b", "c", "wanted"),
    [(np.inf, 1, 0, np.inf), (np.inf, 0, 0, np.nan), (np.inf, 1, -np.inf, np.nan), (1, np.nan, 0, np.nan),
     (1, 1, -np.inf, -np.inf), (2.0**127, 4, 0, np.inf), (2.0**127, 4, -np.inf, -np.inf)],
)  # fmt: skip
def test_special_values(a, b, c, wanted):
    """They stay in their rows and columns."""
    left, right, start = np.zeros((16, 16)), np.zeros((8, 16)), np.ones((16, 8))
    left[3, 5], right[2, 5], start[3, 2] = a, b, c
    with np.errstate(over="ignore"):
        d = run_mma("bf16", 16, "sm_80", *(tensor_cores.to_bits("bf16", x) for x in (left, right)), start)
    assert np.array_equal(d[3, 2], np.float32(wanted), equal_nan=True)
    if np.isfinite(a) and np.isfinite(b):
        d[3, 2] = 1
        assert (d == 1).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, transposed):
    """Rows anywhere in shared memory."""
    matrices = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    order = np.random.default_rng(0).permutation(32)  # of the rows
    image = np.zeros((32, 8), np.uint16)
    image[order[: count * 8]] = matrices.reshape(-1, 8)
    registers = [f"%r{i}" for i in range(4, 4 + count)]
    text = written.kernel(
        f"""{written.copy_to_shared(512, 0, 32)}
        {written.load_registers(["%r1"], 1)}
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 {{{",".join(registers)}}}, [%r1];
        {written.store_registers(registers, 2)}""",
        pointers=3, shared=512,
    )  # fmt: skip
    out = np.zeros((count, 32), np.uint32)
    assert not written.run(text, image, (16 * order).astype(np.uint32), out).faults
    wanted = np.swapaxes(matrices, 1, 2) if transposed else matrices
    assert np.array_equal(out, np.stack([units(x)[G, T] for x in wanted]))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(count, transposed):
    matrices = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    order = np.random.default_rng(0).permutation(32)
    registers = [f"%r{i}" for i in range(4, 4 + count)]
    text = written.kernel(
        f"""{written.load_registers(registers, 0)}
        {written.load_registers(["%r1"], 1)}
        stmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 [%r1], {{{",".join(registers)}}};
        bar.sync 0;
        setp.ge.u32 %p1, %r0, {8 * count};
        @%p1 bra done;
        mul.wide.u32 %rd5, %r1, 1;
        add.s64 %rd5, %rd2, %rd5;
        ld.shared.v4.b32 {{%r10,%r11,%r12,%r13}}, [%r1];
        st.global.v4.b32 [%rd5], {{%r10,%r11,%r12,%r13}};
        done:""",
        pointers=3, shared=512,
    )  # fmt: skip
    of = np.swapaxes(matrices, 1, 2) if transposed else matrices
    registers_in = np.ascontiguousarray(np.stack([units(x)[G, T] for x in of]))
    out = np.zeros((32, 8), np.uint16)
    assert not written.run(text, registers_in, (16 * order).astype(np.uint32), out).faults
    assert np.array_equal(out[order[: count * 8]].reshape(count, 8, 8), matrices)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_elements_are_of_other_lanes(ordered, transposed):
    """A lane that names the row that it wrote is not the one that reads it."""
    text = written.kernel(
        f"""shl.b32 %r1, %r0, 4; st.shared.v4.b32 [%r1], {{%r0,%r0,%r0,%r0}};
        {"bar.warp.sync -1;" if ordered else ""}
        ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%r4,%r5,%r6,%r7}}, [%r1];""",
        pointers=0, shared=512,
    )  # fmt: skip
    assert written.run(text).kinds == (set() if ordered else {"lane race"})


def test_rows_are_aligned():
    """ldmatrix of a row that begins at 8."""
    text = written.kernel(
        f"""{written.copy_to_shared(512, 0, 32)} bar.sync 0; mad.lo.s32 %r1, %r0, 15, 8;
        and.b32 %r1, %r1, 0x1f8;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r4}}, [%r1];""",
        pointers=1, shared=512,
    )  # fmt: skip
    assert "alignment" in " ".join(written.run(text, np.zeros(128, np.uint32)).kinds)
