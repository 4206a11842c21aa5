"""All runs of a study in order; those in the file already are not made again."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..demo.data import Dataset
from ..demo.results import Results, backend_name
from ..demo.settings import Settings
from ..demo.train import Run, measure, train
from ..demo.variants import find_method
from ..files import write_json
from ..system import provenance
from .experiments import LEARNING_RATES, Experiment, family
from .workers import each

VALIDATION = 10_000  # training examples put aside while learning rates are searched
SEARCH_SEED = 1000  # apart from those of the comparison


@dataclass
class Study:
    """What was searched and what was run."""

    settings: Settings
    search: dict[str, dict[str, float]] = field(default_factory=dict)  # method: learning rate: validation accuracy
    provenance: dict = field(default_factory=dict)
    workers: int = 1  # that run at a time
    results: Results = field(init=False)

    def __post_init__(self) -> None:
        self.results = Results(self.settings)

    def learning_rate(self, method: str) -> float:
        """The best of those tried; the settings' before a search."""
        tried = self.search.get(family(method), {})
        return float(max(tried, key=lambda rate: tried[rate])) if tried else self.settings.learning_rate

    def run_settings(self, experiment: Experiment, method: str) -> Settings:
        """Of one run."""
        return replace(self.settings, steps=experiment.steps, learning_rate=self.learning_rate(method))

    def save(self, path: Path) -> None:
        """Writes all of it; a reader sees the old file or the new one."""
        made = provenance(torch.device(self.settings.device))
        self.provenance = made | {"backend": backend_name(self.settings), "workers": self.workers}
        write_json(path, {
            "provenance": self.provenance,
            "settings": asdict(self.settings),
            "search": self.search,
            "runs": [asdict(run) for run in self.results.runs],
            "costs": [asdict(cost) for cost in self.results.costs],
        })  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "Study":
        """A study that was saved."""
        content = json.loads(path.read_text())
        results = Results.load(path)
        study = cls(results.settings, content["search"], content["provenance"])
        study.results = results
        return study


def runs(experiments: tuple[Experiment, ...]) -> list[tuple[Experiment, str, int]]:
    """(experiment, method, seed), each once; seeds outermost, so that a study cut short has about as many of each."""
    seeds = max(e.seeds for e in experiments)
    found = [(e, m, s) for s in range(seeds) for e in experiments if s < e.seeds for m in e.methods]
    return list({(e.title, m, s): (e, m, s) for e, m, s in found}.values())


def conduct(
    data: Dataset,
    study: Study,
    experiments: tuple[Experiment, ...],
    file: Path,
    say: Callable[[str], object],
    advance: Callable[[int], object],
    workers: int = 1,
) -> None:
    """The search, then every run, `workers` of them at a time; the file is written after each."""
    study.workers = workers
    _search(data, study, experiments[0], file, say, advance, workers)
    done = {(run.dataset, run.method, run.seed) for run in study.results.runs}
    wanted = runs(experiments)
    missing = [(e, method, seed) for e, method, seed in wanted if (e.title, method, seed) not in done]
    advance(sum(e.steps for e, _, _ in wanted) - sum(e.steps for e, _, _ in missing))
    tasks = [(study.run_settings(e, method), e, method, seed) for e, method, seed in missing]
    for (_, experiment, method, seed), run in each(_run, data, tasks, workers):
        study.results.runs.append(run)
        study.save(file)
        say(f"{experiment.title}: {find_method(method).label}, seed {seed}: {100 * run.accuracy:.1f} %")
        advance(experiment.steps)


def _search(
    data: Dataset,
    study: Study,
    first: Experiment,
    file: Path,
    say: Callable[[str], object],
    advance: Callable[[int], object],
    workers: int,
) -> None:
    """Each family of the first experiment with each learning rate: validation accuracy after training, one seed."""
    aside = data.validation(min(VALIDATION, len(data.y) // 4))
    aside = aside.subset(first.examples or len(aside.y), SEARCH_SEED).to(study.settings.device)
    wanted = [(m, rate) for m in dict.fromkeys(map(family, first.methods)) for rate in LEARNING_RATES]
    tasks = [
        (replace(study.settings, steps=first.steps, evaluations=1, learning_rate=rate), method)
        for method, rate in wanted
        if str(rate) not in study.search.setdefault(method, {})
    ]
    advance(first.steps * (len(wanted) - len(tasks)))
    for (settings, method), accuracy in each(_try, aside, tasks, workers):
        study.search[method][str(settings.learning_rate)] = accuracy
        study.save(file)
        say(f"search: {find_method(method).label}, learning rate {settings.learning_rate:g}: {100 * accuracy:.1f} %")
        advance(first.steps)


def total_steps(experiments: tuple[Experiment, ...]) -> int:
    """Steps of the whole study."""
    search = len(set(map(family, experiments[0].methods))) * len(LEARNING_RATES) * experiments[0].steps
    return search + sum(experiment.steps for experiment, _, _ in runs(experiments))


def _try(aside: Dataset, settings: Settings, method: str) -> float:
    return train(aside, find_method(method), SEARCH_SEED, settings).curve[-1][1]


def _run(data: Dataset, settings: Settings, experiment: Experiment, method: str, seed: int) -> Run:
    chosen = data.subset(experiment.examples or len(data.y), seed)
    if experiment.wrong_labels:
        chosen = chosen.mislabelled(experiment.wrong_labels, seed)
    chosen = replace(chosen, name=experiment.title).to(settings.device)
    return measure(train(chosen, find_method(method), seed, settings), chosen, method, seed, settings)
