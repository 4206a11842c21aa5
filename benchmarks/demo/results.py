"""The finished runs: kept on disk as they finish, and compared with plain training."""

import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from multimix_kernels import backends

from ..system import provenance
from .settings import Settings
from .train import Run

Case = tuple[str, int]  # data set, training examples


@dataclass(frozen=True)
class Cost:
    """Of one mixing step, forward and backward, beyond its inputs, outputs and gradients."""

    peer: str
    n: int
    seconds: float
    peak_bytes: int


@dataclass
class Results:
    """Runs in the order in which they finished, and what steps cost if that was measured."""

    settings: Settings
    runs: list[Run] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Results that were saved."""
        content = json.loads(path.read_text())
        runs = [Run(**run) for run in content["runs"]]
        return cls(Settings(**content["settings"]), runs, [Cost(**cost) for cost in content.get("costs", ())])

    @property
    def seeds(self) -> int:
        """How many seeds there are runs of."""
        return len({run.seed for run in self.runs})

    def cases(self) -> list[Case]:
        """Data sets and training sizes of which there are runs."""
        return list(dict.fromkeys((run.dataset, run.examples) for run in self.runs))

    def methods(self, case: Case) -> list[str]:
        """Methods that have a run."""
        return list(dict.fromkeys(run.method for run in self.of(case)))

    def of(self, case: Case, method: str | None = None) -> list[Run]:
        """Runs of a case, perhaps of one method only."""
        return [r for r in self.runs if (r.dataset, r.examples) == case and method in (None, r.method)]

    def mean(self, case: Case, method: str, figure: str) -> float:
        """Mean of a figure over the seeds."""
        return statistics.fmean(self._figures(case, method, figure).values())

    def spread(self, case: Case, method: str, figure: str) -> float:
        """Standard deviation of a figure over the seeds; NaN for one seed."""
        return _deviation(self._figures(case, method, figure).values())

    def median(self, case: Case, method: str, figure: str) -> float:
        """Median of a figure over the seeds: for times, which a busy machine stretches."""
        return statistics.median(self._figures(case, method, figure).values())

    def gain(self, case: Case, method: str, figure: str) -> tuple[float, float]:
        """Mean and standard deviation of the difference from plain training with the same seed."""
        differences = self._differences(case, method, figure)
        return (statistics.fmean(differences), _deviation(differences)) if differences else (float("nan"),) * 2

    def verdict(self, case: Case, method: str, figure: str) -> int:
        """1 if the figure is above that of plain training, -1 if below, 0 if the runs do not tell.

        They tell if all seeds agree (two at least) and the mean difference exceeds the differences' spread.
        """
        differences = self._differences(case, method, figure)
        mean, deviation = self.gain(case, method, figure)
        agree = all(d > 0 for d in differences) or all(d < 0 for d in differences)
        return (1 if mean > 0 else -1) if len(differences) > 1 and agree and abs(mean) > deviation else 0

    def save(self, path: Path) -> None:
        """Writes settings, provenance and runs. A reader sees the old file or the new one, never half of one."""
        content = {
            "provenance": provenance(torch.device(self.settings.device)) | {"backend": backend_name(self.settings)},
            "settings": asdict(self.settings),
            "runs": [asdict(run) for run in self.runs],
            "costs": [asdict(cost) for cost in self.costs],
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(partial, path)

    def _differences(self, case: Case, method: str, figure: str) -> list[float]:
        base = self._figures(case, "plain", figure)
        return [value - base[seed] for seed, value in self._figures(case, method, figure).items() if seed in base]

    def _figures(self, case: Case, method: str, figure: str) -> dict[int, float]:
        return {run.seed: getattr(run, figure) for run in self.of(case, method)}


def _deviation(values: Iterable[float]) -> float:
    values = list(values)
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def backend_name(settings: Settings) -> str:
    """The backend that mixes."""
    return backends.choose(settings.backend, torch.device(settings.device), torch.float32).name
