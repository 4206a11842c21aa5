"""Infinities, NaN and numbers at the ends of the range: they reach the loss where they must, and nowhere else."""

import pytest
import torch

import multimix_kernels as mk

TARGET = torch.tensor([0, 1, 0, 1])


def loss_of(scores, target, backend, **options):
    return mk.mixed_cross_entropy(scores, target.to(scores.device), n=40, seed=1, backend=backend, **options)


def test_class_masked_with_minus_infinity_costs_nothing(backend, device):
    torch.manual_seed(0)
    scores = torch.randn(4, 3)
    expected = loss_of(scores[:, :2].to(device), TARGET, backend)
    scores[:, 2] = -torch.inf
    torch.testing.assert_close(loss_of(scores.to(device), TARGET, backend), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_example_reaches_no_sum(bad, backend, device):
    torch.manual_seed(0)
    scores = torch.randn(4, 3)
    target = torch.tensor([0, 1, -100, 1])
    results = []
    for value in (0.0, bad):
        scores[2] = value
        s = scores.clone().to(device).requires_grad_()
        loss = loss_of(s, target, backend)
        loss.backward()
        z = scores.clone().to(device).requires_grad_()
        full = mk.multimix_cross_entropy(
            z, target.to(device), torch.eye(3, device=device), n=40, seed=1, backend=backend
        )
        results.append((loss.detach(), s.grad, full.detach()))
    for zero, other in zip(*results, strict=True):
        assert torch.equal(zero, other)
    assert not results[1][1][2].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_score_reaches_the_loss(bad, backend, device):
    torch.manual_seed(0)
    scores = torch.randn(4, 30)
    scores[1, 7] = bad
    assert loss_of(scores.to(device), TARGET, backend).isnan()


def test_gradient_of_tiny_attention(backend, device):
    """The loss does not change with the scale of the attention, so its gradient goes with one over the scale."""
    torch.manual_seed(0)
    scores, attention = torch.randn(4, 3), torch.rand(4)
    gradients = []
    for scale in (1.0, 2.0**-100):
        a = (attention * scale).to(device).requires_grad_()
        loss_of(scores.to(device), TARGET, backend, attention=a).backward()
        gradients.append(a.grad.double() * scale)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)
