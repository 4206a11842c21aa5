"""What a verdict that is there costs a process: once for each device, and at each call.

A few system calls are most of the first: the device is a stand-in, whose driver is asked for as a GPU's is.
"""

import pytest
import torch

from multimix_kernels import backends
from multimix_kernels.backends.verdicts import choice, device, kernels, plan, store


class StandIn(device.Device):
    """Without a GPU behind it."""

    name, capability, version_file = "a GPU", "9.0", "/proc/sys/kernel/osrelease"


@pytest.fixture
def verdict(monkeypatch, tmp_path):
    """Every operator of both backends passed at each precision."""
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "find", lambda device_type, index: StandIn(0))
    monkeypatch.setattr(choice, "_known", {})
    passed = {o: {kind: {"cases": 9, "failed": None} for kind in plan.DTYPES} for o in plan.OPERATORS}
    results = dict.fromkeys(("cuda", "triton"), passed)
    seconds = {o: {kind: [1e-3, 2e-3, 3e-3] for kind in plan.DTYPES} for o in plan.OPERATIONS}
    found = {"choice": plan.choice(results, {}, list(results)), "date": store.today(), "seconds": 60.0}
    found |= {"results": results, "times": dict.fromkeys(results, seconds), "shapes": ["a", "b", "c"], "problems": {}}
    store.save(StandIn(0), found)


def test_first_call(benchmark, verdict):
    """Reads the verdict, and whether it is about these kernels."""

    def first():
        choice._known.clear()
        found = choice.standing("cuda", 0, lambda: [])
        assert found.choice["mix"]["bfloat16"] == ["cuda", "triton"]

    benchmark.pedantic(first, warmup_rounds=20, rounds=500)


def test_import(benchmark):
    """What is looked at while the package is imported, where torch has CUDA."""
    benchmark.pedantic(kernels.mark.__wrapped__, warmup_rounds=20, rounds=500)


@pytest.mark.parametrize("kind", ["verified", "cpu"])
def test_each_call(benchmark, verdict, monkeypatch, kind):
    """The choice, of a verified backend and, to compare, on the CPU."""
    rows = dict(backends.TABLE)
    rows["cuda"] = backends.Backend("cuda", ("cuda",), backends.LOW, lambda index: None, to_verify=True)
    monkeypatch.setattr(backends, "TABLE", rows)
    if kind == "cpu":
        monkeypatch.setattr(device, "find", lambda device_type, index: None)
    on = torch.device("cuda", 0) if kind == "verified" else torch.device("cpu")
    backends.choose(None, on, torch.bfloat16, "mix")
    benchmark.pedantic(backends.choose, (None, on, torch.bfloat16, "mix"), warmup_rounds=20, rounds=500, iterations=20)
