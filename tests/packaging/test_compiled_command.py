"""`python -m benchmarks.compiled` runs the report that is named, and imports no other."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.compiled", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments", [(), ("nothing",)])
def test_unknown_report(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "triton | cuda | model" in done.stderr


def test_the_cuda_report_needs_neither_torch_nor_triton():
    code = "import sys; from benchmarks.compiled import cuda_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert "python -m benchmarks.compiled cuda" in run("cuda", "-h").stdout
