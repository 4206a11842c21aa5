"""Trains the same network with two backends, step by step from the same seed."""

from collections.abc import Sequence
from dataclasses import replace

from .data import Dataset
from .settings import Settings
from .train import mixing_ms, train
from .variants import find_method

STEPS = 100
EARLY = 10  # steps before rounding differences have had time to grow


def compare(data: Dataset, methods: list[str], backends: Sequence[str], settings: Settings) -> str:
    """Differences of the training-loss curves, and times."""
    settings = replace(settings, steps=min(settings.steps, STEPS), evaluations=2)
    lines = []
    for name in methods:
        losses = []
        lines.append(f"{find_method(name).label}, {settings.steps} steps on {data.name}, n = {settings.n}:")
        for backend in backends:
            chosen = replace(settings, backend=backend)
            trained = train(data, find_method(name), 0, chosen)
            losses.append(trained.losses)
            alone = mixing_ms(trained, data, find_method(name), chosen)
            lines.append(f"  {backend:<10} {trained.step_ms:8.2f} ms a step, {alone:8.2f} ms the mixing step alone")
        differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
        lines.append(
            f"  greatest difference of the training losses: {max(differences[:EARLY]):.1e} in the first {EARLY} steps, "
            f"{max(differences):.1e} in all (losses about {sum(losses[0]) / len(losses[0]):.2f})"
        )
    return "\n".join(lines)
