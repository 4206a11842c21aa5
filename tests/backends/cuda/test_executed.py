"""Compiles the CUDA backend by nvcc, and runs its tests on the machine that executes PTX, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ptx import machine
from tests.ptx.cuda import build

from .selection import FAST

ROOT = Path(__file__).resolve().parents[3]
KERNELS = Path(__file__).with_name("executed.py")
SHARED = (
    "test_ops.py",
    "test_mixture.py",
    "test_functional.py",
    "test_autograd.py",
    "test_special_values.py",
    "test_second_order.py",
)

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=f"the CUDA kernels: {build.missing()}")


def start(target: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """Tests on the machine for a target; the output is what `finish` reads."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.ptx.cuda.plugin"]
    environment = os.environ | {
        "MULTIMIX_PTX_TARGET": target, "MULTIMIX_TESTED_BACKEND": "cuda", "OMP_NUM_THREADS": "1", **environment,
    }  # fmt: skip
    return subprocess.Popen(
        [*command, *arguments], env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, said[-8000:]
    assert " passed" in said


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    return build.build(machine.build())


@pytest.fixture(scope="module")
def fast(library):
    """The fast selection for every target, at the same time."""
    running = {target: start(target, *(f"{KERNELS}::{name}" for name in FAST)) for target in build.TARGETS}
    yield running
    for process in running.values():
        process.kill()


@pytest.mark.parametrize("target", build.TARGETS)
def test_kernels(fast, target):
    finish(fast[target])


@pytest.mark.slow
@pytest.mark.parametrize("target", build.TARGETS)
def test_everything(target):
    finish(start(target, str(KERNELS), "-m", ""))


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "7"])
def test_other_orders_of_blocks_and_warps(seed):
    """With approximate functions as inexact as they may be."""
    finish(start("sm_90a", str(KERNELS), MULTIMIX_PTX_SEED=seed, MULTIMIX_PTX_ERROR="1"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(name):
    finish(start("sm_80", str(ROOT / "tests" / name), "-k", "cuda"))
