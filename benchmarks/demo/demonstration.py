"""All runs, one after the other, and the report on those that finished."""

from pathlib import Path

from ..progress import Progress
from . import measures, picture, report
from .costs import measure_costs
from .data import Dataset
from .results import Results
from .settings import Settings
from .train import GEOMETRY, measure, train
from .variants import find_method

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


def demonstrate(
    cases: list[tuple[Dataset, int]], methods: list[str], settings: Settings, out: Path, sizes: tuple[int, ...] = ()
) -> int:
    """Trains with every method, saves each run as it finishes, and reports. Returns the exit status.

    Args:
        cases: data sets, and how many training examples to use.
        methods: names of methods.
        settings: of every run.
        out: directory for results.json and demo.png.
        sizes: values of n at which time and memory of a mixing step are measured.
    """
    out.mkdir(parents=True, exist_ok=True)
    results = Results(settings)
    planes: picture.Planes = {}
    status = 0
    try:
        _run_all(cases, methods, results, planes, out / "results.json", sizes)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if results.runs:
        print(report.table(results), report.summary(results, cases[0][0].classes), sep="\n\n", end="\n\n")
        picture.draw(results, planes, out / "demo.png")
        print(f"Wrote {out / 'results.json'} and {out / 'demo.png'}.")
    if status:
        print(f"Interrupted: {len(results.runs)} of {len(cases) * len(methods) * settings.seeds} runs had finished.")
    return status


def _run_all(
    cases: list[tuple[Dataset, int]],
    methods: list[str],
    results: Results,
    planes: picture.Planes,
    file: Path,
    sizes: tuple[int, ...],
) -> None:
    settings = results.settings
    # Seeds outermost, so that after an interruption every method has about as many runs.
    jobs = [(seed, *case, name) for seed in range(settings.seeds) for case in cases for name in methods]
    with Progress(len(jobs) * settings.steps, unit="step") as progress:
        results.costs = measure_costs(settings, sizes, progress.say)
        for seed, whole, examples, name in jobs:
            progress.say(f"{whole.name}:{examples} {find_method(name).label}, seed {seed}")
            data = whole.subset(examples, seed).to(settings.device)
            trained = train(data, find_method(name), seed, settings, progress.advance)
            results.runs.append(measure(trained, data, name, seed, settings))
            results.save(file)
            if seed == 0 and (whole, examples) == cases[0]:
                z = measures.embeddings(trained.model, data.x_test[:GEOMETRY])
                planes[name] = measures.principal_plane(z).cpu(), data.y_test[:GEOMETRY].cpu()
