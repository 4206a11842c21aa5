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


def test_another_number_of_examples_or_row_offset(request, tmp_path):
    """Of the same padded width: nothing. Of another width: no more than at first."""
    environment = dict(
        TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=str(request.config.rootpath)
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | environment, cwd=request.config.rootpath, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [list(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(rows) == len(CASES)
    for name, (first, same, narrower, same_again, row_offsets) in zip(CASES, rows, strict=True):
        assert 0 < narrower <= first, name
        assert (same, same_again, row_offsets) == (0, 0, 0), name
