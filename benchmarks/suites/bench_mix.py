"""Mixed embeddings, for heads that are not linear."""

import pytest
import torch

import multimix_kernels as mk


@pytest.mark.parametrize("d", [128, 512])
def test_mix(timed, backend, device, d):
    z = torch.randn(128, d, device=device)
    timed(lambda: mk.multimix(z, n=1000, backend=backend))


def test_mix_and_backward(timed, backend, device):
    z = torch.randn(128, 512, device=device, requires_grad=True)
    upstream = torch.randn(1000, 512, device=device)
    timed(lambda: torch.autograd.grad(mk.multimix(z, n=1000, backend=backend).embeddings, z, upstream))
