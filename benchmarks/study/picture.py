"""The picture of the study: what each method gains over plain training, and the ablations."""

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib

from ..demo.report import label
from ..demo.results import Case, Results
from ..speed.style import PARAMETERS, WIDTH
from .experiments import ABLATIONS, METHODS, Ablation
from .jobs import Study

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = ("#2a9d5c", "#1f77b4", "#d1495b", "#8e4fb0", "#e8710a")
PLAIN = "#222222"


def draw(study: Study, path: Path) -> None:
    """Writes the picture, of what there is to show."""
    results, cases = study.results, study.results.cases()
    methods = [m for m in METHODS if m != "plain" and m in results.methods(cases[0])]
    heights = [0.33 * len(methods) + 1.4] + [5.2] * _has_ablations(results, cases[0])
    with plt.rc_context(PARAMETERS | {"font.size": 9, "axes.titlesize": 9, "figure.titlesize": 10}):
        figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        areas = figure.subfigures(len(heights), 1, height_ratios=heights, hspace=0.02, squeeze=False)[:, 0]
        _gains(areas[0], results, cases, methods)
        if len(areas) > 1:
            _ablations(areas[1], results, cases[0])
        figure.savefig(path)
        plt.close(figure)


def _gains(area: Any, results: Results, cases: list[Case], methods: list[str]) -> None:
    area.suptitle("Accuracy gained over plain training (bar: spread over seeds)", weight="bold")
    axes = area.subplots()
    for k, (case, color) in enumerate(zip(cases, COLORS, strict=False)):
        rows = [row for row, m in enumerate(methods) if m in results.methods(case)]
        gains = [results.gain(case, methods[row], "accuracy") for row in rows]
        axes.errorbar(
            [100 * mean for mean, _ in gains],
            [row + 0.7 * ((k + 0.5) / len(cases) - 0.5) for row in rows],
            xerr=[0 if math.isnan(spread) else 100 * spread for _, spread in gains],
            fmt="o", markersize=4, elinewidth=1, color=color, label=case[0],
        )  # fmt: skip
    for row in range(1, len(methods), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
    axes.axvline(0, color=PLAIN, linewidth=1)
    axes.set(xlabel="percentage points", ylim=(len(methods) - 0.5, -0.5))
    axes.set_yticks(range(len(methods)), [label(m) for m in methods])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    area.legend(loc="outside lower center", ncols=2)


def _has_ablations(results: Results, case: Case) -> bool:
    """Whether an option has been varied."""
    ran = results.methods(case)
    lines = [line for ablation in ABLATIONS if ablation.logarithmic for line in ablation.lines.values()]
    return any(sum(method in ran for _, method in line) > 1 for line in lines)


def _ablations(area: Any, results: Results, case: Case) -> None:
    area.suptitle(f"Test accuracy, % ({case[0]}; line: plain training)", weight="bold")
    for axes, ablation in zip(area.subplots(2, 2).flat, ABLATIONS, strict=True):
        _ablation(axes, results, case, ablation)


def _ablation(axes: Any, results: Results, case: Case, ablation: Ablation) -> None:
    ran = results.methods(case)
    if "plain" in ran:
        axes.axhline(100 * results.mean(case, "plain", "accuracy"), color=PLAIN, linewidth=1)
    for (name, points), color in zip(ablation.lines.items(), COLORS[1:], strict=False):
        found = [(tick, _accuracies(results, case, method)) for tick, method in points if method in ran]
        if not found:
            continue
        at = [float(tick) for tick, _ in found] if ablation.logarithmic else list(range(len(found)))
        means = [statistics.fmean(values) for _, values in found]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0 for _, values in found]
        style = "o-" if ablation.logarithmic else "o"
        axes.errorbar(at, means, yerr=spreads, fmt=style, markersize=4, elinewidth=1, color=color, label=name or None)
        if not ablation.logarithmic:
            axes.set_xticks(at, [tick for tick, _ in found], rotation=25, ha="right")
    if ablation.logarithmic:
        axes.set_xscale("log")
        if any(axes.get_legend_handles_labels()[1]):
            axes.legend(fontsize=8)
    axes.set_title(ablation.title)
    axes.grid(alpha=0.25)


def _accuracies(results: Results, case: Case, method: str) -> list[float]:
    return [100 * run.accuracy for run in results.of(case, method)]
