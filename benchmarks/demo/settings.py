"""The sizes of a demonstration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What all runs of one demonstration share."""

    steps: int = 400
    seeds: int = 3
    batch_size: int = 128
    n: int = 1000  # mixed examples in a step; Dense MultiMix shares them out over its locations
    learning_rate: float = 1e-2
    weight_decay: float = 0.05
    evaluations: int = 8  # points of a training curve
    noise: float = 0.5  # standard deviation of the noise added to test inputs, which have standard deviation 1
    shift: float = 0.125  # greatest shift of a test input, as a part of its length
    augment: bool = False  # flips and shifts of the training images
    backend: str | None = None
    device: str = "cpu"


# Small enough for a test machine and the slow reference backend.
QUICK = {"steps": 24, "seeds": 2, "n": 100, "evaluations": 4}

COMPARABLE = 200  # steps; shorter runs end before methods that regularise can show what they do
