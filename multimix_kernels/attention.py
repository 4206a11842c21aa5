"""Attention maps of Dense MultiMix, in plain PyTorch and differentiable."""

from contextlib import nullcontext

import torch
from torch import Tensor

from . import arguments

KINDS = ("gap", "cam", "uniform")
ACTIVATIONS = ("relu", "softmax")


def attention_map(
    input: Tensor,
    kind: str = "gap",
    activation: str = "relu",
    *,
    weight: Tensor | None = None,
    target: Tensor | None = None,
) -> Tensor:
    """Attention of each example over its spatial locations: a_i = h(z_i^T u_i), scaled to sum to one.

    Dense MultiMix (arXiv 2206.14868), section on attention. An example whose activations are all zero (dead ReLU)
    gets zero attention everywhere.

    Args:
        input: feature maps z (b, d, *spatial).
        kind: "gap": u_i is the mean of z_i over the locations. "cam": u_i = W[y_i], or Y_i W for probabilities.
            "uniform": the same attention everywhere.
        activation: h, "relu" or "softmax" (over the locations).
        weight: W (c, d) of the classifier, needed for "cam".
        target: class indices (b,) of an integer dtype, or probabilities (b, c), needed for "cam". An index out of range
            (ignore_index, say) counts as class 0 here: such an example is not mixed.

    Returns:
        (b, *spatial) in the dtype of input; computed in float32 for narrower dtypes.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    arguments.check_input(input, "input", dense=True)
    arguments.check_choice(kind, "kind", KINDS)
    arguments.check_choice(activation, "activation", ACTIVATIONS)
    b, _, *spatial = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)  # float16 sums of products would overflow
    z = input.to(dtype).reshape(b, input.shape[1], -1)
    if kind == "uniform":
        return torch.full_like(input[:, 0], 1 / z.shape[2])
    u = z.mean(2) if kind == "gap" else _class_directions(z, weight, target)
    # Device "meta" has no autocast to turn off.
    with nullcontext() if z.is_meta else torch.autocast(z.device.type, enabled=False):
        activations = torch.matmul(u.to(dtype).unsqueeze(1), z).squeeze(1)
    if activation == "softmax":
        attention = torch.softmax(activations, 1)
    else:
        positive = torch.relu(activations)
        total = positive.sum(1, keepdim=True)
        attention = positive / torch.where(total > 0, total, 1)
    return attention.to(input.dtype).reshape(b, *spatial)


def _class_directions(z: Tensor, weight: Tensor | None, target: Tensor | None) -> Tensor:
    """u (b, d) of class activation maps."""
    if weight is None or target is None:
        missing = "weight" if weight is None else "target"
        raise ValueError(f"{missing}: attention 'cam' needs the classifier's weight (c, d) and the target")
    arguments.check_tensor(weight, "weight", "a Tensor (c, d)")
    arguments.check_tensor(target, "target", "a Tensor (b,) or (b, c)")
    if weight.dtype not in arguments.DTYPES:
        raise TypeError(f"weight: expected float32, bfloat16, float16 or float64, got {weight.dtype}")
    if weight.dim() < 2 or weight.shape[1] != z.shape[1] or weight.shape[2:].numel() != 1:
        raise ValueError(f"weight: expected shape (c, {z.shape[1]}) to match input, got {tuple(weight.shape)}")
    weight = weight.flatten(1)
    if target.dtype in arguments.DTYPES:
        if target.shape != (z.shape[0], weight.shape[0]):
            raise ValueError(f"target: expected ({z.shape[0]}, {weight.shape[0]}), got {tuple(target.shape)}")
        return target.to(weight.dtype) @ weight
    if target.dtype not in arguments.INTEGERS:
        raise TypeError(f"target: expected class indices of an integer dtype, or probabilities, got {target.dtype}")
    if target.shape != z.shape[:1]:
        raise ValueError(f"target: expected shape ({z.shape[0]},), got {tuple(target.shape)}")
    target = target.to(torch.int64)
    return weight[torch.where((target >= 0) & (target < weight.shape[0]), target, 0)]
