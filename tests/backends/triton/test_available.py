"""Where the backend is available, and what importing the library costs without it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from multimix_kernels import backends
from multimix_kernels.backends import TABLE
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


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretended: an H100, a compiler in a PATH of its own, Python's headers, an empty home."""
    programs, headers = tmp_path / "bin", tmp_path / "include"
    for folder in (programs, headers, tmp_path / "home"):
        folder.mkdir()
    (headers / "Python.h").touch()
    compiler = programs / "gcc"
    compiler.touch(0o755)
    for name in ("CC", "CPATH", "C_INCLUDE_PATH", "TRITON_HOME", "TRITON_CACHE_DIR", "TRITON_CACHE_MANAGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(package, "find_spec", lambda _: object())
    monkeypatch.setattr(package, "INTERPRET", False)
    monkeypatch.setattr(package.sysconfig, "get_path", lambda *_: str(headers))
    gpus(monkeypatch, (9, 0))
    yield tmp_path
    assert not list((tmp_path / "home").iterdir()), "to ask is not to make folders"


def gpus(monkeypatch, *capabilities, hip=None):
    """NVIDIA's by compute capability, or AMD's by architecture."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    properties = [SimpleNamespace(gcnArchName=name) for name in capabilities]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties[index])


def test_nothing_is_missing(machine):
    assert package.missing() is package.missing(0) is None


def test_reason_without_a_gpu(machine, monkeypatch):
    gpus(monkeypatch)
    assert "device" in package.missing()


def test_old_gpu(machine, monkeypatch):
    """What counts is the GPU of the tensors, where there are tensors."""
    gpus(monkeypatch, (7, 5), (8, 0))
    assert package.missing() is package.missing(1) is None
    found = package.missing(0)
    assert "compute capability 8.0 or later, and this is GPU 0, compute capability 7.5; use such a GPU" in found
    gpus(monkeypatch, (7, 5))
    assert package.missing() == found


@pytest.mark.parametrize(("architecture", "known"), [
    ("gfx90a:sramecc+:xnack-", True), ("gfx942:sramecc+:xnack-", True), ("gfx1030", False), ("gfx1100", False),
    ("gfx1201", False),
])  # fmt: skip
def test_amd(architecture, known, machine, monkeypatch):
    gpus(monkeypatch, architecture, hip="6.4")
    found = package.missing(0)
    assert (found is None) == known
    if not known:
        assert "64 threads to a warp" in found
        assert f"this is GPU 0, {architecture}, with 32" in found


def test_reason_without_a_compiler(machine, monkeypatch):
    (machine / "bin" / "gcc").rename(machine / "bin" / "cc")  # which Triton does not look for
    assert package.missing() == package.NO_COMPILER
    monkeypatch.setenv("CC", "cc")
    assert package.missing() is None
    monkeypatch.setenv("CC", "icc")
    assert "CC names none that can be run, 'icc'" in package.missing()


def test_reason_without_headers(machine, monkeypatch):
    (machine / "include" / "Python.h").unlink()
    assert f"no Python.h in {machine / 'include'}: install them" in package.missing()
    monkeypatch.setenv("CPATH", "/elsewhere")
    assert package.missing() is None


def test_reason_without_a_cache_folder(machine, monkeypatch):
    file = machine / "file"
    file.touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(file / "cache"))
    found = package.missing()
    assert f"cache folder {file / 'cache'} cannot be written; set TRITON_CACHE_DIR" in found
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "some.module:Manager")
    assert package.missing() is None
    monkeypatch.delenv("TRITON_CACHE_MANAGER")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != machine / "home")
    assert f"cache folder {machine / 'home' / '.triton' / 'cache'} cannot be written" in package.missing()


def test_reason_where_no_program_can_be_loaded(machine, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    assert "noexec" in package.missing()


def test_a_missing_compiler_refuses_the_backend(machine, monkeypatch):
    """By name, with the reason; and nothing is verified."""
    (machine / "bin" / "gcc").unlink()
    row = replace(TABLE["triton"], devices=("cuda",), missing=package.missing)
    monkeypatch.setattr(backends, "TABLE", {**TABLE, "triton": row})
    with pytest.raises(RuntimeError, match=f"backend: 'triton' is not available: {package.NO_COMPILER}"):
        backends.choose("triton", torch.device("cuda", 0), torch.float32)
    assert "triton" not in backends._to_verify("cuda", 0)
    assert backends.available_backends()["triton"].reason == package.NO_COMPILER


@pytest.mark.parametrize(("value", "devices"), [("1", "('cpu', 'cuda')"), ("0", "('cuda',)")])
def test_interpreter_takes_cpu_tensors(value, devices):
    script = "import multimix_kernels as m; print(m.available_backends()['triton'].devices)"
    assert run(script, TRITON_INTERPRET=value) == devices
