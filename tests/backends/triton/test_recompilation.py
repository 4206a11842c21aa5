"""What is compiled once is not compiled again: on a driver that compiles nothing, and counts what would have been."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
# Mini-batches of two padded widths: the last one of an epoch, then smaller ones.
STAGES = (128,), (128, 127, 126, 112, 65), (40,), (33, 48, 63, 64)
CASES = "cifar100-r18", "imagenet-r50", "dense-cifar100", "sample_dirichlet"
SCRIPT = f"""
from tests.ptx.launches import compilations, in_fresh_processes
for counts in in_fresh_processes(compilations, ((name, {STAGES}) for name in {CASES})):
    print(*counts)
"""


ROWS = """
import torch
import multimix_kernels as mk
from tests.ptx.triton_driver import Recorder, virtual_gpu
x, y = torch.zeros(128, 100, requires_grad=True), torch.arange(128) % 100
with virtual_gpu(90, Recorder(), programs=132) as gpu:
    for n in (1008, 999):
        mk.mixed_cross_entropy(x, y, n=n, seed=1, reduction="none", backend="triton").backward(torch.ones(n))
        mk.multimix(x, n=n, seed=1, backend="triton").embeddings.backward(torch.ones(n, 100))
        print(len(gpu.kernels))
"""


@pytest.fixture
def printed(request, tmp_path):
    """Lines of numbers that a script prints, in a process of its own."""

    def run(script):
        environment = dict(
            TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(request.config.rootpath)
        )  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | environment, cwd=request.config.rootpath,
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [list(map(int, line.split())) for line in done.stdout.splitlines()]

    return run


def test_another_number_of_examples_or_row_offset(printed):
    """Of the same padded width: nothing. Of another width: no more than at first."""
    for name, counts in zip(CASES, printed(SCRIPT), strict=True):
        first, same, narrower, same_again, row_offsets = counts
        assert 0 < narrower <= first, name
        assert (same, same_again, row_offsets) == (0, 0, 0), name


def test_another_number_of_rows(printed):
    """As in the last chunk of a head's rows."""
    (first,), (second,) = printed(ROWS)
    assert first == second > 0
