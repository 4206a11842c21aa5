"""What instructions compute, against NumPy, PyTorch or the definitions of the PTX ISA in Python."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from .machine import Module, Unknown
from .small import apply, kernel

COUNT = 512
EDGES = {
    "i": [0, 1, 2, 3, -1, -2, 31, 32, 33, 63, 64, 255, 256],
    "f": [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-45, -1e-45, 3e-39, 6e-8, 65504.0, 65520.0, 1e30, 3.4e38,
          -3.4e38, np.inf, -np.inf, np.nan],
}  # fmt: skip


def values(kind: str, seed: int = 0) -> np.ndarray:
    """Every pair of edges comes together for two seeds that differ; then random bits, then numbers of usual size."""
    random, kind = np.random.default_rng(seed), np.dtype(kind)
    bits = random.integers(0, 256, COUNT * kind.itemsize, dtype=np.uint8).view(kind)
    if kind.kind == "f":
        bits[COUNT // 2 :] = random.standard_normal(COUNT - COUNT // 2)
        with np.errstate(over="ignore"):
            edges = np.array(EDGES["f"], "f8").astype(kind)
    else:
        edges = np.array(EDGES["i"]).astype(kind)
    edges = np.tile(edges, len(edges)) if seed % 2 else np.repeat(edges, len(edges))
    bits[: len(edges)] = edges[:COUNT]
    return bits


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bits; any NaN is as good as another."""
    bits = f"u{found.dtype.itemsize}"
    equal = found.view(bits) == np.asarray(wanted, found.dtype).view(bits)
    if found.dtype.kind == "f":
        equal |= np.isnan(found) & np.isnan(wanted)
    assert equal.all(), (found[~equal][:5], np.asarray(wanted)[~equal][:5])


INTEGERS = [
    ("add", lambda a, b: a + b), ("sub", lambda a, b: a - b), ("mul.lo", lambda a, b: a * b),
    ("min", min), ("max", max),
    ("div", lambda a, b: abs(a) // abs(b) * (1 if a * b >= 0 else -1) if b else -1),
    ("rem", lambda a, b: a - abs(a) // abs(b) * abs(b) * (1 if a >= 0 else -1) if b else a),
]  # fmt: skip


def wrapped(wanted, kind: str) -> np.ndarray:
    """Python's integers in so many bits."""
    size = np.dtype(kind).itemsize
    return np.array([int(x) & (1 << 8 * size) - 1 for x in wanted], f"u{size}").view(kind)


@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "u8", "i8"])
@pytest.mark.parametrize(("name", "function"), INTEGERS)
def test_integers(name, function, kind):
    a, b = values(kind), values(kind, 1)
    form = f"{name}.{'us'[kind[0] == 'i']}{8 * int(kind[1])}"
    wanted = wrapped(map(function, map(int, a), map(int, b)), kind)
    same(apply(f"{form} %0, %1, %2", kind, a, b), wanted)


def test_newer_integers():
    """Of Hopper: results that are not negative, and pairs of 16 bits."""
    a, b = values("i4"), values("i4", 1)
    same(apply("max.relu.s32 %0, %1, %2", "i4", a, b), np.maximum(np.maximum(a, b), 0))
    same(apply("min.relu.s32 %0, %1, %2", "i4", a, b), np.maximum(np.minimum(a, b), 0))
    for letter in "us":
        x, y = (pair.view(f"{'iu'[letter == 'u']}2") for pair in (a, b))
        same(apply(f"add.{letter}16x2 %0, %1, %2", "i4", a, b), (x + y).view("i4"))
        same(apply(f"min.{letter}16x2 %0, %1, %2", "i4", a, b), np.minimum(x, y).view("i4"))
        same(apply(f"max.{letter}16x2 %0, %1, %2", "i4", a, b), np.maximum(x, y).view("i4"))
    same(apply("max.relu.s16x2 %0, %1, %2", "i4", a, b), np.maximum(np.maximum(x, y), 0).view("i4"))


