"""The study as a command: `python -m benchmarks.demo --data fashion-mnist --study`."""

from dataclasses import replace
from pathlib import Path

from ..demo.data import Dataset
from ..demo.settings import Settings
from ..progress import Progress
from . import picture, report
from .costs import costs
from .experiments import experiments
from .jobs import Study, conduct, total_steps

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
EVALUATIONS = 1  # of the test set in each run, at its end: it is ten times the training set


def study(data: Dataset, settings: Settings, out: Path, quick: bool = False, workers: int = 1) -> int:
    """Searches, trains, measures and reports; returns the exit status.

    Args:
        data: images.
        settings: of every run; steps and learning rate are the study's own.
        out: directory for study.json, study.md and study.png. Runs in study.json are not made again.
        quick: a few steps of a few methods.
        workers: processes that train beside each other, each on its share of the threads.

    Raises:
        ValueError: study.json is of other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    file, planned = out / "study.json", experiments(quick)
    settings = replace(settings, evaluations=EVALUATIONS)
    made = Study.load(file) if file.exists() else Study(settings)
    if made.settings != settings:
        raise ValueError(f"out: {file} is a study with other settings; name another folder, or remove it")
    status = 0
    try:
        with Progress(total_steps(planned), unit="step") as progress:
            conduct(data, made, planned, file, progress.say, progress.advance, workers)
            if not made.results.costs:
                made.results.costs = [
                    cost for n in (settings.n, 100 * settings.n) for cost in costs(n, settings.device)
                ]
                made.save(file)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if made.results.runs:
        write(made, out)
        print(report.render(made), end="\n\n")
        print(f"Wrote {file}, study.md and study.png beside it.")
    if status:
        print("Interrupted: the same command goes on where this one stopped.")
    return status


def write(made: Study, out: Path) -> None:
    """The table and the picture of a study."""
    (out / "study.md").write_text(report.render(made) + "\n")
    picture.draw(made, out / "study.png")
