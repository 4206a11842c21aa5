"""What the CUDA backend asks of the runtime at its launches; run by test_executed.py, no kernel is executed."""

import threading
import time

import pytest
import torch

import multimix_kernels as mk

from ...ptx.cuda.plugin import LIBRARY, SHARED_LIMITS, TARGET, recorded, reports
from ...ptx.launches import CASES, launches

SMALL, LARGE = 14_000, 20_000  # examples, 4 bytes of shared memory each: above the 48 KiB that need no permission
PAUSE = 300  # milliseconds


@pytest.fixture(autouse=True)
def only_recorded():
    with recorded():
        yield
    LIBRARY.standin_attributes(0, False)


def calls() -> int:
    return LIBRARY.standin_attributes(0, False)


def draw(b: int, dtype: torch.dtype = torch.float32) -> None:
    mk.sample_dirichlet(4, b, seed=5, dtype=dtype, backend="cuda")


def test_a_refused_permission_is_an_error_of_its_own():
    """It says what was asked for, and the next launch is none the worse. First, as no kernel has its permission yet."""
    LIBRARY.standin_attributes(0, True)
    with pytest.raises(RuntimeError, match=f"sample: the device refuses {SHARED_LIMITS[TARGET]} bytes"):
        draw(LARGE)
    LIBRARY.standin_attributes(0, False)
    draw(100)
    draw(LARGE)


def test_shared_memory_is_asked_for_once():
    draw(SMALL)
    before = calls()
    reports()
    for b in (SMALL, LARGE, SMALL):
        draw(b)
    assert calls() == before
    assert len(reports()) == 3


def test_threads_do_not_lower_each_others_limit():
    """One asks for its large launch; before it starts, another has a small one of the same kernel."""
    errors = []

    def run(b):
        try:
            draw(b, torch.bfloat16)  # a kernel that no other test has launched
        except RuntimeError as error:
            errors.append(error)

    before = LIBRARY.standin_attributes(PAUSE, False)
    threads = [threading.Thread(target=run, args=(b,)) for b in (LARGE, SMALL)]
    threads[0].start()
    while threads[0].is_alive() and LIBRARY.standin_attributes(PAUSE, False) == before:
        time.sleep(0.001)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert not errors


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "dense-cifar100"])
@pytest.mark.parametrize("n", [10**3, 10**6])
def test_few_classes_take_two_launches(name, n):
    """The loss and its gradient, with nothing to prepare."""
    assert launches(*CASES[name], n) == {"mixed_small_kernel": 1, "add_up_kernel": 1}


def test_many_classes_take_three_launches_for_each_super_block():
    """Beside those that make the scores ready and add up."""
    found = launches(*CASES["imagenet"], 10**6)
    assert found["sample_kernel"] > 10
    assert found["sample_kernel"] == found["normaliser_kernel"] == found["gradient_kernel"]
    others = found.total() - 3 * found["sample_kernel"]
    assert others == 2


def test_few_rows_of_many_classes():
    """Their classes are shared out among blocks, so that the losses of the rows take a launch of their own."""
    assert launches(*CASES["imagenet"], 10**3).total() == 6
