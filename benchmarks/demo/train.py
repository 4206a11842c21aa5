"""One training run: a data set, a method and a seed in; a trained network and its figures out."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from . import measures
from .augment import augment
from .data import Dataset
from .methods import Method, Mixing
from .models import Network, build
from .settings import Settings
from .variants import find_method

MIXING = 1 << 32  # keeps the mixing's seeds apart from those of initial weights and mini-batches
GEOMETRY = 1000  # test examples whose pairs are compared


@dataclass(frozen=True)
class Trained:
    """A trained network and how it came about."""

    model: Network
    curve: list[tuple[int, float]]  # step, test accuracy
    losses: list[float]
    step_ms: float


@dataclass(frozen=True)
class Run:
    """The figures of one run: a row of the results."""

    dataset: str
    examples: int
    method: str
    seed: int
    accuracy: float
    noise_accuracy: float
    shift_accuracy: float
    alignment: float
    uniformity: float
    step_ms: float
    mixing_ms: float
    curve: list[tuple[int, float]]
    nll: float | None = None  # of the clean test set, as is:
    calibration: float | None = None


def train(
    data: Dataset, method: Method, seed: int, settings: Settings, advance: Callable[[int], object] = lambda steps: None
) -> Trained:
    """Trains a network. Initial weights, mini-batches and mixing follow from the seed, the first two for every method.

    Args:
        data: on the device of the settings.
        advance: told the number of steps done since it was last called.
    """
    model = build(data.x.shape[1], tuple(data.x.shape[2:]), data.classes, seed).to(data.x.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
    batches = torch.Generator().manual_seed(seed)
    mixing = Mixing(MIXING + seed, settings.n, settings.backend)
    batch_size = min(settings.batch_size, len(data.y))
    marks = [round(k * settings.steps / settings.evaluations) for k in range(settings.evaluations + 1)]
    curve, losses, step_ms = [], [], []
    for begin, end in pairwise(marks):
        model.train()
        part = []
        started = time.perf_counter()
        for _ in range(begin, end):
            chosen = torch.randperm(len(data.y), generator=batches)[:batch_size].to(data.x.device)
            x = augment(data.x[chosen], batches) if settings.augment else data.x[chosen]
            loss = method(model, x, data.y[chosen], mixing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            part.append(loss.detach())
        losses += torch.stack(part).tolist()  # waits for the device, so that the clock below is right
        step_ms.append(1000 * (time.perf_counter() - started) / (end - begin))
        curve.append((end, measures.accuracy(model, data.x_test, data.y_test)))
        advance(end - begin)
    return Trained(model, curve, losses, statistics.median(step_ms))


def mixing_ms(trained: Trained, data: Dataset, method: Method, settings: Settings, repeats: int = 5) -> float:
    """Milliseconds of a method's loss, forward and backward, from a mini-batch's feature maps: the mixing step alone.

    For a method that alternates it is the first of its two losses.
    """
    with torch.no_grad():
        z = trained.model.features(data.x[: settings.batch_size])
    z.requires_grad_()
    headed = Network(nn.Sequential(), trained.model.head).train()
    mixing = Mixing(0, settings.n, settings.backend)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        (gradient,) = torch.autograd.grad(method.loss(headed, z, data.y[: settings.batch_size], mixing), z)
        gradient.sum().item()  # waits for the device
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def measure(trained: Trained, data: Dataset, name: str, seed: int, settings: Settings) -> Run:
    """The figures of a trained network."""
    model, x, y = trained.model, data.x_test, data.y_test
    z, logits = measures.embeddings(model, x[:GEOMETRY]), measures.predictions(model, x)
    return Run(
        dataset=data.name,
        examples=len(data.y),
        method=name,
        seed=seed,
        accuracy=trained.curve[-1][1],
        noise_accuracy=measures.accuracy(model, measures.with_noise(x, settings.noise), y),
        shift_accuracy=measures.accuracy(model, measures.with_shift(x, settings.shift), y),
        alignment=measures.alignment(z, y[:GEOMETRY]),
        uniformity=measures.uniformity(z),
        step_ms=trained.step_ms,
        mixing_ms=mixing_ms(trained, data, find_method(name), settings),
        curve=trained.curve,
        nll=measures.negative_log_likelihood(logits, y),
        calibration=measures.calibration_error(logits, y),
    )
