"""Mixing over ranks equals mixing the whole batch in one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import multimix_kernels as mk
from multimix_kernels import distributed

B, D, C, N = 6, 5, 4, 20


def problem():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(B, D, generator=generator, dtype=torch.float64)
    w = torch.randn(C, D, generator=generator, dtype=torch.float64)
    return z, torch.randint(C, (B,), generator=generator), w


def work(rank, size, store, folder):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    try:
        z, y, w = problem()
        part = slice(rank * B // size, (rank + 1) * B // size)
        mine, w = z[part].requires_grad_(), w.requires_grad_()
        torch.manual_seed(100 + rank)  # ranks that disagree must still share one draw
        every, targets = distributed.gather(mine, y[part])
        options = distributed.share(N, mine.device)
        loss = mk.multimix_cross_entropy(every, targets, w, **options, backend="reference")
        loss.backward()
        errors = []
        for call in (lambda: distributed.gather(z[: rank + 1], y[: rank + 1]), lambda: distributed.share(N + 1, "cpu")):
            try:
                call()
            except ValueError as error:
                errors.append(str(error))
        torch.save((loss.detach(), mine.grad, w.grad, options["seed"], errors), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_ranks_share_one_draw(tmp_path):
    size = 2
    mp.spawn(work, (size, tmp_path / "store", tmp_path), nprocs=size)
    losses, grads, w_grads, seeds, errors = zip(*(torch.load(tmp_path / f"{r}.pt") for r in range(size)), strict=True)
    z, y, w = problem()
    z.requires_grad_(), w.requires_grad_()
    loss = mk.multimix_cross_entropy(z, y, w, n=N, seed=seeds[0], backend="reference")
    loss.backward()
    assert torch.equal(*seeds)
    torch.testing.assert_close(sum(losses) / size, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(grads) / size, z.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sum(w_grads) / size, w.grad, rtol=1e-12, atol=1e-15)
    assert all(e[0].startswith("input:") and e[1].startswith("n:") for e in errors)
