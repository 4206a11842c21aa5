"""Runs the kernels as they are compiled for sm_80 and sm_90, on a virtual GPU, in processes of their own.

Most of the time is Triton's, which compiles each kernel; build/ptx/triton keeps what it made.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from ...ptx import machine
from ...support import beside

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed"),
    pytest.mark.skipif(machine.find_compiler() is None, reason="there is no C++ compiler"),
]
ROOT = Path(__file__).resolve().parents[3]
ARCHITECTURES = ("80", "90")


COMPILED = str(Path(__file__).with_name("compiled.py"))


def run(architecture: str, *arguments: str, seconds: int = 3600, **environment: str) -> None:
    own = dict(
        MULTIMIX_TESTED_BACKEND="triton", MULTIMIX_VIRTUAL_GPU=architecture,
        TRITON_CACHE_DIR=str(ROOT / "build" / "ptx" / "triton"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    beside.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], ROOT, own | environment, seconds
    )


@pytest.mark.beside(run, "80", COMPILED, "-k", "every_kernel")
def test_every_kernel_for_sm_80(beside):
    beside()


@pytest.mark.beside(run, "90", COMPILED, "-k", "every_kernel")
def test_every_kernel_for_sm_90(beside):
    beside()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything(architecture):
    run(architecture, COMPILED, "-m", "", seconds=6 * 3600)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["2", "3"])
def test_other_orders_of_blocks_and_warps(order):
    run("90", COMPILED, "-k", "every_kernel", MULTIMIX_VIRTUAL_ORDER=order)
