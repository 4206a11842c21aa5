"""Planted faults, each beside a twin that is right."""

import pytest
import torch

from .small import run

STORE = "mad.wide.u32 %rd3, %r0, 4, %rd1; st.global.u32 [%rd3], %r9;"
LOAD = "mad.wide.u32 %rd2, %r0, 4, %rd0; ld.global.u32 %r8, [%rd2];"
# Shared memory x of 64 words; %r2 the thread's place, %r3 that of a thread of the other warp, %r4 of the lane beside.
# %p1 is the first thread, %p2 the first warp, %p3 the first block; %p4 nobody.
PLACES = """.shared .align 16 .b32 x[64]; mov.u32 %r5, x; shl.b32 %r2, %r0, 2; xor.b32 %r3, %r2, 128;
xor.b32 %r4, %r2, 4; add.u32 %r2, %r2, %r5; add.u32 %r3, %r3, %r5; add.u32 %r4, %r4, %r5; mov.u32 %r9, 0;
setp.eq.u32 %p1, %r0, 0; setp.lt.u32 %p2, %r0, 32; mov.u32 %r10, %ctaid.x; setp.eq.u32 %p3, %r10, 0;
setp.ne.u32 %p4, 0, 0;"""
ALL = "st.shared.u32 [%r2], %r0; bar.sync 0;"  # everything is written, and known to all