@pytest.mark.parametrize("kind", ["u4", "i4", "u8", "i8"])
def test_products(kind):
    a, b, c = (values(kind, seed) for seed in range(3))
    bits, letter = 8 * int(kind[1]), "us"[kind[0] == "i"]
    high = [int(x) * int(y) >> bits for x, y in zip(a, b, strict=True)]
    same(apply(f"mul.hi.{letter}{bits} %0, %1, %2", kind, a, b), wrapped(high, kind))
    low = [int(x) * int(y) + int(z) for x, y, z in zip(a, b, c, strict=True)]
    same(apply(f"mad.lo.{letter}{bits} %0, %1, %2, %3", kind, a, b, c), wrapped(low, kind))
    if bits == 32:
        wide = kind[0] + "8"
        c = values(wide, 2)
        exact = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
        same(apply(f"mul.wide.{letter}32 %0, %1, %2", wide, a, b), wrapped(exact, wide))
        total = [x + int(z) for x, z in zip(exact, c, strict=True)]
        same(apply(f"mad.wide.{letter}32 %0, %1, %2, %3", wide, a, b, c), wrapped(total, wide))


@pytest.mark.parametrize("kind", ["u2", "u4", "u8"])
def test_bits(kind):
    a, b = values(kind), values(kind, 1)
    bits = 8 * int(kind[1])
    same(apply(f"and.b{bits} %0, %1, %2", kind, a, b), a & b)
    same(apply(f"or.b{bits} %0, %1, %2", kind, a, b), a | b)
    same(apply(f"xor.b{bits} %0, %1, %2", kind, a, b), a ^ b)
    same(apply(f"not.b{bits} %0, %1", kind, a), ~a)
    amount = values("u4", 1)
    shifted = [int(x) << int(n) if n < bits else 0 for x, n in zip(a, amount, strict=True)]
    same(apply(f"shl.b{bits} %0, %1, %2", kind, a, amount), wrapped(shifted, kind))
    shifted = [int(x) >> int(n) if n < bits else 0 for x, n in zip(a, amount, strict=True)]
    same(apply(f"shr.u{bits} %0, %1, %2", kind, a, amount), wrapped(shifted, kind))
    signed = a.view("i" + kind[1])
    shifted = [int(x) >> min(int(n), bits) for x, n in zip(signed, amount, strict=True)]
    same(apply(f"shr.s{bits} %0, %1, %2", kind, a, amount), wrapped(shifted, kind))
    if bits > 16:
        same(apply(f"popc.b{bits} %0, %1", "u4", a), [int(x).bit_count() for x in a])
        same(apply(f"clz.b{bits} %0, %1", "u4", a), [bits - int(x).bit_length() for x in a])
        same(apply(f"brev.b{bits} %0, %1", kind, a), [int(f"{x:0{bits}b}"[::-1], 2) for x in a])
        highest = [int(x).bit_length() - 1 for x in a]
        same(apply(f"bfind.u{bits} %0, %1", "u4", a), wrapped(highest, "u4"))
        shift = [bits - 1 - x if x >= 0 else -1 for x in highest]
        same(apply(f"bfind.shiftamt.u{bits} %0, %1", "u4", a), wrapped(shift, "u4"))


@pytest.mark.parametrize("bits", [32, 64])
def test_bit_fields(bits):
    """By the pseudo-code of the ISA."""
    a, b = values(f"u{bits // 8}", 2), values(f"u{bits // 8}", 3)
    position, length = (np.random.default_rng(seed).integers(0, 256, COUNT, dtype="u4") >> seed for seed in (1, 2))
    for letter in "us":
        wanted = []
        for x, p, n in zip(map(int, a), map(int, position), map(int, length), strict=True):
            sign = letter == "s" and n > 0 and x >> min(p + n - 1, bits - 1) & 1
            picked = [x >> p + k & 1 if k < n and p + k < bits else int(sign) for k in range(bits)]
            wanted.append(sum(bit << k for k, bit in enumerate(picked)))
        same(apply(f"bfe.{letter}{bits} %0, %1, %2, %3", f"u{bits // 8}", a, position, length), wanted)
    wanted = []
    for x, y, p, n in zip(map(int, a), map(int, b), map(int, position), map(int, length), strict=True):
        for k in range(n):
            if p + k < bits:
                y = y & ~(1 << p + k) | (x >> k & 1) << p + k
        wanted.append(y)
    same(apply(f"bfi.b{bits} %0, %1, %2, %3, %4", f"u{bits // 8}", a, b, position, length), wanted)


