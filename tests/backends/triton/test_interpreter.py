"""Runs the kernels in Triton's interpreter, which is chosen when Triton is imported: in processes of their own."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = (
    "special_values",
    "modules",
    "autograd",
    "functional_semantics",
    "mixture",
    "ops",
    "functional",
    "second_order",
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)


def run(folder: Path, *arguments: str, seconds: int = 900) -> None:
    triton, numpy = (tuple(map(int, importlib.metadata.version(x).split(".")[:2])) for x in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 needs a NumPy before 2.4; compiled kernels do not")
    environment = dict(os.environ, TRITON_INTERPRET="1", MULTIMIX_TESTED_BACKEND="triton", OMP_NUM_THREADS="2")
    quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_kernels_in_the_interpreter(request):
    run(request.config.rootpath, str(Path(__file__).with_name("interpreted.py")))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(request, name):
    run(request.config.rootpath, f"tests/test_{name}.py", "-k", "triton", seconds=3600)
