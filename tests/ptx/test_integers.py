"""What integer and bit instructions compute, against NumPy or the definitions of the PTX ISA."""

import numpy as np
import pytest

from .small import apply
from .values import COUNT, same, values

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
