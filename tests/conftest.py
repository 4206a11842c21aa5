"""Fixtures: the backends that can be used here, and uninitialised memory that is never innocent."""

import os

import pytest
import torch

from multimix_kernels import available_backends
from multimix_kernels.backends import TABLE
from multimix_kernels.backends.verdicts import choice

# cuBLAS refuses to run in deterministic mode without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

AVAILABLE = [name for name, found in available_backends().items() if found]


def pytest_configure():
    # Tensors here are small; the tests of threads set their own number.
    torch.set_num_threads(1)


@pytest.fixture(params=AVAILABLE)
def backend(request) -> str:
    """Every backend that is available here, by name."""
    return request.param


@pytest.fixture
def device(backend) -> torch.device:
    """A device that the backend takes."""
    return torch.device((TABLE[backend].devices or ("cpu",))[0])


@pytest.fixture
def best_dtype(backend, device) -> torch.dtype:
    """The widest dtype that the backend takes."""
    return torch.float64 if TABLE[backend].accepts(device, torch.float64) else torch.float32


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fills what torch.empty returns with NaN, so that an element that no kernel wrote cannot pass."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def fresh_compiler(poisoned_memory):
    """torch.compile that has compiled nothing, and takes memory as it is: poison would only be traced."""
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def no_default_backend(monkeypatch, tmp_path):
    """The tests choose backends themselves, and know no verdict but their own."""
    monkeypatch.delenv("MULTIMIX_BACKEND", raising=False)
    monkeypatch.setenv("MULTIMIX_VERIFY", "off")
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_known", {})
