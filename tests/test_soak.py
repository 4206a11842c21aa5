"""A hundred thousand small calls: the same results, and no memory that grows."""

import gc
import resource
from pathlib import Path

import pytest
import torch

import multimix_kernels as mk

# The reference is written for reading: a tenth of the calls, each of which does a hundred times the work.
CALLS = {"reference": 10_000}
PAGE = resource.getpagesize()
GROWTH = 4 << 20  # bytes: 40 for each call


def resident() -> int:
    """Bytes of memory that the process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_many_small_calls(backend, device):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 2, generator=g).to(device).requires_grad_()
    w = torch.randn(5, 3, generator=g).to(device).requires_grad_()
    logits = torch.randn(6, 5, generator=g).to(device).requires_grad_()
    target = torch.tensor([0, 4, -100, 2], device=device)
    options = dict(n=6, m=3, seed=5, backend=backend)

    def mixed():
        return torch.autograd.grad(mk.multimix_cross_entropy(x[..., 0], target, w, **options), (x, w))

    def dense():
        loss = mk.dense_multimix_cross_entropy(x, target, w, attention_grad=True, reduction="none", **options)
        return torch.autograd.grad(loss.sum(), (x, w))

    def soft():
        mixture = mk.multimix(x[..., 0], **options)
        return torch.autograd.grad(mixture.cross_entropy(logits, target) + mixture.embeddings.sum(), (x, logits))

    def draw():
        return (mk.sample_dirichlet(6, 4, m=3, alpha=torch.ones(4, device=device), seed=5, backend=backend),)

    calls = [mixed, dense, soft, draw]
    expected = [call() for call in calls]
    number = CALLS.get(backend, 100_000) // len(calls)
    for step in range(number):
        if step == number // 10:
            before = resident()
        for call, values in zip(calls, expected, strict=True):
            assert all(map(torch.equal, call(), values))
    growth = resident() - before
    assert growth < GROWTH, f"{growth:,} bytes more after {number} rounds"
