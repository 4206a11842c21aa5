"""Runs `interpreted.py` in Triton's interpreter, which is chosen when Triton is imported: in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)


def test_kernels_in_the_interpreter(request):
    environment = dict(os.environ, TRITON_INTERPRET="1", OMP_NUM_THREADS="2")
    tests = Path(__file__).with_name("interpreted.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::RuntimeWarning",
        str(tests),
    ]
    run = subprocess.run(
        command, env=environment, cwd=request.config.rootpath, capture_output=True, text=True, timeout=900
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
