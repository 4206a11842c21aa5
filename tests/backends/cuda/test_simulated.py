"""Builds the CUDA kernels for the CPU with `tests/simt`, and runs their tests in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.simt import build

ROOT = Path(__file__).resolve().parents[3]
CUDA = ROOT / "csrc" / "cuda"
TORCH = Path(torch.__file__).parent
SHARED = (
    "test_ops.py",
    "test_mixture.py",
    "test_functional.py",
    "test_autograd.py",
    "test_special_values.py",
    "test_second_order.py",
)

pytestmark = pytest.mark.skipif(
    not CUDA.is_dir() or build.find_compiler() is None, reason="there is no C++ compiler, or no source"
)


@pytest.fixture(scope="session")
def library() -> Path:
    """All kernels and operators in one library; compiled once, kept in build/simt."""
    folder = ROOT / "build" / "simt"
    return build.compile(
        [*sorted(CUDA.rglob("*.cu")), CUDA / "operators.cpp"],
        [CUDA.parent],
        folder / "multimix_cuda_simt.so",
        defines=["MULTIMIX_SIMT", "MULTIMIX_SCRATCH_BYTES=65536", "TORCH_TARGET_VERSION=0x020a000000000000"],
        extra=["-isystem", str(TORCH / "include"), "-fvisibility=hidden"],
        link=[f"-L{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu"],
        cache=folder,
    )


def run(library: Path, *arguments: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = dict(
        os.environ, MULTIMIX_CUDA_SIMT=str(library), MULTIMIX_TESTED_BACKEND="cuda", OMP_NUM_THREADS="1", **environment
    )
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_kernels(library):
    run(library, str(Path(__file__).with_name("simulated.py")))


def test_kernels_in_another_order_of_threads(library):
    run(
        library, str(Path(__file__).with_name("simulated.py")), "-k", "super_blocks or strides", MULTIMIX_SIMT_ORDER="7"
    )


def test_kernels_as_inexact_as_a_gpu(library):
    """Approximate functions are off by their bounds, and products of matrices truncate."""
    run(
        library,
        str(Path(__file__).with_name("simulated.py")),
        "-k",
        "long_sums or many_weights",
        MULTIMIX_SIMT_ERRORS="1",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_test_of_every_backend(library, name):
    run(library, str(ROOT / "tests" / name), "-k", "cuda")
