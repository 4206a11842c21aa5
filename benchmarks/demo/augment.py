"""Standard augmentation of small images: a flip from left to right, and a shift with the edge repeated."""

import torch
from torch import Tensor

REACH = 2  # pixels


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (b, channels, height, width) flipped or not, and moved by up to REACH pixels either way."""
    b, _, height, width = x.shape
    flip = torch.randint(2, (b, 1), generator=generator)
    down, right = torch.randint(-REACH, REACH + 1, (2, b, 1), generator=generator)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    columns = torch.where(flip.bool(), width - 1 - columns, columns)
    example = torch.arange(b)[:, None, None]
    picked = x.movedim(1, 3)[example.to(x.device), rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)]
    return picked.movedim(3, 1)
