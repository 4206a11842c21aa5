"""Tuning and threads: what one tries out, or times, is not what another launches with. Needs neither GPU nor Triton."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from multimix_kernels.backends.triton.host import shapes, tune

X = torch.zeros(4, 3)
OTHER = replace(shapes.NVIDIA, fused_occupancy=2)


def test_a_trial_is_of_its_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(shapes.family, X).result() is shapes.NVIDIA
        with shapes.on_trial(OTHER):
            assert shapes.family(X) is OTHER
            assert pool.submit(shapes.family, X).result() is shapes.NVIDIA
            with pytest.raises(ZeroDivisionError), shapes.on_trial(shapes.CDNA):
                1 / 0  # noqa: B018
            assert shapes.family(X) is OTHER
        assert shapes.family(X) is shapes.NVIDIA


def test_trials_of_two_threads_end_in_any_order():
    entered, left = threading.Event(), threading.Event()

    def other():
        with shapes.on_trial(shapes.CDNA):
            entered.set()
            left.wait(60)
            return shapes.family(X)

    with ThreadPoolExecutor(1) as pool:
        with shapes.on_trial(OTHER):
            found = pool.submit(other)
            entered.wait(60)
            assert shapes.family(X) is OTHER
        left.set()
        assert found.result() is shapes.CDNA
    assert shapes.family(X) is shapes.NVIDIA


def test_two_threads_time_a_shape_class_once(monkeypatch):
    """Both get the family that was found, whoever timed it."""
    asked, both = [], threading.Barrier(2)

    def measure(family, run, device):
        asked.append(family)
        time.sleep(0.05)  # the other thread comes to ask, too
        return 1.0 if family is OTHER else 2.0

    def call():
        both.wait(60)
        return tune.tuned("kernel", X, 4, 9, (), lambda: shapes.family(X))

    monkeypatch.setenv(tune.ENVIRONMENT_VARIABLE, "1")
    monkeypatch.setattr(tune, "chosen", {})
    monkeypatch.setattr(tune, "measure", measure)
    monkeypatch.setattr(tune, "neighbours", lambda family, operand: [OTHER])
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(call) for _ in range(2)]
        assert [x.result() for x in found] == [OTHER, OTHER]
    assert asked == [shapes.NVIDIA, OTHER]
