"""What came out: the table, and a summary in plain words made from the numbers."""

import math
import statistics

import torch

from multimix_kernels import multimix

from .. import text
from .data import TITLES
from .methods import PAPER, SPARSE
from .results import Case, Results, backend_name
from .settings import COMPARABLE
from .variants import find_method

ACCURACIES = {"accuracy": "clean", "noise_accuracy": "noise", "shift_accuracy": "shift"}
MARKS = {1: "+", -1: "-", 0: "~"}


def title(case: Case) -> str:
    """A case in words."""
    return f"{TITLES.get(case[0], case[0])}, {case[1]:,} training examples"


def label(method: str) -> str:
    """A method in words."""
    return find_method(method).label


def table(results: Results) -> str:
    """One row for each case and method: means over the seeds, with spread."""
    accuracies = (f"{name}, %" for name in ACCURACIES.values())
    header = ["data:examples", "method", *accuracies, "align", "uniform", "step, ms", "mixing, ms"]
    rows = [_row(results, case, method) for case in results.cases() for method in results.methods(case)]
    return "\n".join([text.table(header, rows, left=("method",)), "", *_legend(results)])


def _row(results: Results, case: Case, method: str) -> list[str]:
    cells = [f"{case[0]}:{case[1]}", label(method)]
    for figure in ACCURACIES:
        mean, spread = results.mean(case, method, figure), results.spread(case, method, figure)
        known = not math.isnan(spread)  # one seed has no spread, and tells nothing
        also = f" ±{100 * spread:4.1f}{MARKS[results.verdict(case, method, figure)]}" if known else ""
        cells.append(f"{100 * mean:.1f}{also}")
    cells += [f"{results.mean(case, method, 'alignment'):.3f}", f"{results.mean(case, method, 'uniformity'):.2f}"]
    return cells + [f"{results.median(case, method, figure):.2f}" for figure in ("step_ms", "mixing_ms")]


def _legend(results: Results) -> list[str]:
    settings = results.settings
    several = results.seeds > 1
    of = f"Mean ± spread of {results.seeds} seeds, {settings.steps} steps each" if several else (
        f"One seed, {settings.steps} steps"
    )  # fmt: skip
    verdicts = (
        "+ or -: above or below plain in every seed, by more than the differences' spread; ~: the runs do not tell."
    )
    return [
        f"{of}, n = {settings.n}, backend {backend_name(settings)!r}. Other seeds draw other training examples too.",
        "X / Y: X on half of the mini-batches, Y on the others.",
        f"sparse: on every mini-batch, with Dirichlet concentrations {SPARSE} in place of {PAPER}.",
        *([verdicts] if several else []),
        f"noise: Gaussian, of {settings.noise} standard deviations of the data. shift: by up to "
        f"{100 * settings.shift:g} % of the length. Both on test inputs only.",
        "align: mean squared distance within a class. uniform: log mean exp(-2 distance²) of all pairs. Lower is "
        "better for both.",
        "mixing: the loss from feature maps, forward and backward, without the network.",
    ]


def summary(results: Results, classes: int) -> str:
    """What the numbers say.

    Args:
        results: at least one run.
        classes: of the first data set.
    """
    lines = []
    cases = [case for case in results.cases() if "plain" in results.methods(case)]
    if results.settings.steps < COMPARABLE:
        lines.append(f"{results.settings.steps} steps show that everything works; they are too few to judge a method.")
    elif cases:
        lines += _tally(results, cases)
        for case in cases:
            lines += _case(results, case)
    mixing = [m for m in dict.fromkeys(run.method for run in results.runs) if "multimix" in m or "dense" in m]
    if mixing:
        lines.append(_targets(results, classes))
        lines.append(_times(results, mixing))
    return "\n".join(lines)


def _tally(results: Results, cases: list[Case]) -> list[str]:
    sets = "one training set" if len(cases) == 1 else f"{len(cases)} training sets"
    lines = [f"Against plain training, on {sets} with {len(ACCURACIES)} kinds of test input each:"]
    for method in dict.fromkeys(run.method for run in results.runs if run.method != "plain"):
        of = [(c, f) for c in cases if method in results.methods(c) for f in ACCURACIES]
        verdicts = [results.verdict(case, method, figure) for case, figure in of]
        lines.append(
            f"  {label(method):<22} above in {verdicts.count(1)}, below in {verdicts.count(-1)}, "
            f"not clearly different in {verdicts.count(0)}"
        )
    return lines


