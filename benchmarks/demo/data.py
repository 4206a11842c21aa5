"""The data sets: MNIST-1D (made on the spot), scikit-learn's digits, and folders of the user's own."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Training sizes shown unless the user asks for others: few examples, and plenty.
SIZES = {"mnist1d": (1000, 4000), "digits": (100,)}

TITLES = {"mnist1d": "MNIST-1D", "digits": "scikit-learn's digits", "fashion-mnist": "Fashion-MNIST"}


@dataclass(frozen=True)
class Dataset:
    """Inputs (N, channels, *spatial), with mean 0 and standard deviation 1 over the training set, and class indices."""

    name: str
    classes: int
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor

    def subset(self, examples: int, seed: int) -> "Dataset":
        """The same test set and `examples` training examples, as many of each class as can be."""
        if not self.classes <= examples <= len(self.y):
            raise ValueError(
                f"train-examples: {self.name} has {self.classes} classes and {len(self.y)} training examples, "
                f"got {examples}"
            )
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        rank = torch.empty_like(order)
        for c in range(self.classes):
            mine = (self.y[order] == c).nonzero().flatten()
            rank[mine] = torch.arange(len(mine))
        chosen = order[torch.argsort(rank, stable=True)[:examples]]
        return replace(self, x=self.x[chosen], y=self.y[chosen])

    def validation(self, examples: int, seed: int = 0) -> "Dataset":
        """Training examples put aside in the place of the test set, which stays unseen."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        aside, kept = order[:examples], order[examples:]
        return replace(self, x=self.x[kept], y=self.y[kept], x_test=self.x[aside], y_test=self.y[aside])

    def mislabelled(self, part: float, seed: int) -> "Dataset":
        """A part of the training examples, drawn at random, with another class than theirs."""
        generator = torch.Generator().manual_seed(seed)
        wrong = torch.rand(len(self.y), generator=generator) < part
        other = (self.y + torch.randint(1, self.classes, self.y.shape, generator=generator)) % self.classes
        return replace(self, y=torch.where(wrong, other, self.y))

    def to(self, device: str) -> "Dataset":
        """The same data on a device."""
        moved = {key: getattr(self, key).to(device) for key in ("x", "y", "x_test", "y_test")}
        return replace(self, **moved)


def load(name: str) -> Dataset:
    """A built-in data set by name."""
    return {"mnist1d": _mnist1d, "digits": _digits}[name]()


def make(name: str, classes: int, x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Dataset:
    """A Dataset of raw inputs, scaled by the statistics of the training set."""
    mean, std = x.float().mean(), x.float().std().clamp_min(1e-6)
    return Dataset(name, classes, (x.float() - mean) / std, y.long(), (x_test.float() - mean) / std, y_test.long())


def _mnist1d() -> Dataset:
    """Greydanus and Kobak, "Scaling down deep learning with MNIST-1D": 4,000 + 1,000 sequences of length 40."""
    from mnist1d.data import get_dataset_args, make_dataset

    raw = make_dataset(get_dataset_args())
    x, y, x_test, y_test = (torch.as_tensor(raw[key]) for key in ("x", "y", "x_test", "y_test"))
    return make("mnist1d", 10, x.unsqueeze(1), y, x_test.unsqueeze(1), y_test)


def _digits() -> Dataset:
    """scikit-learn's handwritten digits: 8x8 images; every third is kept for testing."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x, y = torch.as_tensor(raw.images).unsqueeze(1), torch.as_tensor(raw.target)
    test = torch.arange(len(y)) % 3 == 0
    return make("digits", 10, x[~test], y[~test], x[test], y[test])
