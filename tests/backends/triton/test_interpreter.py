"""Runs the kernels in Triton's interpreter, which is chosen when Triton is imported: in processes of their own."""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from ...support import beside

ROOT = Path(__file__).resolve().parents[3]
SHARED = (
    "special_values",
    "modules",
    "autograd",
    "functional_semantics",
    "mixture",
    "ops",
    "functional",
    "second_order",
    "compile",
    "schedules",
    "tracing",
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)


def run(*arguments: str, seconds: int = 1800) -> None:
    triton, numpy = (tuple(map(int, importlib.metadata.version(x).split(".")[:2])) for x in ("triton", "numpy"))
    if triton < (3, 7) and numpy >= (2, 4):
        pytest.skip("the interpreter of Triton 3.6 needs a NumPy before 2.4; compiled kernels do not")
    environment = dict(TRITON_INTERPRET="1", MULTIMIX_TESTED_BACKEND="triton", OMP_NUM_THREADS="2")
    quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::RuntimeWarning")
    beside.run([sys.executable, "-m", "pytest", *quiet, *arguments], ROOT, environment, seconds)


@pytest.mark.beside(run, str(Path(__file__).with_name("interpreted.py")))
def test_kernels_in_the_interpreter(beside):
    beside()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(name):
    run(f"tests/test_{name}.py", "-k", "triton", seconds=3600)