def _case(results: Results, case: Case) -> list[str]:
    lines = [f"{title(case)}:"]
    methods = results.methods(case)
    for figure, name in ACCURACIES.items():
        best = max(methods, key=lambda m: results.mean(case, m, figure))
        parts = [f"plain {100 * results.mean(case, 'plain', figure):.1f} %"]
        if best != "plain":
            parts[0] += f", best {label(best)} {100 * results.mean(case, best, figure):.1f} %"
        for sign, word in ((1, "above plain"), (-1, "below plain")):
            found = [m for m in methods if results.verdict(case, m, figure) == sign]
            found.sort(key=lambda m: -abs(results.gain(case, m, figure)[0]))
            named = (f"{label(m)} {100 * results.gain(case, m, figure)[0]:+.1f}" for m in found)
            parts += [f"{word}: {', '.join(named)}"] if found else []
        lines.append(f"  {name}: {'; '.join(parts)}.")
    tight = [m for m in methods if all(results.verdict(case, m, f) == -1 for f in ("alignment", "uniformity"))]
    if tight:
        lines.append(f"  Classes tighter and embeddings more evenly spread than plain: {', '.join(map(label, tight))}.")
    return [*lines, _speed(results, case), *_inherited(results, case)]


def _speed(results: Results, case: Case) -> str:
    """How many steps methods need to come near plain training: mixed targets are learnt more slowly."""
    goal = 0.9 * results.mean(case, "plain", "accuracy")
    by_steps: dict[str, list[str]] = {}
    for method in results.methods(case):
        by_steps.setdefault(_steps_to(goal, results, case, method), []).append(label(method))
    parts = (
        f"{steps}: {', '.join(named)}" for steps, named in sorted(by_steps.items(), key=lambda item: item[0].zfill(9))
    )
    return f"  Steps to {100 * goal:.1f} % clean (0.9 of plain): {'; '.join(parts)}."


def _steps_to(goal: float, results: Results, case: Case, method: str) -> str:
    curves = [run.curve for run in results.of(case, method)]
    for points in zip(*curves, strict=True):
        if statistics.fmean(value for _, value in points) >= goal:
            return str(points[0][0])
    return "not reached"


def _inherited(results: Results, case: Case) -> list[str]:
    """Where a recipe that is half input mixup falls behind together with input mixup."""
    recipes = [m for m in ("multimix", "dense") if {m, "mixup", "plain"} <= set(results.methods(case))]
    parts = []
    for figure, name in ACCURACIES.items():
        behind = [m for m in recipes if results.verdict(case, m, figure) == -1]
        if behind and results.verdict(case, "mixup", figure) == -1:
            named = (f"{label(m)} {100 * results.gain(case, m, figure)[0]:+.1f}" for m in behind)
            parts.append(f"{name} {100 * results.gain(case, 'mixup', figure)[0]:+.1f} ({', '.join(named)})")
    if not parts:
        return []
    return [
        f"  Input mixup by itself falls behind, and with it the recipes that are half input mixup: {'; '.join(parts)}."
    ]


def _targets(results: Results, classes: int) -> str:
    """How much a mixed target says about its class: what separates the two ranges of concentrations."""
    b = min(results.settings.batch_size, results.cases()[0][1])
    share = {}
    for alpha in (PAPER, SPARSE):
        mixture = multimix(torch.zeros(b, 1), n=500, alpha=alpha, seed=0)
        share[alpha] = float(mixture.targets(torch.arange(b) % classes, classes).amax(1).mean())
    return (
        f"Why concentrations matter: in mixtures of {b} examples of {classes} classes, the likeliest class of a "
        f"target has probability {share[PAPER]:.2f} on average with {PAPER}, {share[SPARSE]:.2f} with {SPARSE}; a "
        f"label has 1, and a target that says nothing {1 / classes:.2f}."
    )


def _times(results: Results, methods: list[str]) -> str:
    def extremes(figure: str) -> str:
        times = [statistics.median(getattr(r, figure) for r in results.runs if r.method == m) for m in methods]
        return f"{min(times):.1f} to {max(times):.1f} ms"

    return (
        f"Time, by method: mixing with n = {results.settings.n} and the {backend_name(results.settings)!r} backend "
        f"took {extremes('mixing_ms')}; a whole training step {extremes('step_ms')}."
    )
