"""Where the backend is available, and what importing the library costs without it."""

import os
import subprocess
import sys

import pytest
import torch

from multimix_kernels.backends import triton as package


def run(script: str, **environment) -> str:
    found = subprocess.run(
        [sys.executable, "-c", script], env=dict(os.environ, **environment), capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_triton_is_not_imported_with_the_library():
    assert run("import sys, multimix_kernels as m; m.available_backends(); print('triton' in sys.modules)") == "False"


def test_reason_without_triton(monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda _: None)
    assert "triton is not installed" in package.missing()


def test_reason_without_a_gpu(monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda _: object())
    monkeypatch.setattr(package, "INTERPRET", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device" in package.missing()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert package.missing() is None


@pytest.mark.parametrize(("value", "devices"), [("1", "('cpu', 'cuda')"), ("0", "('cuda',)")])
def test_interpreter_takes_cpu_tensors(value, devices):
    script = "import multimix_kernels as m; print(m.available_backends()['triton'].devices)"
    assert run(script, TRITON_INTERPRET=value) == devices
