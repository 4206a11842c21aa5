"""Interleaving, quartiles, errors, and the memory of a step."""

import time

import pytest
import torch

from benchmarks.speed.memory import _peak_resident_bytes
from benchmarks.speed.timing import Budget, Timing, describe_error, measure

CPU = torch.device("cpu")


def test_repetitions_are_interleaved():
    calls = []
    timings = measure({name: lambda name=name: calls.append(name) for name in "abc"}, Budget(10, 3, 4), CPU)
    assert calls[6:] == list("abc") * 4  # after two of each to warm up
    assert [len(t.seconds) for t in timings.values()] == [4, 4, 4]


def test_a_slow_step_stops_when_its_budget_is_spent():
    timings = measure({"slow": lambda: time.sleep(0.02), "fast": lambda: None}, Budget(0.03, 2, 30), CPU)
    assert len(timings["slow"].seconds) == 2
    assert timings["slow"].median >= 0.02
    assert len(timings["fast"].seconds) == 30


def test_a_step_that_raises_does_not_stop_the_others():
    def broken():
        raise ValueError("first line\nsecond line")

    timings = measure({"broken": broken, "fine": lambda: None}, Budget(0, 2, 2), CPU)
    assert timings["broken"].error == "failed: ValueError: first line"
    assert timings["fine"].error is None


def test_errors_of_memory_are_named():
    assert describe_error(MemoryError()) == "out of memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert describe_error(caught.value) == "out of memory"


def test_median_and_quartiles():
    timing = Timing([5.0, 1.0, 2.0, 4.0, 3.0])
    assert timing.median == 3.0
    assert timing.quartiles == (2.0, 4.0)


def test_peak_memory_beyond_results():
    size = 32 * 2**20

    def step():
        scratch = torch.ones(2 * size, dtype=torch.uint8)
        return (scratch[:size].clone(),)

    step()  # as memory.py does: pages of torch's own code, read at first use, are not the step's
    # The kernel counts pages per processor and adds them up in batches: 128 KiB of each may be missing.
    assert _peak_resident_bytes(step) == pytest.approx(2 * size, abs=2**20)
