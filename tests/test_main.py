"""`python -m multimix_kernels`."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import multimix_kernels as mk

ROOT = Path(mk.__file__).parents[1]


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120)


def test_names_every_backend_and_why_it_is_missing():
    done = run("-m", "multimix_kernels")
    assert done.returncode == 0, done.stderr
    assert mk.__version__ in done.stdout
    assert torch.__version__ in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    for name, found in mk.available_backends().items():
        assert (found.reason or "available (") in lines[name]


def test_public_names():
    assert all(hasattr(mk, name) for name in mk.__all__)
    assert set(mk.__all__) == {name for name in mk.__all__ if not name.startswith("_")} | {"__version__"}


def test_environment_variable_reaches_a_new_process():
    code = "import torch, multimix_kernels as mk; mk.sample_dirichlet(2, 2)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MULTIMIX_BACKEND": "nothing"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode != 0
    assert "MULTIMIX_BACKEND: there is no backend 'nothing'" in done.stderr
