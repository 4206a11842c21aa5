"""Collects bench_*.py here, and provides the backends that can be used."""

import pytest
import torch

from multimix_kernels import available_backends
from multimix_kernels.backends import TABLE


def pytest_collect_file(file_path, parent):
    """Treat bench_*.py as test modules; pytest collects them itself when they are named on its command line."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


@pytest.fixture(params=[name for name, found in available_backends().items() if found])
def backend(request) -> str:
    """Every backend that is available here, by name."""
    return request.param


@pytest.fixture
def device(backend) -> torch.device:
    """A device that the backend takes."""
    return torch.device((TABLE[backend].devices or ("cpu",))[0])


@pytest.fixture
def timed(benchmark, device):
    """Times a function, to the end of its work on a GPU."""

    def run(function):
        def step():
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        benchmark.pedantic(step, warmup_rounds=2, rounds=10)

    return run
