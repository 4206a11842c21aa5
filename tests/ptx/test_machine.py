"""How the machine runs threads: lanes that part and meet, barriers, memory, blocks, counts."""

import numpy as np
import pytest
import torch

from .machine import CHECK_FAULTS, COUNT_TRAFFIC, Module
from .small import kernel, run

SEEDS = [0, 1, 2]
STORE = "mad.wide.u32 %rd3, %r0, 4, %rd1; st.global.u32 [%rd3], %r9;"  # %r9 to the thread's place of b
LOAD = "mad.wide.u32 %rd2, %r0, 4, %rd0; ld.global.u32 %r8, [%rd2];"  # the thread's element of a to %r8


def numbers(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32)


def loop_of(thread: int) -> int:
    """What the kernel below computes, which its lanes leave, skip parts of and nest by their number."""
    total = 0
    for step in range(thread % 37):
        if step % 3 == thread % 3:
            continue
        total += step * thread
        if total > 2000:
            break
        for inner in range(step % 4):
            total ^= inner * thread
    return total


PARTING = """
    rem.u32 %r2, %r0, 37; rem.u32 %r3, %r0, 3; mov.u32 %r4, 0; mov.u32 %r9, 0;
NEXT: setp.ge.u32 %p1, %r4, %r2; @%p1 bra END;
    rem.u32 %r5, %r4, 3; setp.eq.u32 %p2, %r5, %r3; @%p2 bra AGAIN;
    mad.lo.u32 %r9, %r4, %r0, %r9;
    setp.gt.u32 %p3, %r9, 2000; @%p3 bra END;
    and.b32 %r6, %r4, 3; mov.u32 %r7, 0;
INNER: setp.ge.u32 %p4, %r7, %r6; @%p4 bra AGAIN;
    mul.lo.u32 %r8, %r7, %r0; xor.b32 %r9, %r9, %r8; add.u32 %r7, %r7, 1; bra INNER;
AGAIN: add.u32 %r4, %r4, 1; bra NEXT;
END:
"""


@pytest.mark.parametrize("after", ["", "bar.sync 0;", "shfl.sync.idx.b32 %r9, %r9, %r10, 31, -1;"])
@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_part_and_meet(after, seed):
    out = torch.zeros(70, dtype=torch.int32)
    report = run(f"{PARTING} mov.u32 %r10, %laneid; {after} {STORE}", out, out, threads=64, seed=seed)
    assert not report.faults
    assert out.tolist() == [loop_of(thread) for thread in range(64)] + [0] * 6


def test_code_out_of_line():
    """A branch to the end of the kernel and back: the other lanes wait at the shuffle."""
    body = f"""
    and.b32 %r2, %r0, 3; setp.eq.u32 %p1, %r2, 1; mov.u32 %r8, %r0; @%p1 bra FAR;
BACK: shfl.sync.bfly.b32 %r9, %r8, 1, 31, -1; {STORE} bra.uni END;
FAR: mul.lo.u32 %r8, %r0, 100; bra BACK;
END:"""
    out = torch.zeros(32, dtype=torch.int32)
    assert not run(body, out, out).faults
    value = [100 * t if t % 4 == 1 else t for t in range(32)]
    assert out.tolist() == [value[t ^ 1] for t in range(32)]


def test_groups_of_lanes():
    """Each half shuffles for itself, in its branch."""
    half = "{name}: shfl.sync.bfly.b32 %r9, %r0, {distance}, 31, {mask}; bra END;"
    body = f"""setp.lt.u32 %p1, %r0, 16; @%p1 bra LOW;
    {half.format(name="HIGH", distance=1, mask="0xffff0000")}
    {half.format(name="LOW", distance=2, mask="0xffff")}
END: bar.warp.sync -1; {STORE}"""
    out = torch.zeros(32, dtype=torch.int32)
    assert not run(body, out, out).faults
    assert out.tolist() == [t ^ (2 if t < 16 else 1) for t in range(32)]


