"""Mixing over the mini-batches of all ranks.

Every rank holds its own embeddings and targets. They are gathered, every rank computes its share of the rows of one and
the same draw, and gradients flow back to the rank that owns each example:

    z, y = gather(z, y)
    loss = multimix_cross_entropy(z, y, weight, bias, **share(n, z.device))

The mean of the ranks' losses is the loss over all n rows, and DistributedDataParallel, which averages gradients over
ranks, then computes its gradient.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


class _AllGather(Function):
    """Concatenates the ranks' tensors; the gradient of each is summed over the ranks that used it."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _all_gather(x, group)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        rank, size = dist.get_rank(ctx.group), dist.get_world_size(ctx.group)
        return grad.chunk(size)[rank], None


def _all_gather(x: Tensor, group) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.detach().contiguous(), group=group)
    return torch.cat(parts)


def gather(input: Tensor, target: Tensor, *, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
    """The embeddings and targets of all ranks, in the order of the ranks.

    Args:
        input: embeddings (b, d) or feature maps (b, d, *spatial) of this rank; differentiable.
        target: class indices (b,) or probabilities (b, c) of this rank.
        group: the process group; None: the default one.

    Returns:
        (size * b, d, ...) and (size * b, ...).

    Raises:
        ValueError: the ranks' shapes differ, naming the argument. Checked for tensors on the CPU only.
    """
    for name, x in (("input", input), ("target", target)):
        if x.device.type != "cpu":
            continue  # reading the shapes back would stall the stream: there they must agree
        shape = torch.tensor([x.dim(), *x.shape, *[0] * (8 - x.dim())], device=x.device)
        shapes = _all_gather(shape.unsqueeze(0), group)
        if bool((shapes != shape).any()):
            every = [tuple(row[1 : 1 + row[0]]) for row in shapes.tolist()]
            raise ValueError(f"{name}: expected the same shape on every rank, got {every}; drop the last batch")
    return _AllGather.apply(input, group), _all_gather(target, group)


def share(
    n: int,
    device: torch.device | str,
    *,
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict:
    """This rank's share of n interpolated examples: the arguments n, row_offset and seed of the losses.

    The seed is drawn on the first rank and sent to the others, so that all rows are of one draw.

    Raises:
        ValueError: n is not a multiple of the number of ranks, so that their losses' mean would not be the loss.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    if n < 1 or n % size:
        raise ValueError(f"n: expected a multiple of the {size} ranks, got {n}")
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)
    dist.broadcast(seed, dist.get_global_rank(group, 0) if group else 0, group=group)
    return dict(n=n // size, row_offset=rank * (n // size), seed=seed)
