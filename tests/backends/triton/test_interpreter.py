"""Runs `interpreted.py` in Triton's interpreter, which is chosen when Triton is imported: in a process of its own."""

import importlib.metadata
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
    triton, numpy = (tuple(map(int, importlib.metadata.version(x).split(".")[:2])) for x in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 needs a NumPy before 2.4; compiled kernels do not")
    environment = dict(os.environ, TRITON_INTERPRET="1", MULTIMIX_TESTED_BACKEND="triton", OMP_NUM_THREADS="2")
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
