"""One sentence for each way in which the CUDA library cannot be used, and none where it can."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels.backends import choose, native

ROOT = Path(mk.__file__).parents[1]
A100, RTX3090, H100, B200, RTX5090 = (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)


class Machine:
    """A pretended machine with GPUs, and a pretended installation."""

    def __init__(self, monkeypatch, folder):
        self.patch, self.folder, self.loaded = monkeypatch, folder, []
        for name, value in {"DIRECTORY": folder, "driver_version": lambda: (13, 0)}.items():
            monkeypatch.setattr(native, name, value)
        monkeypatch.setattr(torch.ops, "load_library", self.loaded.append)
        self.torch("2.13.0+cu130", "13.0").gpus(H100).built("9.0a")

    def torch(self, version, cuda):
        self.patch.setattr(torch, "__version__", version)
        self.patch.setattr(torch.version, "cuda", cuda)
        return self

    def gpus(self, *capabilities):
        for name, value in {
            "is_available": lambda: bool(capabilities),
            "device_count": lambda: len(capabilities),
            "get_device_capability": lambda index=0: capabilities[index],
            "get_device_name": lambda index=0: f"GPU {index}",
        }.items():
            self.patch.setattr(torch.cuda, name, value)
        return self

    def built(self, *architectures, nvcc="13.0.88"):
        (self.folder / "multimix_cuda.so").touch()
        info = {"torch": "2.13.0+cpu", "compiler": "c++ 12", "nvcc": nvcc, "architectures": architectures}
        (self.folder / "build.json").write_text(json.dumps({"cpu": {}, "cuda": info}))
        return self

    def driver(self, *version):
        self.patch.setattr(native, "driver_version", lambda: version or None)
        return self

    def missing(self, index=None):
        native.missing.cache_clear()
        native.build_info.cache_clear()
        return native.missing("cuda", index)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    yield Machine(monkeypatch, tmp_path)
    monkeypatch.undo()
    native.missing.cache_clear()
    native.build_info.cache_clear()


def test_the_right_gpu(machine):
    assert machine.missing() is None
    assert machine.loaded == [machine.folder / "multimix_cuda.so"]


@pytest.mark.parametrize(("architecture", "capability", "expected"), [
    ("8.0", A100, "binary"),
    ("8.0", RTX3090, "binary"),
    ("8.6", A100, None),
    ("8.0", H100, None),
    ("8.0+PTX", A100, "binary"),
    ("8.0+PTX", H100, "ptx"),
    ("8.6+PTX", A100, None),
    ("9.0a", H100, "binary"),
    ("9.0a", B200, None),
    ("9.0a+PTX", B200, None),
    ("10.0", (10, 3), "binary"),
    ("10.0a", (10, 3), None),
    ("10.0f", (10, 3), "binary"),
    ("10.0f", RTX5090, None),
    ("9.0+PTX", RTX5090, "ptx"),
    ("12.0+PTX", B200, None),
    ("something", A100, None),
])  # fmt: skip
def test_where_code_runs(architecture, capability, expected):
    assert native.runs_on(architecture, capability) == expected


def test_wrong_gpu(machine):
    reason = machine.gpus(A100).missing()
    assert reason.startswith("its library was built for sm_90a, and this is GPU 0, compute capability 8.0; ")
    assert reason.endswith("TORCH_CUDA_ARCH_LIST=8.0")
    assert not machine.loaded


def test_several_gpus(machine):
    """What counts is the GPU of the tensors, where there are tensors."""
    machine.gpus(A100, H100)
    assert machine.missing() is None
    assert "GPU 0, compute capability 8.0" in machine.missing(0)
    assert machine.missing(1) is None


def test_choice_is_for_the_gpu_of_the_tensors(machine):
    machine.gpus(A100, H100).missing()
    assert choose("cuda", torch.device("cuda", 1), torch.float32).name == "cuda"
    assert choose("cuda", torch.device("cuda"), torch.float32).name == "cuda"
    with pytest.raises(
        RuntimeError, match=r"'cuda' is not available: its library was built for sm_90a, and this is GPU 0"
    ):
        choose("cuda", torch.device("cuda", 0), torch.float32)


def test_torch_without_cuda(machine):
    reason = machine.torch("2.13.0+cpu", None).missing()
    assert "for sm_90a, needs a torch with CUDA, and this is torch 2.13.0+cpu" in reason


def test_no_gpu(machine):
    assert machine.gpus().missing() == "its library is for sm_90a, and torch 2.13.0+cu130 sees no CUDA device here"


@pytest.mark.parametrize("driver", [(13, 0), (13, 2), (14, 0), ()])
def test_other_toolkit_in_torch(machine, driver):
    """The runtime is inside the library: only the driver has to be new enough, and an unknown one may be."""
    assert machine.torch("2.10.0+cu128", "12.8").driver(*driver).missing() is None


def test_old_driver(machine):
    reason = machine.torch("2.10.0+cu128", "12.8").driver(12, 9).missing()
    assert "built with CUDA 13.0, and the driver here goes up to CUDA 12.9 (torch was built with 12.8)" in reason
    assert "update the driver" in reason
    assert machine.built("9.0a", nvcc="12.8.93").missing() is None


def test_newer_minor_version(machine):
    """Machine code runs with any driver of the same major version, PTX only with one as new as nvcc."""
    machine.built("9.0+PTX", nvcc="13.2.10").driver(13, 0)
    assert machine.gpus(H100).missing() is None
    reason = machine.gpus(RTX5090).missing()
    assert "sm_90 and PTX, and this is GPU 0, compute capability 12.0, whose PTX needs a driver for CUDA 13.2" in reason
    assert machine.driver(13, 2).missing() is None


def test_old_torch(machine):
    reason = machine.torch("2.9.1+cu130", "13.0").missing()
    assert reason == "it needs torch 2.10 or later, and this is torch 2.9.1+cu130"


def test_not_built(machine):
    (machine.folder / "multimix_cuda.so").unlink()
    (machine.folder / "build.json").write_text(json.dumps({"cuda": {"reason": "there was no nvcc"}}))
    reason = machine.missing()
    assert reason.startswith(
        "its library was not built (there was no nvcc); to build it: MULTIMIX_BUILD=cuda pip install"
    )
    (machine.folder / "build.json").unlink()
    # Beside the package that is tested: its source tree, or an installation from a wheel.
    assert any(why in machine.missing() for why in ("this is the source tree", "nothing says why"))


def test_library_that_does_not_load(machine, monkeypatch):
    def fail(path):
        raise OSError("Could not load this library") from OSError("undefined symbol: aoti_torch_future")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    reason = machine.missing()
    assert "built with torch 2.13.0+cpu and c++ 12, cannot be loaded by torch 2.13.0+cu130" in reason
    assert "undefined symbol: aoti_torch_future" in reason


def test_only_a_named_backend_is_refused(machine):
    """Whoever names none gets what works."""
    machine.gpus(A100).missing()
    assert choose(None, torch.device("cuda", 0), torch.float32).name in ("triton", "reference")


def run(code, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_and_cpu_tensors_leave_cuda_alone():
    run("""
import torch
def fail(*arguments): raise AssertionError("CUDA was touched")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = fail
import multimix_kernels as mk
mk.mixed_cross_entropy(torch.randn(3, 2), torch.tensor([0, 1, 1]), n=4)
""")
