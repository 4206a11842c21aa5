"""The whole step: loss and gradients."""

import pytest
import torch

from benchmarks.cases import CASES, MODES, make_problem
from benchmarks.speed.peers import all_peers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("case", "n"), [("cifar10-r18", 1000), ("cifar100-r18", 1000), ("dense-cifar100", 64)])
def test_step(timed, backend, device, case, n, mode):
    timed(all_peers()[backend].prepare(make_problem(CASES[case], n, mode, torch.float32, device)))
