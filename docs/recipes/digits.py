"""The data of every recipe: scikit-learn's 1797 digits of 8 x 8 pixels, on the disk with the package."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def load(channels: int = 1, size: int = 8) -> tuple[TensorDataset, TensorDataset]:
    """Images (channels, size, size) with labels: 1297 to train on, 500 to test with."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).sub(8).div(6).unsqueeze(1)
    images = torch.nn.functional.interpolate(images, size=(size, size)).expand(-1, channels, -1, -1).contiguous()
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:-500], order[-500:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])
