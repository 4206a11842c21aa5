"""Compiles the CUDA backend by nvcc, and runs its tests on the machine that executes PTX, in processes of their own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.ptx import machine
from tests.ptx.cuda import build

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


class Running(NamedTuple):
    process: subprocess.Popen
    output: IO[str]


def start(target: str, *arguments: str, **environment: str) -> Running:
    """Tests on the machine for a target."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.ptx.cuda.plugin"]
    environment = os.environ | {
        "MULTIMIX_PTX_TARGET": target, "MULTIMIX_TESTED_BACKEND": "cuda", "OMP_NUM_THREADS": "1", **environment,
    }  # fmt: skip
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        [*command, *arguments], env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
    )
    return Running(process, output)


def finish(running: Running) -> None:
    code = running.process.wait(3600)
    running.output.seek(0)
    said = running.output.read()
    assert code == 0, said[-8000:]
    assert " passed" in said


@pytest.fixture(scope="module", autouse=True)
def library() -> Path:
    return build.build(machine.build())


@pytest.fixture(scope="module")
def running(library):
    """Every test, for every target at the same time."""
    found = {target: start(target, str(KERNELS), "-m", "") for target in build.TARGETS}
    yield found
    for one in found.values():
        one.process.kill()


@pytest.mark.parametrize("target", build.TARGETS)
def test_kernels(running, target):
    finish(running[target])


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "7"])
def test_other_orders_of_blocks_and_warps(seed):
    """With approximate functions as inexact as they may be."""
    finish(start("sm_90a", str(KERNELS), MULTIMIX_PTX_SEED=seed, MULTIMIX_PTX_ERROR="1"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(name):
    finish(start("sm_80", str(ROOT / "tests" / name), "-k", "cuda"))
