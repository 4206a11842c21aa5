"""Shuffles, votes and moves, and instructions that there are not."""

import numpy as np
import pytest

from .machine import Module, Unknown
from .small import apply, kernel
from .values import COUNT, same, values

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
