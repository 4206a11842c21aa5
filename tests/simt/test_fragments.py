"""Which lane holds which element, by the tables of the PTX ISA, and products of fragments.h against NumPy's."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.simt.build import find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

LANES = range(32)


@pytest.fixture(scope="module")
def library(build):
    library = ctypes.CDLL(str(build(["fragments.cu"], "fragments.so")))
    for name in ("run_mma_16", "run_mma_8", "run_load", "run_product", "run_shuffle", "run_votes"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def integers(rng, *shape):
    return rng.integers(-8, 9, shape).astype(np.float32)


# PTX ISA, "Matrix fragments for mma.m16n8k16": element i of a lane's fragment of A, B and C, as (row, column).
def a_of_16x8x16(lane, i):
    row = lane >> 2 if i in (0, 1, 4, 5) else (lane >> 2) + 8
    return row, (lane % 4) * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_of_16x8x16(lane, i):
    return (lane % 4) * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def c_of_16x8(lane, i):
    return (lane >> 2) + (8 if i >= 2 else 0), (lane % 4) * 2 + (i & 1)


# "Matrix fragments for mma.m16n8k8", .tf32.
def a_of_16x8x8(lane, i):
    return (lane >> 2) + (8 if i in (1, 3) else 0), lane % 4 + (4 if i >= 2 else 0)


def b_of_16x8x8(lane, i):
    return lane % 4 + (4 if i == 1 else 0), lane >> 2


def fragments(matrix, formula, count):
    return np.array([[matrix[formula(lane, i)] for i in range(count)] for lane in LANES])


def from_fragments(values, formula, shape):
    matrix = np.full(shape, np.nan, np.float32)
    for lane in LANES:
        for i, value in enumerate(values[lane]):
            matrix[formula(lane, i)] = value
    return matrix


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mma_16x8x16(library, dtype):
    rng = np.random.default_rng(0)
    a, b, c = integers(rng, 16, 16), integers(rng, 16, 8), integers(rng, 16, 8)
    bits = [torch.from_numpy(x).to(dtype).view(torch.int16).numpy().view(np.uint16) for x in (a, b)]
    packed = [
        np.ascontiguousarray(fragments(bits[0], a_of_16x8x16, 8)).view(np.uint32),  # the first in the low half
        np.ascontiguousarray(fragments(bits[1], b_of_16x8x16, 4)).view(np.uint32),
    ]
    d = np.ascontiguousarray(fragments(c, c_of_16x8, 4))
    error = library.run_mma_16(ctypes.c_bool(dtype == torch.bfloat16), *map(pointer, (*packed, d)))
    assert error == b""
    np.testing.assert_array_equal(from_fragments(d, c_of_16x8, (16, 8)), a @ b + c)


def test_mma_16x8x8(library):
    rng = np.random.default_rng(1)
    a, b, c = integers(rng, 16, 8), integers(rng, 8, 8), integers(rng, 16, 8)
    x, y = fragments(a, a_of_16x8x8, 4), fragments(b, b_of_16x8x8, 2)
    d = np.ascontiguousarray(fragments(c, c_of_16x8, 4))
    assert library.run_mma_8(*map(pointer, (x, y, d))) == b""
    np.testing.assert_array_equal(from_fragments(d, c_of_16x8, (16, 8)), a @ b + c)


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrices(library, transposed):
    matrices = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)  # lane 8 i + j names row j of matrix i
    r = np.zeros((32, 4), np.uint32)
    assert library.run_load(ctypes.c_bool(transposed), pointer(matrices), pointer(r)) == b""
    for lane in LANES:
        for i, matrix in enumerate(matrices):
            # Thread t holds elements 2 (t % 4) and 2 (t % 4) + 1 of row t / 4, of the matrix or of its transpose.
            row = (matrix.T if transposed else matrix)[lane // 4]
            low, high = row[lane % 4 * 2], row[lane % 4 * 2 + 1]
            assert r[lane, i] == int(low) | int(high) << 16


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("operand", range(4), ids=["bf16", "f16", "tf32", "fp32"])
def test_products(library, operand, a_transposed, b_transposed, twice):
    rng = np.random.default_rng(operand)
    a, b = rng.integers(-2, 3, (2, 16, 16)).astype(np.float32)  # sums of 16 products stay below 2^8
    d = np.zeros((16, 16), np.float32)
    flags = map(ctypes.c_bool, (a_transposed, b_transposed, twice))
    assert library.run_product(operand, *flags, *map(pointer, (a, b, d))) == b""
    np.testing.assert_array_equal(d, a @ b @ b if twice else a @ b)


@pytest.mark.parametrize("operand", range(4), ids=["bf16", "f16", "tf32", "fp32"])
def test_products_of_rounded_operands(library, operand):
    rng = np.random.default_rng(9)
    a, b = rng.standard_normal((2, 16, 16)).astype(np.float32)
    d = np.zeros((16, 16), np.float32)
    assert library.run_product(operand, *[ctypes.c_bool(False)] * 3, *map(pointer, (a, b, d))) == b""
    unit = [2.0**-9, 2.0**-12, 2.0**-12, 2.0**-22][operand]  # of one operand's rounding
    bound = np.abs(a).astype(np.float64) @ np.abs(b) * (2 * unit + unit**2 + 16 * 2.0**-24)
    error = np.abs(d - a.astype(np.float64) @ b)
    assert (error <= bound).all()
    assert error.max() > 0


def test_conversions(library):
    rng = np.random.default_rng(2)
    x = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16 | 0x8000).view(np.float32)  # half-way between two of bfloat16
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    middle = (halves[:-1] + halves[1:]) / 2
    special = np.array([0, -0.0, np.inf, -np.inf, 65504, 65519, 65520, 2.0**-24, 2.0**-25, 3.4e38], np.float32)
    x = np.concatenate([x, ties, halves, middle, special])
    x = np.ascontiguousarray(x[~np.isnan(x)])
    bf16, f16 = np.zeros(x.size, np.uint16), np.zeros(x.size, np.uint16)
    tf32, back = np.zeros(x.size, np.float32), np.zeros(x.size, np.float32)
    library.convert(x.size, *map(pointer, (x, bf16, f16, tf32, back)))
    values = torch.from_numpy(x)
    expected = {bf16.tobytes(): torch.bfloat16, f16.tobytes(): torch.float16}
    for got, dtype in expected.items():
        np.testing.assert_array_equal(np.frombuffer(got, np.int16), values.to(dtype).view(torch.int16).numpy())
    np.testing.assert_array_equal(back, values.to(torch.float16).float().numpy())
    # Ties of TF32 go away from zero, in exact arithmetic: a float64 holds both neighbours.
    finite = np.isfinite(x) & (np.abs(x) < 3e38)
    exact = x[finite].astype(np.float64)
    step = 2.0 ** (np.maximum(np.frexp(exact)[1], -125) - 11)
    rounded = np.copysign(np.floor(np.abs(exact) / step + 0.5) * step, exact)
    np.testing.assert_array_equal(tf32[finite], rounded.astype(np.float32))


@pytest.mark.parametrize("errors", [False, True])
def test_approximations(build, errors):
    """In units of what the PTX ISA allows ex2, lg2 and sqrt.approx.ftz: below one, or one give or take the rounding."""
    program = f"""
