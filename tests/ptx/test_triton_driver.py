"""The driver that only notes launches: what the host does for a call of the library, without a GPU or a compiler."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
SCRIPT = """
import torch
import multimix_kernels as mk
from tests.ptx.triton_driver import Recorder, virtual_gpu

with virtual_gpu(90, Recorder(), programs=132) as found:
    for _ in range(2):
        first = len(found.launches)
        mk.mixed_cross_entropy(torch.randn(64, 10), torch.arange(64) % 10, n=1000, seed=1, backend="triton")
    launches = found.launches[first:]
assert all(x.seconds < y.seconds for x, y in zip(launches, launches[1:]))
print(*(f"{launch.kernel}{launch.grid}" for launch in launches), sep="; ")
assert not mk.available_backends()["triton"]
"""


def test_launches_are_recorded(request):
    """In a process of its own, as one that compiled kernels keeps them."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=dict(os.environ, TRITON_INTERPRET="0", PYTHONPATH=str(request.config.rootpath)),
        cwd=request.config.rootpath, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = [launch.split("(")[0] for launch in done.stdout.strip().split("; ")]
    assert kernels == ["mixed_small_kernel", "finish_kernel"]
    assert "mixed_small_kernel(63, 1, 1)" in done.stdout
