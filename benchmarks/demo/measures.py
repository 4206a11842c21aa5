"""What is measured of a trained network: accuracy, robustness, and the geometry of its embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .models import Network

BINS = 15  # of confidence, as usual for the expected calibration error
AT_ONCE = 125  # examples through a network: more leave the caches of a CPU, and take up to three times as long


@torch.no_grad()
def predictions(model: Network, x: Tensor) -> Tensor:
    """Logits (N, c)."""
    model.eval()
    return torch.cat([model(part) for part in x.split(AT_ONCE)])


def accuracy(model: Network, x: Tensor, y: Tensor) -> float:
    """The part of the examples that is classified rightly."""
    return int((predictions(model, x).argmax(1) == y).sum()) / len(y)


def negative_log_likelihood(logits: Tensor, y: Tensor) -> float:
    """Mean cross-entropy (nats) of logits (N, c) and class indices (N,)."""
    return float(F.cross_entropy(logits.double(), y))


def calibration_error(logits: Tensor, y: Tensor) -> float:
    """Expected calibration error: |accuracy - confidence| of equal bins of confidence, weighted by their examples.

    Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    confidence, predicted = torch.softmax(logits.double(), 1).max(1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gap = (predicted == y).double() - confidence
    return float(torch.zeros(BINS, dtype=gap.dtype, device=gap.device).index_add_(0, bins, gap).abs().sum() / len(y))


@torch.no_grad()
def embeddings(model: Network, x: Tensor) -> Tensor:
    """Embeddings (N, d), scaled to length one."""
    model.eval()
    return F.normalize(torch.cat([model.embed(part) for part in x.split(AT_ONCE)]), dim=1)


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
