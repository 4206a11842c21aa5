"""The training methods. Each is the loss of one mini-batch; the rest of the training loop is the same for all.

Compare `plain` with `multimix`: all that changes is which function computes the loss from the embeddings. (Where the
seed of a step needs no name, `model.head(z, y)` of a `MultiMixHead` is the same in one call.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multimix_kernels import dense_multimix_cross_entropy, multimix_cross_entropy

from .models import Network

PAPER = (0.5, 2.0)  # concentrations of the paper: with 128 examples, all mixtures lie near the mean of the mini-batch
SPARSE = (0.05, 0.2)  # a few examples make up most of a mixture; chosen among three ranges on seeds not shown here


Alpha = float | tuple[float, float]


class Mixing:
    """How to mix, and the randomness of mixing: all of it follows from the seed."""

    def __init__(self, seed: int, n: int = 1000, backend: str | None = None) -> None:
        self.n, self.backend = n, backend
        self.random = Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def seed(self) -> int:
        """A fresh seed: it names the weights of one step, on every backend and device."""
        return int(torch.randint(2**63 - 1, (), generator=self.generator))

    def pairs(self, batch: int, alpha: float) -> tuple[Tensor, float]:
        """A partner for each example, and the share that the example keeps."""
        return torch.randperm(batch, generator=self.generator), self.random.betavariate(alpha, alpha)


def plain(model: Network, x: Tensor, y: Tensor, mixing: Mixing) -> Tensor:
    """Cross-entropy, nothing mixed."""
    return F.cross_entropy(model(x), y)


def multimix(
    model: Network,
    x: Tensor,
    y: Tensor,
    mixing: Mixing,
    alpha: Alpha = PAPER,
    m: int | None = None,
    n: int | None = None,
) -> Tensor:
    """MultiMix: n convex combinations of m embeddings of the mini-batch, or of all."""
    z = model.embed(x)
    return multimix_cross_entropy(z, y, model.head.weight, model.head.bias, **_options(mixing, len(y), alpha, m, n, 1))


def dense_multimix(
    model: Network,
    x: Tensor,
    y: Tensor,
    mixing: Mixing,
    alpha: Alpha = PAPER,
    m: int | None = None,
    n: int | None = None,
    attention: str = "gap",
    activation: str = "relu",
) -> Tensor:
    """Dense MultiMix: the same at every location of the feature map, weighted by attention."""
    z = model.features(x)
    options = _options(mixing, len(y), alpha, m, n, z.shape[2:].numel())
    options |= dict(attention=attention, attention_activation=activation)
    return dense_multimix_cross_entropy(z, y, model.head.weight, model.head.bias, **options)


def _options(mixing: Mixing, b: int, alpha: Alpha, m: int | None, n: int | None, locations: int) -> dict[str, Any]:
    """What both losses are called with. All n mixtures of a step are shared out over the locations."""
    each = max(1, (mixing.n if n is None else n) // locations)
    of = None if m is None else min(m, b)
    return dict(n=each, m=of, alpha=alpha, seed=mixing.seed(), backend=mixing.backend)


def mixup(model: Network, x: Tensor, y: Tensor, mixing: Mixing, alpha: float = 1.0) -> Tensor:
    """Input mixup (Zhang et al., ICLR 2018): pairs of inputs."""
    partner, share = mixing.pairs(len(x), alpha)
    return _pair_loss(model(_mix_pairs(x, partner, share)), y, partner, share)


def manifold_mixup(model: Network, x: Tensor, y: Tensor, mixing: Mixing, alpha: float = 2.0) -> Tensor:
    """Manifold mixup (Verma et al., ICML 2019): pairs of inputs, or of the outputs of a stage drawn at random."""
    partner, share = mixing.pairs(len(x), alpha)
    stage = mixing.random.randrange(len(model.stages) + 1)
    h = _mix_pairs(model.stages[:stage](x), partner, share)
    return _pair_loss(model.head(model.stages[stage:](h)), y, partner, share)


def _mix_pairs(x: Tensor, partner: Tensor, share: float) -> Tensor:
    return share * x + (1 - share) * x[partner]


def _pair_loss(logits: Tensor, y: Tensor, partner: Tensor, share: float) -> Tensor:
    return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[partner])


@dataclass(frozen=True)
class Method:
    """A loss, and the one that a fair coin puts in its place on half of the mini-batches, if there is one."""

    label: str
    loss: Callable[..., Tensor]
    otherwise: Callable[..., Tensor] | None = None

    def __call__(self, model: Network, x: Tensor, y: Tensor, mixing: Mixing) -> Tensor:
        """The loss of one mini-batch."""
        if self.otherwise is not None and mixing.random.random() < 0.5:
            return self.otherwise(model, x, y, mixing)
        return self.loss(model, x, y, mixing)


METHODS = {
    "plain": Method("plain", plain),
    "mixup": Method("input mixup", mixup),
    "manifold": Method("manifold mixup", manifold_mixup),
    # The paper's recipe: half of the mini-batches with MultiMix, half with input mixup.
    "multimix": Method("MultiMix / mixup", multimix, mixup),
    "dense": Method("Dense MultiMix / mixup", dense_multimix, mixup),
    "multimix-plain": Method("MultiMix / plain", multimix, plain),
    "dense-plain": Method("Dense MultiMix / plain", dense_multimix, plain),
    "multimix-sparse": Method("sparse MultiMix", partial(multimix, alpha=SPARSE)),
    "dense-sparse": Method("sparse Dense MultiMix", partial(dense_multimix, alpha=SPARSE)),
    "multimix-only": Method("MultiMix only", multimix),
    "dense-only": Method("Dense MultiMix only", dense_multimix),
}
DEFAULT = tuple(METHODS)[:9]
