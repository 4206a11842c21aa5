"""Compiles the CUDA backend by nvcc, and runs its tests on the machine that executes PTX, in processes of their own."""

import sys
from pathlib import Path

import pytest

from ...ptx import machine
from ...ptx.cuda import build
from ...support import beside

ROOT = Path(__file__).resolve().parents[3]
KERNELS = Path(__file__).with_name("executed.py")
SHARED = (
    "test_ops.py",
    "test_mixture.py",
    "test_functional.py",
    "test_autograd.py",
    "test_special_values.py",
    "test_second_order.py",
    "test_functional_semantics.py",
    "test_compile.py",
    "test_schedules.py",
    "test_tracing.py",
)

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=f"the CUDA kernels: {build.missing()}")


def run(target: str, *arguments: str, **environment: str) -> None:
    """Tests on the machine for a target; the first builds the library."""
    build.build(machine.build())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.ptx.cuda.plugin"]
    own = dict(MULTIMIX_PTX_TARGET=target, MULTIMIX_TESTED_BACKEND="cuda", OMP_NUM_THREADS="1")
    beside.run([*command, *arguments], ROOT, own | environment)


@pytest.mark.beside(run, "sm_80", str(KERNELS), "-m", "")
def test_kernels_for_sm_80(beside):
    beside()


@pytest.mark.beside(run, "sm_90a", str(KERNELS), "-m", "")
def test_kernels_for_sm_90a(beside):
    beside()


@pytest.mark.beside(run, "sm_90a", str(KERNELS.with_name("launching.py")))
def test_launches(beside):
    beside()


def run_inexact(*arguments: str) -> None:
    """With approximate functions as inexact as they may be."""
    run("sm_90a", str(KERNELS), *arguments, MULTIMIX_PTX_ERROR="1")


@pytest.mark.beside(run_inexact, "-k", "long_sums or many_weights")
def test_kernels_as_inexact_as_a_gpu(beside):
    beside()


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "7"])
def test_other_orders_of_blocks_and_warps(seed):
    """With approximate functions as inexact as they may be."""
    run("sm_90a", str(KERNELS), MULTIMIX_PTX_SEED=seed, MULTIMIX_PTX_ERROR="1")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(name):
    run("sm_80", str(ROOT / "tests" / name), "-k", "cuda")
