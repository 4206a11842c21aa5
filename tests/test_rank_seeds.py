"""With the same torch.manual_seed on every rank, ranks draw different weights, each reproducibly."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

import multimix_kernels as mk

from .support import ranks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")

B, D, C = 6, 5, 4


def batch():
    g = torch.Generator().manual_seed(1)
    return torch.randn(B, D, generator=g), torch.randint(C, (B,), generator=g)


class Model(nn.Module):
    """Weights before the head, as a backbone has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(D, D), mk.MultiMixHead(D, C, n=50)

    def forward(self, x, target):
        return self.head(torch.relu(self.body(x)), target)


@pytest.fixture(params=[0, 1, 2])
def rank(request):
    """A rank of three, whose other ranks are not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.compiler.reset()  # a graph keeps the rank that it was compiled on
    dist.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=3)
    yield request.param
    dist.destroy_process_group()


def drawn(**options) -> int:
    torch.manual_seed(7)
    return mk.multimix(batch()[0], n=3, **options).seed.item()


def expected(rank: int) -> int:
    torch.manual_seed(7)
    return torch.randint(2**63 - 1, (1,)).item() ^ (rank * 0x9E3779B97F4A7C15 % 2**63)


def test_rank_is_mixed_into_a_seed_that_is_drawn(rank):
    assert drawn() == drawn() == expected(rank)
    assert 0 <= drawn() < 2**63
    assert (drawn() == expected(0)) == (rank == 0)


def test_given_seeds_are_as_given(rank):
    assert drawn(seed=5) == 5
    assert drawn(seed=torch.tensor([6])) == 6
    generator = torch.Generator().manual_seed(7)
    assert drawn(generator=generator) == expected(0)


@pytest.mark.parametrize("engine", ["eager", "aot_eager"])
def test_compiled(rank, engine):
    """The rank is a constant of the graph."""
    x, target = batch()
    call = torch.compile(lambda x: mk.mixed_cross_entropy(x, target, n=20), fullgraph=True, backend=engine)
    torch.manual_seed(7)
    found = call(x)
    assert torch.equal(found, mk.mixed_cross_entropy(x, target, n=20, seed=expected(rank)))


def test_checkpointed(rank):
    """The recomputation draws the same seed."""
    model, (x, target) = Model(), batch()
    grads = []
    for call in (model, lambda *args: checkpoint(model, *args, use_reentrant=False)):
        torch.manual_seed(7)
        grads.append(torch.autograd.grad(call(x, target), list(model.parameters())))
    assert all(map(torch.equal, *grads))


def step(rank, size, sharded):
    """The loss of the first step, twice, and the gradients that all ranks then have."""
    model, (x, target) = Model(), batch()
    if sharded:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model.head)
        model = fully_shard(model)
    else:
        model = nn.parallel.DistributedDataParallel(model)
    losses = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(7)
        loss = model(x, target)
        loss.backward()
        losses.append(loss.item())
    grads = [p.grad.full_tensor() if sharded else p.grad for p in model.parameters()]
    return losses, grads


def steps_hold(size, sharded, folder):
    found = ranks.run(step, size, folder, sharded)
    model, (x, target) = Model(), batch()
    alone = []
    for rank, (losses, _) in enumerate(found):
        assert losses[0] == losses[1]
        embeddings = torch.relu(model.body(x))
        loss = mk.multimix_cross_entropy(
            embeddings, target, model.head.weight, model.head.bias, n=50, seed=expected(rank)
        )
        assert losses[0] == pytest.approx(loss.item(), rel=1e-6)
        alone.append(torch.autograd.grad(loss, list(model.parameters())))
    assert len({losses[0] for losses, _ in found}) == size
    for _, grads in found:
        for grad, *parts in zip(grads, *alone, strict=True):
            torch.testing.assert_close(grad, sum(parts) / size, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_data_parallel(size, sharded, tmp_path):
    steps_hold(size, sharded, tmp_path)