@pytest.mark.parametrize("table", [0x00, 0x01, 0x80, 0x96, 0xE8, 0xCA, 0xF8, 0xFE, 0x3C])
def test_lop3(table):
    a, b, c = (values("u4", seed) for seed in (2, 3, 4))
    wanted = np.zeros(COUNT, "u4")
    for k in range(8):
        if table >> k & 1:
            wanted |= (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
    same(apply(f"lop3.b32 %0, %1, %2, %3, {table}", "u4", a, b, c), wanted)


def test_bytes():
    a, b, c = (values("u4", seed) for seed in (2, 3, 4))
    wanted, dots = [], []
    for x, y, z in zip(map(int, a), map(int, b), map(int, c), strict=True):
        both, result = y << 32 | x, 0
        for k in range(4):
            choice = z >> 4 * k
            byte = both >> 8 * (choice & 7) & 255
            result |= (byte if not choice & 8 else 255 * (byte >> 7)) << 8 * k
        wanted.append(result)
        left, right = (int(v).to_bytes(4, "little") for v in (x, y))
        dots.append(z + sum((p ^ 128) * q - 128 * q for p, q in zip(left, right, strict=True)))
    same(apply("prmt.b32 %0, %1, %2, %3", "u4", a, b, c), wanted)
    same(apply("dp4a.s32.u32 %0, %1, %2, %3", "u4", a, b, c), wrapped(dots, "u4"))
    for side, mode in (("l", "wrap"), ("l", "clamp"), ("r", "wrap"), ("r", "clamp")):
        amounts = [int(n) & 31 if mode == "wrap" else min(int(n), 32) for n in c]
        pairs = [int(y) << 32 | int(x) for x, y in zip(a, b, strict=True)]
        shifted = [(p << n >> 32 if side == "l" else p >> n) for p, n in zip(pairs, amounts, strict=True)]
        same(apply(f"shf.{side}.{mode}.b32 %0, %1, %2, %3", "u4", a, b, c), wrapped(shifted, "u4"))


def rounded(exact: Fraction, kind: str, mode: str):
    """An exact number to a format of NumPy."""
    kind = np.dtype(kind).type
    with np.errstate(over="ignore"):
        near = kind(float(exact))
    around = [np.nextafter(near, kind(-np.inf)), near, np.nextafter(near, kind(np.inf))]
    around = [x for x in around if np.isfinite(x)]
    below = [x for x in around if Fraction(float(x)) <= exact]
    above = [x for x in around if Fraction(float(x)) >= exact]
    low, high = max(below, default=kind(-np.inf)), min(above, default=kind(np.inf))
    if mode == "rn":
        if np.isinf(low) or np.isinf(high):
            return near
        under, over = exact - Fraction(float(low)), Fraction(float(high)) - exact
        if under != over:
            return low if under < over else high
        bits = f"u{kind(0).itemsize}"
        return low if not low.view(bits) & 1 else high
    if mode == "rz":
        return low if exact > 0 else high
    return low if mode == "rm" else high


def reference(function, kind: str, mode: str, *inputs: np.ndarray) -> np.ndarray:
    """What is not finite, as NumPy has it; what is zero, too."""
    with np.errstate(all="ignore"):
        wanted = np.asarray(function(*inputs)).astype(kind)
        for k, numbers in enumerate(zip(*inputs, strict=True)):
            if all(map(np.isfinite, numbers)):
                exact = function(*(Fraction(float(x)) for x in numbers))
                if exact:
                    wanted[k] = rounded(exact, kind, mode)
    return wanted


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_float_rounding(mode):
    # Of three, no sum is zero or infinite only on the way: NumPy's own sums say what is not finite.
    a, b, c = (values("f4", seed) for seed in range(3))
    same_but_zero(apply(f"add.{mode}.f32 %0, %1, %2", "f4", a, b), reference(lambda x, y: x + y, "f4", mode, a, b))
    same_but_zero(apply(f"mul.{mode}.f32 %0, %1, %2", "f4", a, b), reference(lambda x, y: x * y, "f4", mode, a, b))
    wide = [x.astype("f8") for x in (a, b, c)]
    wanted = reference(lambda x, y, z: x * y + z, "f4", mode, *wide)
    same_but_zero(apply(f"fma.{mode}.f32 %0, %1, %2, %3", "f4", a, b, c), wanted)


def same_but_zero(found: np.ndarray, wanted: np.ndarray) -> None:
    """An exact zero has a sign that depends on the rounding."""
    same(np.where(found == 0, np.float32(0), found), np.where(wanted == 0, np.float32(0), wanted))


def test_floats():
    with np.errstate(all="ignore"):
        for kind, letter in (("f4", "f32"), ("f8", "f64")):
            a, b = values(kind), values(kind, 1)
            same(apply(f"add.{letter} %0, %1, %2", kind, a, b), a + b)
            same(apply(f"sub.{letter} %0, %1, %2", kind, a, b), a - b)
            same(apply(f"mul.{letter} %0, %1, %2", kind, a, b), a * b)
            same(apply(f"div.rn.{letter} %0, %1, %2", kind, a, b), a / b)
            same(apply(f"rcp.rn.{letter} %0, %1", kind, a), 1 / a)
            same(apply(f"sqrt.rn.{letter} %0, %1", kind, a), np.sqrt(a))
            same(apply(f"neg.{letter} %0, %1", kind, a), -a)
            same(apply(f"abs.{letter} %0, %1", kind, a), abs(a))
            same(apply(f"copysign.{letter} %0, %1, %2", kind, a, b), np.copysign(b, a))
            zeros = (a == 0) & (b == 0)
            least = np.where(zeros, np.where(np.signbit(a), a, b), np.fmin(a, b))
            most = np.where(zeros, np.where(np.signbit(a), b, a), np.fmax(a, b))
            same(apply(f"min.{letter} %0, %1, %2", kind, a, b), least)
            same(apply(f"max.{letter} %0, %1, %2", kind, a, b), most)
            nan = np.isnan(a) | np.isnan(b)
            same(apply("max.NaN.f32 %0, %1, %2", kind, a, b), np.where(nan, np.nan, most)) if kind == "f4" else None


def test_flush_and_saturate():
    a, b = values("f4"), values("f4", 1)

    def flush(x):
        return np.where(abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x).astype("f4")

    with np.errstate(all="ignore"):
        same(apply("add.ftz.f32 %0, %1, %2", "f4", a, b), flush(flush(a) + flush(b)))
        same(apply("mul.ftz.f32 %0, %1, %2", "f4", a, b), flush(flush(a) * flush(b)))
        total = a + b
        same(apply("add.sat.f32 %0, %1, %2", "f4", a, b), np.where(np.isnan(total), 0, np.clip(total, 0, 1) + 0.0))


@pytest.mark.parametrize(("name", "torch_type"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_halves(name, torch_type):
    a, b, c = (torch.from_numpy(values("f4", seed)).to(torch_type) for seed in range(3))
    bits = [x.view(torch.int16).numpy().view("u2") for x in (a, b, c)]

    def check(found, wanted):
        found = torch.from_numpy(found.view("i2")).view(torch_type)
        torch.testing.assert_close(found.float(), wanted.float(), rtol=0, atol=0, equal_nan=True)

    def nearest(exact):  # from double, which is exact for sums of two and products
        return exact.to(torch_type)

    check(apply(f"add.{name} %0, %1, %2", "u2", *bits[:2]), (a.float() + b.float()).to(torch_type))
    check(apply(f"mul.{name} %0, %1, %2", "u2", *bits[:2]), (a.float() * b.float()).to(torch_type))
    small = [x.clamp(-8, 8).nan_to_num(1.0) for x in (a, b, c)]  # the sum of three is exact in double
    found = apply(f"fma.rn.{name} %0, %1, %2, %3", "u2", *(x.view(torch.int16).numpy().view("u2") for x in small))
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(*small, strict=True)]
    check(
        found, torch.tensor([to_format(x, 10 if name == "f16" else 7, -14 if name == "f16" else -126) for x in exact])
    )
    pair = values("u4", 6), values("u4", 7)
    halves = [torch.from_numpy(x.view("i2").copy()).view(torch_type) for x in pair]
    check(apply(f"add.{name}x2 %0, %1, %2", "u4", *pair).view("u2"), nearest(halves[0].double() + halves[1].double()))


def to_format(x: Fraction, fraction: int, least: int) -> float:
    """To nearest even, of so many bits of fraction and such a least exponent; no overflow."""
    if not x:
        return 0.0
    exponent = least
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - fraction)
    return float(round(x / unit) * unit)  # Python's round is to even


COMPARISONS = {
    "eq": lambda a, b: a == b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name):
    for kind, letter in (("u2", "u16"), ("i2", "s16"), ("u4", "u32"), ("i4", "s32"), ("u8", "u64"), ("i8", "s64")):
        a, b = values(kind), values(kind, 1)
        assert (apply(f"setp.{name}.{letter} %0, %1, %2", "?", a, b) == COMPARISONS[name](a, b)).all()
    for kind, letter in (("f4", "f32"), ("f8", "f64")):
        a, b = values(kind), values(kind, 1)
        truth = COMPARISONS[name](a, b)
        assert (apply(f"setp.{name}.{letter} %0, %1, %2", "?", a, b) == truth).all()
        unordered = np.isnan(a) | np.isnan(b)
        assert (apply(f"setp.{name}u.{letter} %0, %1, %2", "?", a, b) == truth | unordered).all()


def test_more_comparisons():
    a, b, c = values("f4"), values("f4", 1), values("u4", 2)
    unordered = np.isnan(a) | np.isnan(b)
    assert (apply("setp.ne.f32 %0, %1, %2", "?", a, b) == (a != b) & ~unordered).all()
    assert (apply("setp.neu.f32 %0, %1, %2", "?", a, b) == (a != b)).all()
    assert (apply("setp.nan.f32 %0, %1, %2", "?", a, b) == unordered).all()
    assert (apply("setp.num.f32 %0, %1, %2", "?", a, b) == ~unordered).all()
    odd = (c & 1).astype(bool)
    find = "and.b32 %r5, %3, 1; setp.eq.b32 %p1, %r5, 1; "
    assert (apply(find + "setp.lt.and.f32 %0, %1, %2, %p1", "?", a, b, c) == (a < b) & odd).all()
    assert (apply(find + "setp.lt.or.f32 %0, %1, %2, !%p1", "?", a, b, c) == (a < b) | ~odd).all()
    assert (apply(find + "setp.lt.xor.f32 %p2|%0, %1, %2, %p1", "?", a, b, c) == ~(a < b) ^ odd).all()
    same(apply(find + "selp.f32 %0, %1, %2, %p1", "f4", a, b, c), np.where(odd, a, b))
    same(apply("slct.f32.s32 %0, %1, %2, %3", "f4", a, b, c.view("i4")), np.where(c.view("i4") >= 0, a, b))
    same(apply("set.lt.u32.f32 %0, %1, %2", "u4", a, b), np.where(a < b, 0xFFFFFFFF, 0))
    halves = torch.from_numpy(a).bfloat16(), torch.from_numpy(b).bfloat16()
    bits = [x.view(torch.int16).numpy().view("u2") for x in halves]
    assert (apply("setp.gt.bf16 %0, %1, %2", "?", *bits) == (halves[0] > halves[1]).numpy()).all()
    pairs = [x.astype("u4") | y.astype("u4") << 16 for x, y in zip(bits, bits[::-1], strict=True)]
    assert (apply("setp.gt.bf16x2 %p1|%0, %1, %2", "?", *pairs) == (halves[1] > halves[0]).numpy()).all()


def test_conversions_of_integers():
    for kind, letter in (
        ("u1", "u8"),
        ("i1", "s8"),
        ("u2", "u16"),
        ("i2", "s16"),
        ("u4", "u32"),
        ("i4", "s32"),
        ("i8", "s64"),
    ):
        a = values(kind)
        same(apply(f"cvt.s64.{letter} %0, %1", "i8", a), a.astype("i8"))
        same(apply(f"cvt.u16.{letter} %0, %1", "u2", a), a.astype("u2"))
        same(apply(f"cvt.rn.f32.{letter} %0, %1", "f4", a), a.astype("f4"))
        same(apply(f"cvt.rn.f64.{letter} %0, %1", "f8", a), a.astype("f8"))
        same(apply(f"cvt.sat.u8.{letter} %0, %1", "u1", a), np.clip(a.astype("i8"), 0, 255).astype("u1"))
        if a.itemsize < 8:
            wanted = torch.from_numpy(a.astype("f8")).bfloat16().view(torch.int16).numpy().view("u2")
            same(apply(f"cvt.rn.bf16.{letter} %0, %1", "u2", a), wanted)


def test_conversions_to_integers():
    with np.errstate(all="ignore"):
        for kind, letter in (("f4", "f32"), ("f8", "f64")):
            a = values(kind)
            for mode, function in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
                same(apply(f"cvt.{mode}.{letter}.{letter} %0, %1", kind, a), function(a))
                whole = np.nan_to_num(function(a.astype("f8")), nan=0.0, posinf=1e300, neginf=-1e300)
                same(
                    apply(f"cvt.{mode}.s32.{letter} %0, %1", "i4", a),
                    np.clip(whole, -(2.0**31), 2.0**31 - 1).astype("i4"),
                )
                same(apply(f"cvt.{mode}.u32.{letter} %0, %1", "u4", a), np.clip(whole, 0, 2.0**32 - 1).astype("u4"))
            large = [max(-(2**63), min(2**63 - 1, int(x))) for x in whole]  # of .rpi
            same(apply(f"cvt.rpi.s64.{letter} %0, %1", "i8", a), np.array(large, "i8"))


def test_conversions_of_floats():
    a, b, d = values("f4"), values("f4", 1), values("f8")
    with np.errstate(all="ignore"):
        same(apply("cvt.f64.f32 %0, %1", "f8", a), a.astype("f8"))
        same(apply("cvt.rn.f32.f64 %0, %1", "f4", d), d.astype("f4"))
        same(apply("cvt.rn.f16.f32 %0, %1", "f2", a), a.astype("f2"))
        toward_zero = apply("cvt.rz.f16.f32 %0, %1", "f2", a)
        inside = np.isfinite(a)
        assert (abs(toward_zero[inside].astype("f8")) <= abs(a[inside])).all()
        beyond = np.nextafter(toward_zero, np.copysign(np.inf, a).astype("f2"))
        assert (abs(beyond.astype("f8")) > abs(a))[inside].all()
        pair = apply("cvt.rn.f16x2.f32 %0, %1, %2", "u4", a, b).view("f2").reshape(-1, 2)
        same(pair[:, 1].copy(), a.astype("f2"))
        same(pair[:, 0].copy(), b.astype("f2"))
    half = torch.from_numpy(a).bfloat16()
    found = torch.from_numpy(apply("cvt.rn.bf16.f32 %0, %1", "u2", a).view("i2")).view(torch.bfloat16)
    torch.testing.assert_close(found, half, rtol=0, atol=0, equal_nan=True)
    pair = torch.from_numpy(apply("cvt.rn.bf16x2.f32 %0, %1, %2", "u4", a, b).view("i2")).view(torch.bfloat16)
    torch.testing.assert_close(pair.view(-1, 2)[:, 1], half, rtol=0, atol=0, equal_nan=True)
    relu = torch.from_numpy(apply("cvt.rn.relu.bf16x2.f32 %0, %1, %2", "u4", a, b).view("i2")).view(torch.bfloat16)
    torch.testing.assert_close(relu.view(-1, 2)[:, 1], half.relu(), rtol=0, atol=0, equal_nan=True)
    every = np.arange(1 << 16, dtype="u2")
    same(apply("cvt.f32.f16 %0, %1", "f4", every), every.view("f2").astype("f4"))
    same(apply("cvt.f32.bf16 %0, %1", "f4", every), (every.astype("u4") << 16).view("f4"))
    tf32 = apply("cvt.rna.tf32.f32 %0, %1", "u4", a)
    finite = np.isfinite(a)
    same(tf32[finite], (a.view("u4")[finite] + 0x1000) & 0xFFFFE000)


SEGMENTS = {"bfly": (1, 5, 16, 31), "up": (1, 3, 16), "down": (1, 2, 31), "idx": (0, 5, 31)}


@pytest.mark.parametrize("mode", SEGMENTS)
@pytest.mark.parametrize("width", [32, 16, 4])
def test_shuffles(mode, width):
    """By the pseudo-code of the ISA, with the bounds that CUDA gives for segments of a width."""
    a = np.random.default_rng(9).integers(0, 1 << 32, 128, dtype="u4")
    control = (32 - width) << 8 | (0 if mode == "up" else 31)
    for amount in SEGMENTS[mode]:
        wanted, inside = [], []
        for thread in range(128):
            lane, first = thread % 32, thread // 32 * 32
            segment, clamp = control >> 8 & 31, control & 31
            most = lane & segment | clamp & ~segment
            source = {
                "up": lane - amount, "down": lane + amount, "bfly": lane ^ amount,
                "idx": lane & segment | amount & ~segment,
            }[mode]  # fmt: skip
            good = source >= most if mode == "up" else source <= most
            inside.append(good)
            wanted.append(a[first + (source if good else lane)])
        same(apply(f"shfl.sync.{mode}.b32 %0|%p1, %1, {amount}, {control}, -1", "u4", a), wanted)
        truth = apply(f"shfl.sync.{mode}.b32 %r5|%0, %1, {amount}, {control}, -1", "?", a)
        assert (truth == inside).all()


def test_votes():
    a = np.random.default_rng(4).integers(0, 4, 64, dtype="u4")
    by_warp = a.reshape(2, 32)
    find = "setp.eq.u32 %p1, %1, 1; "
    ballots = [sum(int(x == 1) << k for k, x in enumerate(row)) for row in by_warp]
    same(apply(find + "vote.sync.ballot.b32 %0, %p1, -1", "u4", a), np.repeat(np.array(ballots, "u4"), 32))
    assert apply(find + "vote.sync.any.pred %0, %p1, -1", "?", a).all()
    assert not apply(find + "vote.sync.all.pred %0, %p1, -1", "?", a).any()
    wanted = [sum(int(other == x) << k for k, other in enumerate(row)) for row in by_warp for x in row]
    same(apply("match.any.sync.b32 %0, %1, -1", "u4", a), wanted)
    assert not apply("match.all.sync.b32 %r5|%0, %1, -1", "?", a).any()
    signed = a.view("i4") - 1
    same(apply("redux.sync.max.s32 %0, %1, -1", "i4", signed), np.repeat(signed.reshape(2, 32).max(1), 32))
    same(apply("redux.sync.add.s32 %0, %1, -1", "i4", signed), np.repeat(signed.reshape(2, 32).sum(1), 32))
    same(apply("redux.sync.or.b32 %0, %1, -1", "u4", a), np.repeat(np.bitwise_or.reduce(by_warp, 1), 32))
    chosen = apply("elect.sync %r5|%0, -1", "?", a)
    assert (chosen == (np.arange(64) % 32 == 0)).all()


def test_moves():
    a, b = values("u4", 2), values("u4", 3)
    both = a.astype("u8") | b.astype("u8") << 32
    same(apply("mov.b64 %0, {%1, %2}", "u8", a, b), both)
    same(apply("mov.b64 {%0, %r5}, %1", "u4", both), a)
    same(apply("mov.b64 {_, %0}, %1", "u4", both), b)
    same(apply("mov.b32 {%h1, %h2}, %1; mov.b32 %0, {%h2, %h1}", "u4", a), a >> 16 | a << 16)
    same(apply("{ .reg .b128 %q; mov.b128 %q, {%1, %2}; mov.b128 {%rd5, %0}, %q; }", "u8", both, ~both), ~both)
    same(apply("mov.f32 %0, 0f3F800000", "u4", a), np.full(COUNT, 0x3F800000))
    same(apply("mov.f64 %0, 0dBFF0000000000000", "f8", a), np.full(COUNT, -1.0))
    same(apply("add.s32 %0, %1, -0x10", "u4", a), a - np.uint32(16))
    same(apply("mul.f32 %0, %1, 1.5", "f4", np.ones(COUNT, "f4")), np.full(COUNT, 1.5))


UNKNOWN = ["frobnicate.b32 %r1, %r2;", "add.s33 %r1, %r2, %r3;", "add.s32 %r1, %r2;", "add.cc.s32 %r1, %r2, %r3;",
           "bra nowhere;", "mov.b32 %r1, %r99;", "ld.global.q32 %r1, [%rd1];", "shfl.up.b32 %r1, %r2, 1, 0;",
           "call (%r1), f, (%r2);", "mov.u32 %r1, %clock;"]  # fmt: skip


@pytest.mark.parametrize("line", UNKNOWN)
def test_unknown(line):
    """It is an error when the module is read, with its line."""
    with pytest.raises(Unknown, match=r"line 10\b"):
        Module(kernel(line))
