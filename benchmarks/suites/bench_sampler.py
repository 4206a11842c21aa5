"""The draw of Dirichlet weights."""

import pytest

import multimix_kernels as mk


@pytest.mark.parametrize("alpha", [(0.5, 2.0), 1.0, 0.1], ids=str)
def test_sample_dirichlet(timed, backend, device, alpha):
    timed(lambda: mk.sample_dirichlet(1000, 128, alpha=alpha, device=device, backend=backend))


def test_sample_subset(timed, backend, device):
    timed(lambda: mk.sample_dirichlet(1000, 128, m=16, device=device, backend=backend))