def test_a_lane_that_waits_for_another():
    """A lock, whose holder is at a higher line than those that ask for it."""
    body = """.shared .b32 lock; .shared .b32 sum;
    setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [lock], 0; @%p1 st.shared.u32 [sum], 0; bar.sync 0;
TRY: atom.shared.cas.b32 %r2, [lock], 0, 1; setp.ne.u32 %p2, %r2, 0; @%p2 bra TRY;
    atom.shared.add.u32 %r3, [sum], %r0; atom.shared.exch.b32 %r2, [lock], 0;
    bar.sync 0; ld.shared.u32 %r9, [sum]; """
    out = torch.zeros(64, dtype=torch.int32)
    report = run(body + STORE, out, out, threads=64, most_instructions=10_000_000)
    assert not report.faults
    assert out.tolist() == [64 * 63 // 2] * 64


@pytest.mark.parametrize("seed", SEEDS)
def test_early_exit(seed):
    """Barriers wait for those that have not left."""
    body = f"""setp.ge.u32 %p1, %r0, 40; @%p1 ret; .shared .b32 x[64]; shl.b32 %r2, %r0, 2; mov.u32 %r3, x;
    add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r0; bar.sync 0;
    xor.b32 %r4, %r0, 32; setp.lt.u32 %p2, %r4, 40; mov.u32 %r9, 7; shl.b32 %r4, %r4, 2; add.u32 %r4, %r4, %r3;
    @%p2 ld.shared.u32 %r9, [%r4]; {STORE}"""
    out = torch.zeros(128, dtype=torch.int32)
    assert not run(body, out, out, threads=128, seed=seed).faults
    assert out.tolist() == [t ^ 32 if t ^ 32 < 40 else 7 for t in range(40)] + [0] * 88


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threads", [32, 96, 256])
def test_reduction(seed, threads):
    """Shuffles, shared memory and a barrier."""
    steps = "".join(f"shfl.sync.bfly.b32 %r9, %r8, {o}, 31, -1; add.s32 %r8, %r8, %r9;" for o in (16, 8, 4, 2, 1))
    body = f""".shared .align 4 .b8 part[128];
    mov.u32 %r8, 0; mov.u32 %r10, %ctaid.x; mul.lo.u32 %r10, %r10, %r1; mov.u32 %r4, %r0; mov.u32 %r12, %ntid.x;
LOOP: setp.ge.u32 %p1, %r4, %r1; @%p1 bra SUM;
    add.u32 %r5, %r4, %r10; mad.wide.u32 %rd2, %r5, 4, %rd0; ld.global.u32 %r6, [%rd2]; add.s32 %r8, %r8, %r6;
    add.u32 %r4, %r4, %r12; bra LOOP;
SUM: {steps}
    shr.u32 %r7, %r0, 5; shl.b32 %r7, %r7, 2; mov.u32 %r11, part; add.u32 %r7, %r7, %r11;
    and.b32 %r5, %r0, 31; setp.eq.u32 %p2, %r5, 0; @%p2 st.shared.u32 [%r7], %r8; bar.sync 0;
    setp.ne.u32 %p3, %r0, 0; @%p3 ret;
    mov.u32 %r9, 0; mov.u32 %r4, 0;
ADD: ld.shared.u32 %r6, [%r11]; add.s32 %r9, %r9, %r6; add.u32 %r11, %r11, 4; add.u32 %r4, %r4, 32;
    setp.lt.u32 %p4, %r4, %r12; @%p4 bra ADD;
    mov.u32 %r5, %ctaid.x; mad.wide.u32 %rd3, %r5, 4, %rd1; st.global.u32 [%rd3], %r9;"""
    a = torch.randint(-1000, 1000, (7, 333), dtype=torch.int32)
    out = torch.zeros(7, dtype=torch.int32)
    report = run(body, a, out, 333, threads=threads, grid=7, seed=seed)
    assert not report.faults
    assert torch.equal(out, a.sum(1).int())


def test_named_barriers():
    """Two producers arrive and go on, two consumers wait: 128 threads of a block at barrier 1."""
    body = f""".shared .b32 x[64]; mov.u32 %r3, x; shl.b32 %r2, %r0, 2; and.b32 %r2, %r2, 255; add.u32 %r2, %r2, %r3;
    setp.lt.u32 %p1, %r0, 64; @%p1 bra PRODUCE;
    bar.sync 1, 128; ld.shared.u32 %r9, [%r2]; {STORE} bra END;
PRODUCE: mul.lo.u32 %r4, %r0, 3; st.shared.u32 [%r2], %r4; bar.arrive 1, 128;
END:"""
    for seed in SEEDS:
        out = torch.zeros(128, dtype=torch.int32)
        assert not run(body, out, out, threads=128, seed=seed).faults
        assert out.tolist() == [0] * 64 + [3 * t for t in range(64)]


def test_barriers_that_reduce():
    body = f"""setp.lt.u32 %p1, %r0, 5; bar.red.popc.u32 %r9, 0, %p1; bar.red.and.pred %p2, 0, %p1;
    bar.red.or.pred %p3, 0, 96, %p1; @%p2 add.u32 %r9, %r9, 100; @%p3 add.u32 %r9, %r9, 1000; {STORE}"""
    out = torch.zeros(96, dtype=torch.int32)
    assert not run(body, out, out, threads=96).faults
    assert out.tolist() == [1005] * 96


def test_special_registers():
    names = ["tid.x", "tid.y", "tid.z", "ctaid.x", "ctaid.y", "ctaid.z", "ntid.y", "nctaid.y", "laneid", "lanemask_lt"]
    flat = """mov.u32 %r2, %tid.y; mov.u32 %r3, %tid.z; mov.u32 %r4, %ntid.x; mov.u32 %r5, %ntid.y;
    mad.lo.u32 %r2, %r3, %r5, %r2; mad.lo.u32 %r0, %r2, %r4, %r0;
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mov.u32 %r4, %nctaid.x; mad.lo.u32 %r2, %r3, %r4, %r2;
    mad.lo.u32 %r0, %r2, 30, %r0;"""
    block, grid = (5, 3, 2), (2, 3)
    for name in names:
        out = torch.zeros(180, dtype=torch.int32)
        report = Module(kernel(f"{flat} mov.u32 %r9, %{name}; {STORE}")).launch("k", grid, block, [out, out, 0], seed=4)
        assert not report.faults
        wanted = []
        for place in range(180):
            of_grid, thread = divmod(place, 30)
            x, y, z = thread % 5, thread // 5 % 3, thread // 15
            wanted.append({
                "tid.x": x, "tid.y": y, "tid.z": z, "ctaid.x": of_grid % 2, "ctaid.y": of_grid // 2, "ctaid.z": 0,
                "ntid.y": 3, "nctaid.y": 3, "laneid": thread, "lanemask_lt": (1 << thread) - 1,
            }[name])  # fmt: skip
        assert out.tolist() == wanted, name


def test_vectors_of_memory():
    """Loads and stores of several elements, with a part that is not wanted, and of narrow ones."""
    a, out = numbers(256), torch.zeros(256, dtype=torch.int32)
    place = "mad.wide.u32 %rd2, %r0, 16, %rd0; mad.wide.u32 %rd3, %r0, 16, %rd1;"
    moves = {
        "ld.global.L1::evict_last.v4.b32 {%r2, _, %r4, %r5}, [%rd2]; st.global.v4.b32 [%rd3], {%r5, %r4, 7, %r2};":
            lambda x: x[:, [3, 2, 0, 0]] * torch.tensor([1, 1, 0, 1]) + torch.tensor([0, 0, 7, 0]),
        "ld.global.nc.v2.b64 {%rd4, %rd5}, [%rd2]; st.global.v2.b64 [%rd3], {%rd5, %rd4};":
            lambda x: x[:, [2, 3, 0, 1]],
        ".reg .b128 %q; ld.global.b128 %q, [%rd2]; st.global.b128 [%rd3], %q;": lambda x: x,
        "ld.global.s8 %r2, [%rd2]; st.global.u32 [%rd3+4], %r2; ld.global.u8 %r2, [%rd2]; st.global.u16 [%rd3+8], %r2;":
            lambda x: torch.stack([x[:, 0] * 0, x[:, 0].to(torch.int8).int(), x[:, 0], x[:, 0] * 0], 1),
    }  # fmt: skip
    for move, function in moves.items():
        out.zero_()
        assert not run(place + move, a, out, threads=64).faults
        assert torch.equal(out.view(64, 4), function(a.view(64, 4)).int()), move


def test_generic_addresses():
    """The same instructions on global, shared and local memory."""
    body = f""".shared .align 8 .b32 x[32]; .local .align 8 .b8 y[16]; {LOAD}
    mov.u64 %rd4, x; cvta.shared.u64 %rd4, %rd4; mad.wide.u32 %rd4, %r0, 4, %rd4; st.u32 [%rd4], %r8;
    mov.u64 %rd5, y; cvta.local.u64 %rd6, %rd5; ld.u32 %r2, [%rd4]; st.u32 [%rd6+8], %r2; ld.local.u32 %r9, [%rd5+8];
    cvta.to.shared.u64 %rd7, %rd4; cvt.u32.u64 %r3, %rd7; ld.shared.u32 %r4, [%r3]; add.u32 %r9, %r9, %r4;
    isspacep.shared %p1, %rd4; isspacep.global %p2, %rd0; isspacep.local %p3, %rd0;
    @%p1 add.u32 %r9, %r9, 100; @%p2 add.u32 %r9, %r9, 1000; @%p3 add.u32 %r9, %r9, 10000;
    mad.wide.u32 %rd3, %r0, 4, %rd1; st.u32 [%rd3], %r9;"""
    a, out = numbers(32), torch.zeros(32, dtype=torch.int32)
    assert not run(body, a, out).faults
    assert torch.equal(out, 2 * a + 1100)
    mixed = f""".shared .b32 x[32]; {LOAD} mov.u64 %rd4, x; cvta.shared.u64 %rd4, %rd4; mad.wide.u32 %rd4, %r0, 4, %rd4;
    mul.lo.u32 %r3, %r8, 5; st.u32 [%rd4], %r3; and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 1;
    selp.b64 %rd5, %rd4, %rd2, %p1; ld.u32 %r9, [%rd5]; {STORE}"""
    assert not run(mixed, a, out).faults
    assert torch.equal(out, a * (1 + 4 * (a % 2)))


def test_variables_and_parameters():
    outside = """.global .align 4 .u32 counter = 5; .const .align 4 .b32 table[4] = {10, 20, 0x1e, 40};
    .global .align 8 .f64 real = 0d3FF8000000000000; .extern .shared .align 16 .b8 dynamic[];"""
    body = f"""and.b32 %r2, %r0, 3; mul.wide.u32 %rd4, %r2, 4; mov.u64 %rd5, table; add.s64 %rd4, %rd4, %rd5;
    ld.const.u32 %r9, [%rd4]; ld.global.u32 %r3, [counter]; add.u32 %r9, %r9, %r3; ld.const.u32 %r3, [table+8];
    add.u32 %r9, %r9, %r3; mov.u32 %r4, dynamic; st.shared.u8 [%r4+{{}}], 1; {STORE}"""
    out = torch.zeros(32, dtype=torch.int32)
    report = run(body.format(99), out, out, outside=outside, shared=100)
    assert not report.faults
    assert out.tolist() == [[10, 20, 30, 40][t % 4] + 35 for t in range(32)]
    assert run(body.format(100), out, out, outside=outside, shared=100).kinds == {"bounds"}
    text = """.version 8.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u8 a, .param .align 8 .b8 record[24], .param .u64 out) .maxntid 64
{ .reg .b32 %r<8>; .reg .b64 %rd<4>;
ld.param.u8 %r1, [a]; ld.param.v2.u32 {%r2, %r3}, [record+8]; ld.param.s8 %r4, [record+16]; ld.param.u64 %rd1, [out];
st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; ret; }"""
    record = np.array([1, 2, 3, 4, 0xFE, 0], "u4").tobytes()
    out = torch.zeros(4, dtype=torch.int32)
    module = Module(text)
    assert module.sizes("k") == [1, 24, 8]
    assert module.kernels == ["k"]
    assert not module.launch("k", [1], [1], [200, record, out]).faults
    assert out.tolist() == [200, 3, 4, -2]
    assert module.launch("k", [1], [65], [200, record, out]).kinds == {"launch"}


def test_names_in_braces():
    """The same names in several blocks of inline assembly."""
    part = """{ .reg .b32 t; .reg .pred done; mov.u32 t, 0;
    W: add.u32 t, t, 1; setp.eq.u32 done, t, %r0; @!done bra.uni W; add.u32 %r9, %r9, t; }"""
    body = f"setp.eq.u32 %p1, %r0, 0; @%p1 ret; mov.u32 %r9, 0; {part} {part} {STORE}"
    out = torch.zeros(32, dtype=torch.int32)
    assert not run(body, out, out).faults
    assert out.tolist() == [2 * t for t in range(32)]


def test_atomics():
    body = f""".shared .b32 x[4]; setp.lt.u32 %p1, %r0, 4; shl.b32 %r2, %r0, 2; mov.u32 %r3, x; add.u32 %r4, %r3, %r2;
    @%p1 st.shared.u32 [%r4], 0; bar.sync 0;
    atom.shared.add.u32 %r5, [x], 1; red.shared.max.u32 [x+4], %r0; atom.shared.inc.u32 %r6, [x+8], 9;
    red.shared.add.f32 [x+12], 0f3F800000; bar.sync 0;
    and.b32 %r6, %r0, 3; shl.b32 %r6, %r6, 2; add.u32 %r6, %r6, %r3; ld.shared.u32 %r9, [%r6]; {STORE}
    red.global.add.u32 [%rd0], 1;"""
    total, out = torch.zeros(1, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    for seed in SEEDS:
        report = Module(kernel(body)).launch("k", [1], [64], [total, out, 0], seed=seed)
        assert not report.faults
        assert out.view(-1, 4)[3].tolist() == [64, 63, 4, 0x42800000]
    assert total.item() == 64 * len(SEEDS)


def test_counts():
    """By class; sectors of global memory; passes over the banks of shared memory."""
    a, out = numbers(32 * 32), torch.zeros(32 * 32, dtype=torch.int32)
    both = CHECK_FAULTS | COUNT_TRAFFIC

    def traffic(stride: int):
        body = f""".shared .b32 x[1024]; mul.lo.u32 %r2, %r0, {4 * stride}; mad.wide.u32 %rd4, %r2, 1, %rd0;
        ld.global.u32 %r3, [%rd4]; mov.u32 %r4, x; add.u32 %r4, %r4, %r2; st.shared.u32 [%r4], %r3;"""
        return run(body, a, out, check=both).counts

    wanted = {1: (4, 1), 2: (8, 2), 8: (32, 8), 32: (32, 32)}
    for stride, (sectors, wavefronts) in wanted.items():
        counts = traffic(stride)
        assert (counts["global_sectors"], counts["shared_wavefronts"]) == (sectors, wavefronts)
        assert counts["bank_conflicts"] == wavefronts - 1
        assert counts["global"] == counts["shared"] == 1
        assert counts["param"] == 3
    wide = """.shared .align 16 .b32 x[128]; shl.b32 %r2, %r0, 4; mov.u32 %r3, x; add.u32 %r2, %r2, %r3;
    st.shared.v4.u32 [%r2], {%r0, %r0, %r0, %r0};"""
    counts = run(wide, a, out, check=both).counts
    assert (counts["shared_wavefronts"], counts["bank_conflicts"], counts["shared_bytes"]) == (4, 0, 512)
