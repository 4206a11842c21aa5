"""Runs the kernels as they are compiled for sm_80 and sm_90, on a virtual GPU, in processes of their own.

Most of the time is Triton's, which compiles each kernel; build/ptx/triton keeps what it made.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ...ptx import machine

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed"),
    pytest.mark.skipif(machine.find_compiler() is None, reason="there is no C++ compiler"),
]
ARCHITECTURES = ("80", "90")


def run(folder: Path, architecture: str, *arguments: str, seconds: int = 3600, **environment: str) -> None:
    own = dict(
        MULTIMIX_TESTED_BACKEND="triton", MULTIMIX_VIRTUAL_GPU=architecture,
        TRITON_CACHE_DIR=str(folder / "build" / "ptx" / "triton"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env=dict(os.environ, **own, **environment), cwd=folder, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


COMPILED = str(Path(__file__).with_name("compiled.py"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel(request, architecture):
    run(request.config.rootpath, architecture, COMPILED, "-k", "every_kernel")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything(request, architecture):
    run(request.config.rootpath, architecture, COMPILED, "-m", "", seconds=6 * 3600)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["2", "3"])
def test_other_orders_of_blocks_and_warps(request, order):
    run(request.config.rootpath, "90", COMPILED, "-k", "every_kernel", MULTIMIX_VIRTUAL_ORDER=order)