import ctypes, numpy as np
library = ctypes.CDLL({str(build(["fragments.cu"], "fragments.so"))!r})
x = np.random.default_rng(4).uniform(0.01, 100, 20_000).astype(np.float32)
y = np.zeros((3, x.size), np.float32)
library.approximate(x.size, *(ctypes.c_void_p(a.ctypes.data) for a in (x, *y)))
exact = np.array([np.exp2(x, dtype=np.float64), np.log2(x, dtype=np.float64), np.sqrt(x, dtype=np.float64)])
scale = np.abs(exact)
scale[1, (x > 0.5) & (x < 2)] = 1
scale[2] /= 2
print(*(np.abs(y - exact) / scale * 2**22).max(1))
"""
    environment = {k: v for k, v in os.environ.items() if k != "MULTIMIX_SIMT_ERRORS"}
    environment |= {"MULTIMIX_SIMT_ERRORS": "1"} if errors else {}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    for worst in map(float, done.stdout.split()):
        assert 0.95 < worst < 2.01 if errors else worst < 0.51


def shuffled(kind, lane, argument, width):
    """The lane whose value arrives, by the CUDA programming guide."""
    first = lane // width * width
    if kind == 0:
        return first + argument % width
    if kind == 1:
        return lane - argument if lane - argument >= first else lane
    if kind == 2:
        return lane + argument if lane + argument < first + width else lane
    other = lane ^ argument
    return other if other < first + width else lane


@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("argument", [0, 1, 5, 17])
@pytest.mark.parametrize("kind", range(4), ids=["index", "up", "down", "xor"])
def test_shuffles(library, kind, argument, width):
    x, y = np.random.default_rng(3).standard_normal(32), np.zeros(32)
    assert library.run_shuffle(kind, argument, width, pointer(x), pointer(y)) == b""
    np.testing.assert_array_equal(y, x[[shuffled(kind, lane, argument, width) for lane in LANES]])


@pytest.mark.parametrize("bits", [0, 1, 0x80010000, 0xFFFFFFFF])
def test_votes(library, bits):
    y = np.zeros((32, 6), np.int32)
    assert library.run_votes(ctypes.c_uint32(bits), pointer(y)) == b""
    signed = np.uint32(bits).astype(np.int32)
    everyone, count = bits == 0xFFFFFFFF, bin(bits).count("1")
    np.testing.assert_array_equal(y[:, 0], np.full(32, signed))
    np.testing.assert_array_equal(y[:, 1:], [[bits != 0, everyone, count, bits != 0, everyone]] * 32)
