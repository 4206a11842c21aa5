"""The machine sees what orders memory: most barriers, waits and fences of the compiled kernels, when left out."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import machine
from .cuda.build import missing
from .mutations import Mutant, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(machine.find_compiler() is None, reason="there is no C++ compiler"),
]
# The least part of the mutants reached that is noticed, and why others do no harm.
EXPLAINED = {
    "bar.sync": (0.5, "of two at the ends of a loop's round one does where buffers alternate or there is one round"),
    "bar.warp.sync": (0.45, "lanes that read after the last round, or that a shuffle or a barrier of the block orders"),
    "cp.async.commit_group": (0.3, "groups that are waited for together may as well be one"),
    "cp.async.wait_group": (0.6, "nothing is read until the next, or nothing was copied"),
    "fence.proxy": (0.8, "nothing was written since the one before"),
    "wgmma.fence": (0.65, "the product is the first to use its accumulators, and there was a fence in the kernel"),
    "wgmma.commit_group": (0.8, "the next group is waited for before the results are read"),
    "wgmma.wait_group": (0.8, "the next wait comes before the results are read or operands overwritten"),
}


def run(folder: Path, file: Path, tests: str, *arguments: str, **environment: str) -> list[Mutant]:
    """Mutants under the tests of a file, which run in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(tests))]
    environment |= dict(MULTIMIX_MUTANTS=str(file), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [*command, *arguments], env=os.environ | environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return [Mutant(**json.loads(line)) for line in file.read_text().splitlines()]


def check(found: list[Mutant]) -> None:
    """Of each instruction enough."""
    print(table(found))
    reached = [mutant for mutant in found if mutant.reached]
    assert {mutant.instruction for mutant in reached} <= EXPLAINED.keys()
    for name, (least, reason) in EXPLAINED.items():
        seen = [bool(mutant.noticed) for mutant in reached if mutant.instruction == name]
        unnoticed = "\n".join(str(m) for m in reached if m.instruction == name and not m.noticed)
        assert not seen or sum(seen) >= least * len(seen), f"{reason}?\n{unnoticed}"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_triton(request, tmp_path, architecture):
    root = request.config.rootpath
    found = run(
        root, tmp_path / "mutants", "mutated_triton.py", "-k", "every_kernel and (bf16 or tf32)",
        MULTIMIX_TESTED_BACKEND="triton", MULTIMIX_VIRTUAL_GPU=architecture,
        TRITON_CACHE_DIR=str(root / "build" / "ptx" / "triton"),
    )  # fmt: skip
    assert len(found) > 500
    check(found)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_cuda(request, tmp_path, target):
    found = run(
        request.config.rootpath, tmp_path / "mutants", "mutated_cuda.py", "-k", "several_super_blocks",
        MULTIMIX_TESTED_BACKEND="cuda", MULTIMIX_PTX_TARGET=target,
    )  # fmt: skip
    assert len(found) > 300
    check(found)
