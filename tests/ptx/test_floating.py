"""What floating instructions, comparisons and conversions compute, against exact fractions, NumPy and PyTorch."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from .small import apply
from .values import same, values


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
