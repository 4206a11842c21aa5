"""The simulated device in this process, and processes that have it too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import multimix_kernels as mk
from multimix_kernels.backends import fallback
from multimix_kernels.backends.verdicts import plan, store

from ..support import verify_device

ROOT = Path(mk.__file__).parents[1]

if not mk.available_backends()["cpu"]:
    collect_ignore_glob = ["test_*.py"]  # the simulated device runs the CPU library


@pytest.fixture
def simulated(monkeypatch, tmp_path):
    """The device, of which nothing is known yet; children leave a line in the file `starts`."""
    verify_device.install(monkeypatch.setattr)
    monkeypatch.setattr(fallback, "warned", set())
    monkeypatch.setenv("MULTIMIX_VERIFY", "auto")
    monkeypatch.setenv(verify_device.STARTS, str(tmp_path / "starts"))
    return verify_device.Simulated()


@pytest.fixture
def starts(tmp_path):
    """How many children have been started."""

    def count():
        file = tmp_path / "starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    return count


def results(**failed):
    """Of the backend of the simulated device: every operator passed but those named."""
    return {
        verify_device.BACKEND: {
            operator: {kind: {"cases": 3, "failed": failed.get(operator)} for kind in verify_device.Simulated.kinds}
            for operator in plan.OPERATORS
        }
    }


def keep(device, **failed):
    """Writes a verdict as if the device had been checked."""
    found = results(**failed)
    store.folder().mkdir(parents=True, exist_ok=True)
    verdict = {"choice": plan.choice(found, {}, list(found)), "date": store.today(), "seconds": 1.0, "results": found}
    verdict |= {"times": {}, "shapes": [], "problems": {}}
    store.save(device, verdict)


def run(*arguments, seconds=300, **environment):
    """Another process with the simulated device."""
    return subprocess.run(
        [sys.executable, "-m", "tests.support.verify_device", *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, timeout=seconds,
    )  # fmt: skip