# Name: kind of the fault, the wrong code, the right code. Of 64 threads in two blocks; a and b have 128 words.
PLANTED = {
    "read beyond the end": ("bounds", "ld.global.u32 %r9, [%rd0+512];", "ld.global.u32 %r9, [%rd0+508];"),
    "read before the beginning": ("bounds", "ld.global.u32 %r9, [%rd0+-4];", "ld.global.u32 %r9, [%rd0+0];"),
    "half beyond the end": ("bounds", "ld.global.u64 %rd9, [%rd0+512];", "ld.global.u64 %rd9, [%rd0+504];"),
    "null": ("bounds", "mov.u64 %rd9, 0; ld.global.u32 %r9, [%rd9];", "ld.global.u32 %r9, [%rd0];"),
    "write beyond the end": (
        "bounds", "@%p1 st.global.u32 [%rd1+512], 1;", "and.pred %p1, %p1, %p3; @%p1 st.global.u32 [%rd1+508], 1;",
    ),
    "outside shared memory": ("bounds", f"{ALL} ld.shared.u32 %r9, [x+256];", f"{ALL} ld.shared.u32 %r9, [x+252];"),
    "outside local memory": (
        "bounds", ".local .b8 y[8]; mov.u64 %rd9, y; st.local.u32 [%rd9+16], 1;",
        ".local .b8 y[8]; mov.u64 %rd9, y; st.local.u32 [%rd9+4], 1;",
    ),
    "misaligned": ("alignment", "ld.global.u32 %r9, [%rd0+2];", "ld.global.u16 %r9, [%rd0+2];"),
    "misaligned vector": (
        "alignment", "ld.global.v4.u32 {%r9,%r11,%r12,%r13}, [%rd0+8];",
        "ld.global.v2.u32 {%r9,%r11}, [%rd0+8];",
    ),
    "misaligned in shared memory": (
        "alignment", f"{ALL} ld.shared.u64 %rd9, [x+4];", f"{ALL} ld.shared.u64 %rd9, [x+8];"
    ),
    "read of what nobody wrote": ("uninitialised", "ld.shared.u32 %r9, [%r2];", f"{ALL} ld.shared.u32 %r9, [%r2];"),
    "one byte nobody wrote": (
        "uninitialised", "st.shared.u16 [%r2], 1; ld.shared.u32 %r9, [%r2];",
        "st.shared.u16 [%r2], 1; st.shared.u16 [%r2+2], 1; ld.shared.u32 %r9, [%r2];",
    ),
    "written in the block before": (
        "uninitialised", "@%p3 st.shared.u32 [%r2], 1; ld.shared.u32 %r9, [%r2];",
        "@%p3 st.shared.u32 [%r2], 1; @%p3 ld.shared.u32 %r9, [%r2];",
    ),
    "read after write": (
        "race", f"{ALL} st.shared.u32 [%r2], 1; ld.shared.u32 %r9, [%r3];",
        f"{ALL} st.shared.u32 [%r2], 1; bar.sync 0; ld.shared.u32 %r9, [%r3];",
    ),
    "write after read": (
        "race", f"{ALL} ld.shared.u32 %r9, [%r2]; st.shared.u32 [%r3], 1;",
        f"{ALL} ld.shared.u32 %r9, [%r2]; bar.sync 0; st.shared.u32 [%r3], 1;",
    ),
    "write after write": (
        "race", "st.shared.u32 [%r2], 1; st.shared.u32 [%r3], 2;",
        "st.shared.u32 [%r2], 1; bar.sync 0; st.shared.u32 [%r3], 2;",
    ),
    "warps write different values": (
        "race", "shr.u32 %r7, %r0, 5; st.shared.u32 [x], %r7;", "shr.u32 %r7, %r0, 6; st.shared.u32 [x], %r7;"
    ),
    "bytes of one word are apart": (
        "race", "shr.u32 %r7, %r0, 5; st.shared.u8 [x], %r7;",
        "shr.u32 %r7, %r0, 5; add.u32 %r7, %r7, %r5; st.shared.u8 [%r7], 1;",
    ),
    "a barrier too few in a loop": (
        "race", f"""{ALL} mov.u32 %r7, 0;
        L: ld.shared.u32 %r9, [%r3]; bar.sync 0; st.shared.u32 [%r2], %r9;
        add.u32 %r7, %r7, 1; setp.lt.u32 %p4, %r7, 3; @%p4 bra L;""",
        f"""{ALL} mov.u32 %r7, 0;
        L: ld.shared.u32 %r9, [%r3]; bar.sync 0; st.shared.u32 [%r2], %r9; bar.sync 0;
        add.u32 %r7, %r7, 1; setp.lt.u32 %p4, %r7, 3; @%p4 bra L;""",
    ),
    "another barrier": (
        "race", """@!%p2 bra B; st.shared.u32 [%r2], 1; bar.sync 1, 64; st.shared.u32 [%r2], 2; bar.sync 0; bra E;
        B: bar.sync 1, 64; ld.shared.u32 %r9, [x]; bar.sync 0; E:""",
        """@!%p2 bra B; st.shared.u32 [%r2], 1; bar.sync 1, 64; bar.sync 0; st.shared.u32 [%r2], 2; bra E;
        B: bar.sync 1, 64; ld.shared.u32 %r9, [x]; bar.sync 0; E:""",
    ),
    "writes after it arrived": (
        "race", f"""{ALL} @!%p2 bra B; bar.arrive 1, 64; st.shared.u32 [%r2], 1; bra E;
        B: bar.sync 1, 64; ld.shared.u32 %r9, [x]; E:""",
        f"""{ALL} @!%p2 bra B; st.shared.u32 [%r2], 1; bar.arrive 1, 64; bra E;
        B: bar.sync 1, 64; ld.shared.u32 %r9, [x]; E:""",
    ),
    "atomic and plain": (
        "race", f"{ALL} @%p2 atom.shared.add.u32 %r9, [x], 1; @!%p2 ld.shared.u32 %r9, [x];",
        f"{ALL} atom.shared.add.u32 %r9, [x], 1; bar.sync 0; @!%p2 ld.shared.u32 %r9, [x];",
    ),
    "lanes write different values": ("lane race", "@%p2 st.shared.u32 [x], %r0;", "@%p2 st.shared.u32 [x], 5;"),
    "lanes write different values to global memory": (
        "lane race", "@%p3 st.global.u32 [%rd1], %r0;", "@%p3 st.global.u32 [%rd1], 5;"
    ),
    "another lane's, without bar.warp.sync": (
        "lane race", "st.shared.u32 [%r2], 1; ld.shared.u32 %r9, [%r4];",
        "st.shared.u32 [%r2], 1; bar.warp.sync -1; ld.shared.u32 %r9, [%r4];",
    ),
    "over what another lane reads": (
        "lane race", f"{ALL} ld.shared.u32 %r9, [%r4]; st.shared.u32 [%r2], 1;",
        f"{ALL} ld.shared.u32 %r9, [%r4]; bar.warp.sync -1; st.shared.u32 [%r2], 1;",
    ),
    "blocks write one place": (
        "global race", "@%p1 st.global.u32 [%rd0], 1;", "and.pred %p1, %p1, %p3; @%p1 st.global.u32 [%rd0], 1;"
    ),
    "a block reads what another writes": (
        "global race", "@%p3 st.global.u32 [%rd0+4], 7; @!%p3 ld.global.u32 %r9, [%rd0+4];",
        "@%p3 st.global.u32 [%rd0+4], 7; @%p3 ld.global.u32 %r9, [%rd0+4];",
    ),
    "a block adds what another reads": (
        "global race", "@%p3 red.global.add.u32 [%rd0+4], 7; @!%p3 ld.global.u32 %r9, [%rd0+4];",
        "red.global.add.u32 [%rd0+4], 7;",
    ),
    "a barrier for half of the block": ("deadlock", "@%p2 bar.sync 0; @!%p2 bar.sync 1;", "bar.sync 0; bar.sync 1;"),
    "a barrier for half of a warp": (
        "divergence", "and.b32 %r7, %r0, 1; setp.eq.u32 %p4, %r7, 1; @%p4 bar.sync 0;", "bar.sync 0;"
    ),
    "a barrier in a branch": (
        "deadlock", "and.b32 %r7, %r0, 1; setp.eq.u32 %p4, %r7, 1; @%p4 bra B; bar.sync 0; bra E; B: bar.sync 0; E:",
        "and.b32 %r7, %r0, 1; setp.eq.u32 %p4, %r7, 1; @%p4 bra B; mov.u32 %r9, 1; B: bar.sync 0;",
    ),
    "a shuffle in a branch": (
        "deadlock",
        "setp.lt.u32 %p4, %r0, 7; @%p4 bra B; shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1; bra E; B: bar.sync 0; E:",
        "setp.lt.u32 %p4, %r0, 7; @%p4 bra B; mov.u32 %r7, 1; B: shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1;",
    ),
    "a shuffle from a lane that has left": (
        "shuffle", "and.b32 %r7, %r0, 1; setp.eq.u32 %p4, %r7, 1; @%p4 ret; shfl.sync.bfly.b32 %r9, %r0, 1, 31, -1;",
        "and.b32 %r7, %r0, 1; setp.eq.u32 %p4, %r7, 1; @%p4 ret; shfl.sync.bfly.b32 %r9, %r0, 2, 31, -1;",
    ),
    "a lane that does not name itself": (
        "divergence", "shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xffff;", "shfl.sync.bfly.b32 %r9, %r0, 1, 31, 0xffffffff;"
    ),
    "another number of threads": ("barrier", "@%p2 bar.sync 0, 64; @!%p2 bar.sync 0;", "bar.sync 0, 64;"),
    "no end": ("hang", "L: bra L;", "bra L; L:"),
    "trap": ("trap", "trap;", "@%p4 trap;"),
}  # fmt: skip


