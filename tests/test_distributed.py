"""Mixing over ranks equals mixing the whole batch in one process; ranks that disagree are told so, all of them."""

import pytest
import torch
import torch.distributed as dist

import multimix_kernels as mk
from multimix_kernels import distributed

from .support import ranks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")

B, D, C, N = 6, 5, 4, 30


def problem():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(B, D, generator=generator, dtype=torch.float64)
    w = torch.randn(C, D, generator=generator, dtype=torch.float64)
    return z, torch.randint(C, (B,), generator=generator), w


def part_of(rank, size):
    return slice(rank * B // size, (rank + 1) * B // size)


def of_rank(every, rank):
    """A function of all embeddings whose second derivatives mix examples, another on each rank."""
    return ((every @ every.T).pow(2).sum() + (every.sum(0) ** 3).sum()) * (rank + 1)


def work(rank, size):
    z, y, w = problem()
    part = part_of(rank, size)
    mine, w = z[part].requires_grad_(), w.requires_grad_()
    torch.manual_seed(100 + rank)  # ranks that disagree must still share one draw
    every, targets = distributed.gather(mine, y[part].int())
    options = distributed.share(N, mine.device)
    loss = mk.multimix_cross_entropy(every, targets, w, **options, backend="reference")
    loss.backward()
    found = dict(loss=loss.detach(), z=mine.grad, w=w.grad, seed=options["seed"], labels=targets)

    mine = z[part].requires_grad_()
    every, _ = distributed.gather(mine, y[part])
    (first,) = torch.autograd.grad(of_rank(every, rank), mine, create_graph=True)
    (found["second"],) = torch.autograd.grad((first**3).sum(), mine)
    return found | {"first": first.detach()} | refusals(rank, z, y)


def refusals(rank, z, y):
    """What every rank is told, where one of them is wrong or they differ."""
    last = rank == dist.get_world_size() - 1
    group = dist.new_group([0])
    x, t = z[:2], y[:2]
    gather, share = distributed.gather, distributed.share
    calls = {
        "shape": lambda: gather(z[: rank + 1], y[: rank + 1]),
        "dims": lambda: gather(x[:, :, None] if last else x, t),
        "dtype": lambda: gather(x.float() if last else x, t),
        "target dtype": lambda: gather(x, t.int() if last else t),
        "kind of target": lambda: gather(x, torch.rand(2, C) if last else t),
        "not a tensor": lambda: gather([1.0] if last else x, t),
        "integers": lambda: gather(x.long() if last else x, t),
        "target shape": lambda: gather(x, y[:3] if last else t),
        "gradient": lambda: gather(x.clone().requires_grad_(last), t),
        "multiple": lambda: share(N + 1, "cpu"),
        "float": lambda: share(float(N) if last else N, "cpu"),
        "zero": lambda: share(0, "cpu"),
        "differs": lambda: share(2 * N if last else N, "cpu"),
        "generator": lambda: share(N, "cpu", generator=5 if last else None),
        "no group": lambda: gather(x, t, group="all"),
    }
    found = {name: ranks.refusal(call) for name, call in calls.items()}
    found["member"] = [ranks.refusal(call) for call in (
        lambda: gather(x, t, group=group), lambda: share(N, "cpu", group=group),
    )]  # fmt: skip
    return {"refusals": found}


EXPECTED = {
    "shape": "ValueError: input: expected the same shape",
    "dims": "ValueError: input: expected the same shape",
    "dtype": "ValueError: input: expected the same dtype",
    "target dtype": "ValueError: target: expected the same dtype",
    "kind of target": "ValueError: target: expected the same shape",
    "not a tensor": "TypeError: input: expected a Tensor",
    "integers": "TypeError: input: expected float32",
    "target shape": "ValueError: target: expected class indices (2,)",
    "gradient": "ValueError: input: expected gradients wanted on all ranks or on none",
    "multiple": "ValueError: n: expected a multiple",
    "float": "TypeError: n: expected an int",
    "zero": "ValueError: n: expected at least 1",
    "differs": "ValueError: n: expected the same number",
    "generator": "TypeError: generator: expected",
    "no group": "TypeError: group: expected",
}


def holds(size, folder):
    found = ranks.run(work, size, folder)
    losses, grads, w_grads, seeds, firsts, seconds = (
        [rank[name] for rank in found] for name in ("loss", "z", "w", "seed", "first", "second")
    )
    z, y, w = problem()
    z.requires_grad_(), w.requires_grad_()
    assert all(torch.equal(seed, seeds[0]) for seed in seeds)
    assert all(torch.equal(rank["labels"], y) for rank in found)
    loss = mk.multimix_cross_entropy(z, y, w, n=N, seed=seeds[0], backend="reference")
    loss.backward()
    torch.testing.assert_close(sum(losses) / size, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(grads) / size, z.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sum(w_grads) / size, w.grad, rtol=1e-12, atol=1e-15)

    (first,) = torch.autograd.grad(sum(of_rank(z, rank) for rank in range(size)), z, create_graph=True)
    (second,) = torch.autograd.grad((first**3).sum(), z)
    torch.testing.assert_close(torch.cat(firsts), first.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(seconds), second, rtol=1e-12, atol=0)

    for rank, answer in enumerate(found):
        for name, text in EXPECTED.items():
            assert answer["refusals"][name].startswith(text), f"{name} on rank {rank}: {answer['refusals'][name]!r}"
        for text in answer["refusals"]["member"]:
            assert text.startswith("ValueError: group: " if rank else ""), text
            assert bool(text) == bool(rank)


def test_two_ranks(tmp_path):
    holds(2, tmp_path)


@pytest.mark.slow
def test_three_ranks(tmp_path):
    holds(3, tmp_path)


def test_without_a_process_group():
    for call in (lambda: distributed.gather(*problem()[:2]), lambda: distributed.share(N, "cpu")):
        with pytest.raises(RuntimeError, match="init_process_group"):
            call()
