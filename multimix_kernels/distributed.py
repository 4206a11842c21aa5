"""Mixing over the mini-batches of all ranks.

Every rank holds its own embeddings and targets. They are gathered, every rank computes its share of the rows of one and
the same draw, and gradients flow back to the rank that owns each example:

    z, y = gather(z, y)
    loss = multimix_cross_entropy(z, y, weight, bias, **share(n, z.device))

The mean of the ranks' losses is the loss over all n rows, and DistributedDataParallel, which averages gradients over
ranks, then computes its gradient.

Without `gather` and `share` each rank mixes its own mini-batch, with weights of its own: a seed that is drawn and not
given is mixed with the rank (see `multimix_cross_entropy`).

Ranks that disagree (arguments, shapes, dtypes) would wait for each other for ever or end the process. So both functions
compare what all ranks were given, on the CPU, before they exchange a tensor, and raise the same error on every rank. A
process group without a backend for the CPU cannot compare without stalling the GPU's stream: there nothing is checked.
`torch.distributed.init_process_group()` without a backend, or with "cpu:gloo,cuda:nccl", has both.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from . import arguments


class _AllGather(Function):
    """Concatenates the ranks' tensors; the gradient of each is summed over the ranks that used it."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _all_gather(x, group)

    @staticmethod
    def backward(ctx, grad):
        return _SumOverRanks.apply(grad, ctx.group), None


class _SumOverRanks(Function):
    """This rank's part of the sum of the ranks' tensors: the transpose of `_AllGather`, and that is its gradient."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        total = x.contiguous().clone()
        dist.all_reduce(total, group=group)
        return total.chunk(dist.get_world_size(group))[dist.get_rank(group)]

    @staticmethod
    def backward(ctx, grad):
        return _AllGather.apply(grad, ctx.group), None


def _all_gather(x: Tensor, group) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.detach().contiguous(), group=group)
    return torch.cat(parts)


def gather(input: Tensor, target: Tensor, *, group: dist.ProcessGroup | None = None) -> tuple[Tensor, Tensor]:
    """The embeddings and targets of all ranks, in the order of the ranks.

    Args:
        input: embeddings (b, d) or feature maps (b, d, *spatial) of this rank; differentiable, twice too. The loss of
            every rank must depend on the result where gradients are wanted: the backward is collective.
        target: class indices (b,) of an integer dtype, or probabilities (b, c), of this rank.
        group: the process group; None: the default one.

    Returns:
        (size * b, d, ...) and (size * b, ...); class indices are int64.

    Raises:
        ValueError, TypeError: naming the argument, on every rank, where one is wrong on a rank, or where shapes,
            dtypes, devices or whether gradients are wanted differ between ranks.
        RuntimeError: torch.distributed is not initialised.
    """
    _check_group(group)

    def check() -> dict[str, Any]:
        arguments.check_input(input, "input", dense=True)
        arguments.check_tensor(target, "target", "class indices (b,) or probabilities (b, c)")
        # The number of classes is not known here: that of the probabilities is as good as any.
        classes = max(1, target.shape[1]) if target.dim() > 1 else 1
        arguments.check_target(target, input.shape[0], classes, input.device, None)
        return {
            "the same shape": {"input": tuple(input.shape), "target": tuple(target.shape)},
            "the same dtype": {"input": input.dtype, "target": target.dtype},
            "the same kind of device": {"input": input.device.type},
            "gradients wanted on all ranks or on none": {"input": input.requires_grad and torch.is_grad_enabled()},
        }

    _agree(check, group)
    labels = target if target.is_floating_point() else target.to(torch.int64)
    return _AllGather.apply(input, group), _all_gather(labels, group)


def share(
    n: int,
    device: torch.device | str,
    *,
    generator: torch.Generator | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict:
    """This rank's share of n interpolated examples: the arguments n, row_offset and seed of the losses.

    The seed is drawn on the first rank and sent to the others, so that all rows are of one draw.

    Args:
        n: rows of all ranks together, a multiple of their number.
        device: where the seed goes: that of the embeddings.
        generator: for drawing the seed.
        group: the process group; None: the default one.

    Raises:
        ValueError, TypeError: naming the argument, on every rank, where it is wrong on a rank or differs between
            ranks; n is not a multiple of the number of ranks, so that their losses' mean would not be the loss.
        RuntimeError: torch.distributed is not initialised.
    """
    _check_group(group)
    size, rank = dist.get_world_size(group), dist.get_rank(group)

    def check() -> dict[str, Any]:
        rows = arguments.check_rows(n)
        if rows % size:
            raise ValueError(f"n: expected a multiple of the {size} ranks, got {rows}")
        arguments.check_generator(generator, torch.device(device))
        return {"the same number": {"n": rows}, "the same kind of device": {"device": torch.device(device).type}}

    _agree(check, group)
    part = arguments.check_rows(n) // size
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)
    dist.broadcast(seed, dist.get_global_rank(group, 0) if group else 0, group=group)
    return dict(n=part, row_offset=rank * part, seed=seed)


def _check_group(group: dist.ProcessGroup | None) -> None:
    """Whether this rank can talk to the others at all."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialised; call torch.distributed.init_process_group first")
    if group is not None and not isinstance(group, dist.ProcessGroup):
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError(f"group: expected a group that this rank is in, got one without rank {dist.get_rank()}")
        raise TypeError(f"group: expected a torch.distributed.ProcessGroup or None, got {type(group).__name__}")


def _agree(check: Callable[[], dict[str, Any]], group: dist.ProcessGroup | None) -> None:
    """Raises one error on every rank if `check` does on any, or if what it returns differs between ranks."""
    error: Exception | None = None
    found: dict[str, Any] = {}
    try:
        found = check()
    except (TypeError, ValueError, RuntimeError) as caught:
        error = caught
    if "cpu" in dist.get_backend_config(group):
        every: list[Any] = [None] * dist.get_world_size(group)
        refusal = None if error is None else (isinstance(error, TypeError), str(error))
        dist.all_gather_object(every, (refusal, found), group=group)
        error = error or _of_another_rank(every)
    if error is not None:
        raise error


def _of_another_rank(every: list) -> Exception | None:
    """The first refusal of any rank, or the first difference between ranks."""
    for rank, (refusal, _) in enumerate(every):
        if refusal is not None:
            is_type_error, text = refusal
            return (TypeError if is_type_error else ValueError)(f"{text} (on rank {rank} of the group)")
    for expected, values in every[0][1].items():
        for name, value in values.items():
            others = [found[expected][name] for _, found in every]
            if any(other != value for other in others):
                hint = "; drop the last, smaller batch" if "shape" in expected else ""
                return ValueError(f"{name}: expected {expected}, got {others}{hint}")
    return None