def launch(code: str, **options):
    a, b = torch.arange(128, dtype=torch.int32), torch.zeros(128, dtype=torch.int32)
    return run(f"{PLACES} {code}", a, b, threads=64, grid=2, most_instructions=1_000_000, **options)


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_planted(name, seed):
    kind, wrong, right = PLANTED[name]
    report = launch(wrong, seed=seed)
    assert report.kinds == {kind}, report.faults
    assert all(fault["line"] > 0 and fault["text"] for fault in report.faults)
    assert not launch(right, seed=seed).faults


def test_where():
    """A fault names kernel, line, block, warp and lane."""
    code = "setp.eq.u32 %p4, %r0, 37; @%p4 ld.global.u32 %r9, [%rd0+512];"
    a = torch.zeros(128, dtype=torch.int32)
    (fault,) = run(PLACES + code, a, a, threads=64, grid=1).faults
    assert {key: fault[key] for key in ("kind", "kernel", "block", "warp", "lane", "times")} == {
        "kind": "bounds", "kernel": "k", "block": [0, 0, 0], "warp": 1, "lane": 5, "times": 1,
    }  # fmt: skip
    assert "reads 4 bytes" in fault["text"]


def test_only_for_reading():
    a, b = torch.zeros(32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    ranges = [(x.data_ptr(), x.data_ptr() + 128, x is b) for x in (a, b)]
    for pointer, kinds in (("%rd0", {"read-only"}), ("%rd1", set())):
        report = run(f"mad.wide.u32 %rd3, %r0, 4, {pointer}; st.global.u32 [%rd3], 1;", a, b, ranges=ranges)
        assert report.kinds == kinds


def test_results_are_kept_from_harm():
    """What is a fault is not written, and reads as zero."""
    a = torch.full((64,), 7, dtype=torch.int32)
    inside = a[16:32]
    ranges = [(inside.data_ptr(), inside.data_ptr() + 64, True)]
    code = "mad.wide.u32 %rd3, %r0, 4, %rd0; ld.global.u32 %r9, [%rd3]; add.u32 %r9, %r9, 1; st.global.u32 [%rd3], %r9;"
    assert run(code, inside, inside, ranges=ranges).kinds == {"bounds"}
    assert a.tolist() == [7] * 16 + [8] * 16 + [7] * 32


def test_without_checks():
    """Bounds are looked at all the same."""
    race = "st.shared.u32 [%r2], 1; ld.shared.u32 %r9, [%r3];"
    assert not launch(race, check=0).faults
    assert launch("ld.global.u32 %r9, [%rd0+512];", check=0).kinds == {"bounds"}
