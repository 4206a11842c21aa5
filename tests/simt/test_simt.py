"""The harness that runs CUDA kernels on the CPU: each planted fault is reported, and its corrected twin is not."""

import ctypes
import re

import pytest

from tests.simt.build import find_compiler
from tests.simt.conftest import HERE

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

# What is said of each fault, as a regular expression.
FAULTS = {
    "race_between_warps": r"race in a block: (read|write) of 4 bytes at shared \+ \d+ .*with no barrier between",
    "race_after_reading": r"race in a block: (read|write) of 4 bytes at shared \+ \d+ .*with no barrier between",
    "race_of_the_last_reader": r"race in a block: write of 4 bytes at shared \+ 0 .* read with no barrier between",
    "race_within_a_warp": r"race in a block: (read|write) of 4 bytes at shared .*with no __syncwarp or barrier between",
    "race_across_a_shuffle": r"race in a block: (read|write) .*no __syncwarp or barrier",
    "race_with_the_other_half": r"race in a block: (read|write) .*no __syncwarp or barrier",
    "race_of_a_word_and_its_half": r"race in a block: (read of 2|write of 4) bytes at shared .* no barrier between",
    "race_of_a_half_and_its_word": r"race in a block: (read of 4|write of 2) bytes at shared .* no barrier between",
    "race_of_a_word_that_was_halves": r"race in a block: (read|write) of 4 bytes at shared .* no barrier between",
    "race_of_halves": r"race in a block: write of 2 bytes at shared \+ 64 .* no __syncwarp or barrier between",
    "race_in_global_memory": r"race in a block: (read|write) of 4 bytes at 'output' \+ \d+ \(1024 bytes\)",
    "race_between_blocks": r"block \(1, 0, 0\), thread 0: race between blocks: write of 4 bytes at 'output' \+ 0",
    "block_reads_what_another_wrote": r"block \(1, 0, 0\), .*race between blocks: read .*'output' \+ 0 .*wrote",
    "block_writes_what_another_read": r"race between blocks: write of 4 bytes at 'count' \+ 0 .*another block read",
    "plain_beside_atomic": r"race in a block: (write|atomic access) of 4 bytes at 'count' \+ 0",
    "reads_past_the_end": r"thread 86: out-of-bounds read of 4 bytes at 'input' \+ 1032 \(1024 bytes\)",
    "writes_before_the_start": r"thread 0: out-of-bounds write of 4 bytes at 'output' - 4 \(1024 bytes\)",
    "writes_read_only": r"read-only memory: write of 4 bytes at 'input' \+ 0",
    "reads_past_shared": r"thread 124: out-of-bounds read of 4 bytes at shared \+ 1024 \(1024 bytes\)",
    "writes_past_shared": r"thread 127: out-of-bounds write of 4 bytes at shared \+ 1024 \(1024 bytes\)",
    "reads_unwritten_shared": r"thread 77: uninitialised memory: read of 4 bytes at shared \+ 308",
    "reads_unwritten_global": r"uninitialised memory: read of 4 bytes at 'output' \+ 0",
    "reads_shared_of_another_block": r"block \(1, 0, 0\), thread 0: uninitialised memory: read .*shared \+ 0",
    "barrier_in_a_branch": r"barrier not reached by all threads: thread 0 is at __syncthreads \(faults.cu:\d+\), "
    r"thread 64 has exited",
    "two_barriers": r"barrier not reached by all threads: .* \(faults.cu:\d+\), thread 64 at __syncthreads \(faults.cu",
    "copy_without_wait": r"copy_async under way: read of 4 bytes at shared \+ \d+ .*before wait_copies",
    "copy_without_barrier": r"race in a block: read of 4 bytes at shared|copy_async under way",
    "copy_of_a_later_group": r"copy_async under way: read of 4 bytes at shared \+ 512",
    "copy_to_a_crooked_address": r"misaligned destination of copy_async: shared \+ 12",
    "divergent_shuffle": r"divergent warp operation: thread 0 waits at __shfl_xor_sync \(faults.cu:\d+\) for lane 1, "
    r"which is at __syncwarp \(faults.cu:\d+\)",
    "shuffle_after_exit": r"divergent warp operation: .*__shfl_xor_sync .* for lane 9, which has exited",
    "crooked_matrix": r"misaligned row of load_matrices, lane 0: shared \+ 8",
    "matrix_before_syncwarp": r"race in a block: read of 4 bytes at shared .*no __syncwarp or barrier",
    "crooked_vector": r"misaligned (access|read of \d+ bytes) at 'input' \+ 4",
    "crooked_double": r"misaligned (access|read of \d+ bytes) at 'input' \+ 4",
    "unrounded_tf32": r"mma_16x8x8 \(faults.cu:\d+\): an operand of lane \d+ is no TF32 number",
    "reads_a_structure_past_the_end": r"out-of-bounds read of (4|32) bytes at 'input' \+ (996|1024) ",
    "copies_bytes_past_the_end": r"out-of-bounds read of 12 bytes at 'input' \+ 1016 ",
    "copies_unwritten_bytes": r"uninitialised memory: read of 16 bytes at 'output' \+ 0",
    "reads_anothers_variable": r"thread 1: out-of-bounds read of 4 bytes at 0x.*another thread's stack",
    "reads_the_host": r"out-of-bounds read of 4 bytes at 0x\w+ \(in no buffer\)",
    "reads_a_variable_of_the_program": r"out-of-bounds read of 4 bytes at 0x\w+ \(in no buffer\)|at '\w+' [+-]",
    "reads_null": r"out-of-bounds read of 4 bytes at 0x0 \(near null\)",
    "throws": r"thread 0: exception: no such thing",
}


