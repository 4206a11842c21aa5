"""The loss of any head's logits, with targets that are never written out."""

import pytest
import torch

import multimix_kernels as mk


@pytest.mark.parametrize("c", [10, 100, 1000])
def test_soft_cross_entropy(timed, backend, device, c):
    n, b = 1000, 128
    mixture = mk.multimix(torch.randn(b, 8, device=device), n=n, seed=0, backend=backend)
    logits = torch.randn(n, c, device=device, requires_grad=True)
    target = torch.randint(c, (b,), device=device)
    timed(lambda: torch.autograd.grad(mixture.cross_entropy(logits, target), logits))
