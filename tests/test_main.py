"""`python -m multimix_kernels`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import multimix_kernels as mk
from multimix_kernels.__main__ import gpus, libraries
from multimix_kernels.backends import choose, native

ROOT = Path(mk.__file__).parents[1]


def run(*arguments, stdout=subprocess.PIPE):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, timeout=120
    )


def sections(text):
    """The lines of the output by heading and first word."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("  "):
            found[heading, line.split()[0]] = line
        else:
            heading = line.rstrip(":")
    return found


def test_names_every_backend_and_why_it_is_missing():
    done = run("-m", "multimix_kernels")
    assert done.returncode == 0, done.stderr
    assert mk.__version__ in done.stdout
    assert torch.__version__ in done.stdout
    lines = sections(done.stdout)
    for name, found in mk.available_backends().items():
        assert (found.reason or "available (") in lines["backends", name]


def test_ends_quietly_when_nobody_reads():
    """As with `| head -1`, whose end closes the pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run("-m", "multimix_kernels", stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_says_what_is_used_where():
    lines = sections(run("-m", "multimix_kernels").stdout)
    for device in ("cpu", "cuda"):
        for dtype in (torch.float32, torch.float64):
            name = choose(None, torch.device(device), dtype).name
            assert f"{name} for " in lines["used where no backend is named", device]


def test_says_what_the_libraries_are(monkeypatch, tmp_path, capsys):
    info = {"torch": "2.13.0+cpu", "compiler": "g++ 12", "nvcc": "13.0.88", "architectures": ["8.0", "12.0+PTX"]}
    (tmp_path / "build.json").write_text(json.dumps({"cpu": {"reason": "there was no compiler"}, "cuda": info}))
    (tmp_path / "multimix_cuda.so").touch()
    monkeypatch.setattr(native, "DIRECTORY", tmp_path)
    native.build_info.cache_clear()
    try:
        lines = [" ".join(line.split()) for line in libraries()]
    finally:
        native.build_info.cache_clear()
    assert lines[0] == "cpu not built: there was no compiler"
    assert lines[1] == "cuda for sm_80, sm_120 and PTX, built with torch 2.13.0+cpu, g++ 12, nvcc 13.0.88"


def test_names_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(native, "driver_version", lambda: (13, 0))
    assert gpus() == ["GPU 0, compute capability 9.0", "GPU 1, compute capability 9.1", "driver for CUDA 13.0"]


def test_public_names():
    assert all(hasattr(mk, name) for name in mk.__all__)
    assert set(mk.__all__) == {name for name in mk.__all__ if not name.startswith("_")} | {"__version__"}


def test_environment_variable_reaches_a_new_process():
    code = "import torch, multimix_kernels as mk; mk.sample_dirichlet(2, 2)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MULTIMIX_BACKEND": "nothing"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode != 0
    assert "MULTIMIX_BACKEND: there is no backend 'nothing'" in done.stderr