SOURCES = ["faults.cu", "races.cu"]
CLANG_MISSES = {"crooked_vector"}  # it checks no addresses of whole structures
cases = [name for name in FAULTS if name not in CLANG_MISSES or "clang" not in str(find_compiler())]


@pytest.fixture(scope="module")
def library_path(build):
    return build(SOURCES, "faults.so")


def load(path):
    library = ctypes.CDLL(str(path))
    for function in (library.run_case, library.case_names, library.run_with):
        function.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def library(library_path):
    return load(library_path)


def test_every_case_is_expected(library):
    assert set(library.case_names().decode().split()) == set(FAULTS)


@pytest.mark.parametrize("name", cases)
def test_fault_is_reported(library, name):
    error = library.run_case(name.encode(), 0).decode()
    assert error.startswith(f"kernel '{name}', block (")
    assert re.search(FAULTS[name], error), error


@pytest.mark.parametrize("name", FAULTS)
def test_corrected_kernel_passes(library, name):
    assert library.run_case(name.encode(), 1).decode() == ""


@pytest.mark.parametrize("order", ["reverse", "1"])
@pytest.mark.parametrize("name", cases)
def test_other_orders(library, monkeypatch, name, order):
    monkeypatch.setenv("MULTIMIX_SIMT_ORDER", order)
    assert library.run_case(name.encode(), 0).decode() != ""
    assert library.run_case(name.encode(), 1).decode() == ""


def test_reports_name_the_line(library):
    error = library.run_case(b"writes_past_shared", 0).decode()
    line = 1 + (HERE / "faults.cu").read_text().splitlines().index("  tile()[threadIdx.x * 2 + (right ? 1 : 2)] = 1;")
    assert f"faults.cu:{line}" in error or ".so + 0x" in error


def test_configuration(library):
    assert library.run_with(1024, 227 << 10).decode() == ""
    assert "1025 threads in a block: at most 1024" in library.run_with(1025, 0).decode()
    assert f"{(227 << 10) + 1} bytes of shared memory: at most 232448" in library.run_with(32, (227 << 10) + 1).decode()


def test_wrong_order_is_refused(library, monkeypatch):
    monkeypatch.setenv("MULTIMIX_SIMT_ORDER", "sideways")
    assert "MULTIMIX_SIMT_ORDER" in library.run_with(32, 0).decode()


def test_objects_are_kept(build, library_path):
    def times():
        return {path: path.stat().st_mtime_ns for path in (library_path.parent / "objects").glob("*.o")}

    before = times()
    build(SOURCES, "again.so")
    assert before == times()


@pytest.mark.slow
def test_portable_fibers(build):
    library = load(build(SOURCES, "portable.so", defines=["SIMT_PORTABLE_FIBERS"]))
    for name in cases:
        assert re.search(FAULTS[name], library.run_case(name.encode(), 0).decode())
        assert library.run_case(name.encode(), 1).decode() == ""
