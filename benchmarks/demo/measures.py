"""What is measured of a trained network: accuracy, robustness, and the geometry of its embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .models import Network


@torch.no_grad()
def accuracy(model: Network, x: Tensor, y: Tensor) -> float:
    """The part of the examples that is classified rightly."""
    model.eval()
    parts = zip(x.split(1000), y.split(1000), strict=True)
    return sum(int((model(part).argmax(1) == label).sum()) for part, label in parts) / len(y)


@torch.no_grad()
def embeddings(model: Network, x: Tensor) -> Tensor:
    """Embeddings (N, d), scaled to length one."""
    model.eval()
    return F.normalize(torch.cat([model.embed(part) for part in x.split(1000)]), dim=1)


def with_noise(x: Tensor, standard_deviation: float, seed: int = 0) -> Tensor:
    """Gaussian noise added; the same noise whatever network is measured."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + standard_deviation * noise.to(x.device)


def with_shift(x: Tensor, part: float, seed: int = 0) -> Tensor:
    """Each example moved along every spatial dimension by up to `part` of its size; the edge value fills the gap."""
    generator = torch.Generator().manual_seed(seed)
    for dim in range(2, x.dim()):
        size = x.shape[dim]
        reach = max(1, round(part * size))
        offset = torch.randint(-reach, reach + 1, (len(x), 1), generator=generator)
        source = (torch.arange(size) + offset).clamp(0, size - 1).to(x.device)
        shape = [len(x)] + [1] * (x.dim() - 1)
        shape[dim] = size
        x = x.gather(dim, source.view(shape).expand_as(x))
    return x


def alignment(z: Tensor, y: Tensor) -> float:
    """Mean squared distance of two embeddings of one class (Wang and Isola, ICML 2020). Low: classes are tight.

    z (N, d) has rows of length one.
    """
    same = (y[:, None] == y[None, :]).triu(1)
    return float(_squared_distances(z)[same].mean())


def uniformity(z: Tensor) -> float:
    """Log of the mean of exp(-2 distance^2) over all pairs (Wang and Isola, ICML 2020). Low: evenly spread.

    z (N, d) has rows of length one.
    """
    pairs = torch.ones(len(z), len(z), dtype=torch.bool, device=z.device).triu(1)
    return float(_squared_distances(z)[pairs].mul(-2).exp().mean().log())


def principal_plane(z: Tensor) -> Tensor:
    """The first two principal components (N, 2) of embeddings."""
    z = z - z.mean(0)
    _, _, directions = torch.linalg.svd(z, full_matrices=False)
    return z @ directions[:2].T


def _squared_distances(z: Tensor) -> Tensor:
    z = z.double()
    return (2 - 2 * z @ z.T).clamp_min(0)
