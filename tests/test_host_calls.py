"""What a step costs the host, counted in calls of Python functions: times say little where other work is running."""

import sys
from pathlib import Path

import torch

import multimix_kernels as mk

PACKAGE = Path(mk.__file__).parent
MOST = 52  # more than there are, for Pythons that make a call of each comprehension; one check done twice is too many


def calls(run) -> list[str]:
    """The functions of this package that are called, but for those that compute: the backends' own."""
    found = []

    def note(frame, event, argument):
        file = Path(frame.f_code.co_filename)
        own = event == "call" and PACKAGE in file.parents
        if own and not {"reference", "triton"} & set(file.relative_to(PACKAGE).parts):
            found.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def test_calls_of_a_step(backend, device):
    """Forward and backward, of a loss of scores."""
    scores = torch.randn(8, 4, device=device, requires_grad=True)
    target = torch.arange(8, device=device) % 4

    def step():
        mk.mixed_cross_entropy(scores, target, n=4, backend=backend).backward()

    step()
    found = calls(step)
    assert "mixed_cross_entropy" in found
    assert len(found) <= MOST, sorted(found)
