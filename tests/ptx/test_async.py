"""cp.async: sizes, zeros beyond the source, groups; and what must be reported, each beside its right twin."""

import numpy as np
import pytest

from . import written

ZEROS = "mov.b32 %r9, 0; st.shared.v4.b32 [%r1], {%r9,%r9,%r9,%r9};"
START = "shl.b32 %r1, %r0, 4; mul.wide.u32 %rd4, %r0, 16; add.s64 %rd4, %rd0, %rd4;"
COPY = "cp.async.cg.shared.global [%r1], [%rd4], 16;"
COMMIT, WAIT, BARRIER = "cp.async.commit_group;", "cp.async.wait_group 0;", "bar.sync 0;"
OWN = "ld.shared.v4.b32 {%r4,%r5,%r6,%r7}, [%r1];"
# Of the lane beside it.
OTHER = "xor.b32 %r2, %r1, 16; ld.shared.v4.b32 {%r4,%r5,%r6,%r7}, [%r2];"
STORE = "mul.wide.u32 %rd5, %r0, 16; add.s64 %rd5, %rd1, %rd5; st.global.v4.b32 [%rd5], {%r4,%r5,%r6,%r7};"


def run(*parts: str, threads: int = 64, **options):
    """What the threads stored, and the report."""
    source = np.arange(1, 4 * threads + 1, dtype=np.uint32).reshape(threads, 4)
    out = np.zeros_like(source)
    text = written.kernel("\n".join((START, *parts)), pointers=2, shared=32 * threads)
    return source, out, written.run(text, source, out, threads=threads, **options)


@pytest.mark.parametrize("wait", [(COMMIT, WAIT), ("cp.async.wait_all;",), (COMMIT, COMMIT, "cp.async.wait_group 1;")])
def test_copies(wait):
    source, out, report = run(COPY, *wait, OWN, STORE)
    assert not report.faults
    assert np.array_equal(out, source)
    source, out, report = run(COPY, *wait, BARRIER, OTHER, STORE)
    assert not report.faults
    assert np.array_equal(out, source.reshape(-1, 2, 4)[:, ::-1].reshape(-1, 4))


@pytest.mark.parametrize(("size", "read"), [(16, 16), (16, 12), (16, 1), (16, 0), (8, 5), (8, 8), (4, 4), (4, 0)])
def test_zeros_beyond_the_source(size, read):
    cache = "cg" if size == 16 else "ca"
    copy = f"mov.b32 %r3, {read}; cp.async.{cache}.shared.global [%r1], [%rd4], {size}, %r3;"
    source, out, report = run(ZEROS, copy, COMMIT, WAIT, OWN, STORE)
    wanted = source.copy()
    wanted.view(np.uint8).reshape(-1, 16)[:, read:] = 0
    assert not report.faults
    assert np.array_equal(out, wanted)


def test_lanes_that_copy_nothing():
    """Groups are counted by lane."""
    half = "and.b32 %r8, %r0, 1; setp.eq.u32 %p1, %r8, 0;"
    source, out, report = run(half, ZEROS, "@%p1 " + COPY, "@%p1 " + COMMIT, WAIT, OWN, STORE)
    source[1::2] = 0
    assert not report.faults
    assert np.array_equal(out, source)


FAULTS = {
    "read without a wait": ((COPY, COMMIT, OWN, STORE), "asynchronous"),
    "in no group": ((COPY, WAIT, OWN, STORE), "asynchronous"),
    "wait for an older group": ((COPY, COMMIT, "cp.async.wait_group 1;", OWN, STORE), "asynchronous"),
    "read by another without a wait": ((COPY, COMMIT, BARRIER, OTHER, STORE), "asynchronous"),
    "read by another without a barrier": ((COPY, COMMIT, WAIT, OTHER, STORE), "race"),
    "barrier before the wait": ((COPY, COMMIT, BARRIER, WAIT, OTHER, STORE), "race"),
    "overwritten meanwhile": ((COPY, COMMIT, "st.shared.b32 [%r1], %r0;", WAIT, OWN, STORE), "asynchronous"),
    "into what others still read": (
        (ZEROS, BARRIER, OTHER, COPY, COMMIT, BARRIER, WAIT), "race"
    ),
    "copied over meanwhile": ((COPY, COMMIT, COPY, COMMIT, WAIT, OWN, STORE), "asynchronous"),
    "outside the source": (("add.s64 %rd4, %rd4, 1024;", COPY, COMMIT, WAIT), "bounds"),
    "outside shared memory": (("add.u32 %r1, %r1, 2048;", COPY, COMMIT, WAIT), "bounds"),
    "misaligned source": (("add.s64 %rd4, %rd4, 4;", COPY, COMMIT, WAIT), "alignment"),
    "misaligned destination": (("add.u32 %r1, %r1, 8;", COPY, COMMIT, WAIT), "alignment"),
    "more read than copied": (
        ("mov.b32 %r3, 20; cp.async.cg.shared.global [%r1], [%rd4], 16, %r3;", COMMIT, WAIT), "size of a copy"
    ),
}  # fmt: skip


def test_into_what_others_have_read():
    """The right twin."""
    _, _, report = run(ZEROS, BARRIER, OTHER, BARRIER, COPY, COMMIT, WAIT)
    assert not report.faults


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    parts, kind = FAULTS[name]
    _, _, report = run(*parts)
    assert kind in " ".join(report.kinds), report.faults
