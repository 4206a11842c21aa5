"""Tensors without values, recorded calls, distributed tensors: what other tools of torch pass to the functions."""

import os

import pytest
import torch
import torch.distributed as dist
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import multimix_kernels as mk

X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
TARGET = torch.tensor([0, 1, 2, 2, 0, 1])
WEIGHT = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))


def losses(x, target, weight, backend):
    """All that reads values elsewhere: labels, attention, concentrations."""
    alpha, attention = torch.ones_like(x[:, 0, 0]), x[:, 0].abs()
    options = dict(alpha=alpha, n=7, seed=3, backend=backend)
    mixture = mk.multimix(x, attention=attention, **options)
    logits = torch.einsum("ndr,cd->ncr", mixture.embeddings, weight)
    return (
        mk.multimix_cross_entropy(x[..., 0], target, weight, **options)
        + mk.dense_multimix_cross_entropy(x, target, weight, **options)
        + mk.mixed_cross_entropy(x[:, :3], target, attention=attention, **options)
        + mixture.cross_entropy(logits, target)
        + mixture.targets(target, 3).sum()
    )


def test_fake_tensors(backend, device):
    with FakeTensorMode() as mode:
        x, target, weight = (mode.from_tensor(x.to(device)) for x in (X, TARGET, WEIGHT))
        x.requires_grad_()
        loss = losses(x, target, weight, backend)
        (gradient,) = torch.autograd.grad(loss, x)
    assert loss.shape == ()
    assert gradient.shape == X.shape


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(tracing_mode, backend, device):
    """The recorded graph computes the same bits, gradients too."""

    def step(x, target, weight):
        x = x.detach().requires_grad_()
        loss = losses(x, target, weight, backend)
        return loss, torch.autograd.grad(loss, x)[0]

    arguments = [x.to(device) for x in (X, TARGET, WEIGHT)]
    graph = make_fx(step, tracing_mode=tracing_mode)(*arguments)
    for found, expected in zip(graph(*arguments), step(*arguments), strict=True):
        assert torch.equal(found, expected)


def test_labels_are_checked_without_modes(backend):
    with pytest.raises(ValueError, match="target"):
        mk.mixed_cross_entropy(X[:, :3, 0], TARGET + 1, n=5, backend=backend)


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(os.name == "nt" or not dist.is_available(), reason="needs gloo")
def test_distributed_tensors_are_refused(one_rank, backend):
    from torch.distributed.tensor import Replicate, distribute_tensor, init_device_mesh

    mesh = init_device_mesh("cpu", (1,))
    x, target = (distribute_tensor(x, mesh, [Replicate()]) for x in (X[..., 0].contiguous(), TARGET))
    options = dict(n=5, seed=1, backend=backend)
    for call in (
        lambda: mk.mixed_cross_entropy(x, target, **options),
        lambda: mk.mixed_cross_entropy(x.to_local(), target, **options),
        lambda: mk.multimix(x, **options),
    ):
        with pytest.raises(TypeError, match=r"^(scores|target|input): .*DTensor.*to_local"):
            call()
    expected = mk.mixed_cross_entropy(X[..., 0], TARGET, **options)
    assert torch.equal(mk.mixed_cross_entropy(x.to_local(), target.to_local(), **options), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export(backend):
    """An exported program draws the same weights from the same seed tensor."""

    class Step(torch.nn.Module):
        def forward(self, scores, target, seed):
            return mk.mixed_cross_entropy(scores, target, n=5, seed=seed, backend=backend)

    scores, seed = X[..., 0].contiguous(), torch.tensor([3])
    program = torch.export.export(Step(), (scores, TARGET, seed)).module()
    assert torch.equal(program(scores, TARGET, seed), Step()(scores, TARGET, seed))
    other = torch.tensor([4])
    assert torch.equal(program(scores, TARGET, other), Step()(scores, TARGET, other))
