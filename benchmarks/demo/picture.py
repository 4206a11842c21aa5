"""The picture: training curves, gains over plain training, and embeddings in the plane."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from .report import label, title
from .results import Case, Results

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Planes = dict[str, tuple[Tensor, Tensor]]  # by method: embeddings in the plane (N, 2), and classes (N,)

# Colour is what is mixed, line style is how often.
STYLES = {
    "plain": ("#222222", "-"),
    "mixup": ("#9a9a9a", "-"),
    "manifold": ("#9a9a9a", "--"),
    "multimix": ("#1f77b4", ":"),
    "multimix-plain": ("#1f77b4", "--"),
    "multimix-sparse": ("#1f77b4", "-"),
    "multimix-only": ("#1f77b4", "-."),
    "dense": ("#e8710a", ":"),
    "dense-plain": ("#e8710a", "--"),
    "dense-sparse": ("#e8710a", "-"),
    "dense-only": ("#e8710a", "-."),
}
# Accuracies by name, each with its words and its colour.
TESTS = {
    "accuracy": ("clean test set", "#2a9d5c"),
    "noise_accuracy": ("test set with noise", "#8e4fb0"),
    "shift_accuracy": ("shifted test set", "#d1495b"),
}
# Embeddings are shown of the first four of these that there are.
PANELS = ("plain", "manifold", "multimix", "multimix-sparse", *STYLES)


def draw(results: Results, planes: Planes, path: Path) -> None:
    """Writes the picture.

    Args:
        results, planes: of one run at least; planes are of the first case.
        path: a .png.
    """
    cases = results.cases()[:4]
    shown = sorted(planes, key=PANELS.index)[:4]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = plt.figure(figsize=(15, 13.5), layout="constrained")
        rows: Any = figure.subfigures(3, 1, height_ratios=[1.15, 1.15, 1], hspace=0.03)
        _curves(rows[0], results, cases)
        _gains(rows[1], results, cases)
        _embeddings(rows[2], {method: planes[method] for method in shown}, results, cases[0])
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _curves(area: Any, results: Results, cases: list[Case]) -> None:
    area.suptitle("Test accuracy while training (band: spread over seeds)", weight="bold")
    lines = {}
    for axes, case in zip(area.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        late = []
        for method in results.methods(case):
            runs = results.of(case, method)
            steps = [step for step, _ in runs[0].curve]
            values = 100 * torch.tensor([[value for _, value in run.curve] for run in runs])
            mean, spread = values.mean(0), values.std(0, correction=0)
            color, style = STYLES[method]
            (lines[method],) = axes.plot(steps, mean, style, color=color, linewidth=1.8)
            axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.1, linewidth=0)
            late += mean[len(mean) // 2 :].tolist()
        axes.set(title=title(case), xlabel="step", ylim=(max(0, min(late) - 3), min(100.5, max(late) + 3)))
        axes.grid(alpha=0.25)
    area.axes[0].set_ylabel("test accuracy, %")
    area.legend(lines.values(), map(label, lines), loc="outside right center", frameon=False, handlelength=3)


def _gains(area: Any, results: Results, cases: list[Case]) -> None:
    area.suptitle("Accuracy gained over plain training, in points (thin line: spread over seeds)", weight="bold")
    grid = area.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    methods = [m for m in dict.fromkeys(run.method for run in results.runs) if m != "plain"]
    for axes, case in zip(grid, cases, strict=True):
        for k, (figure, (name, color)) in enumerate(TESTS.items()):
            gains = [results.gain(case, m, figure) for m in methods]
            axes.barh(
                [row + 0.26 * (k - 1) for row in range(len(methods))],
                [100 * mean for mean, _ in gains],
                0.24,
                xerr=[0 if math.isnan(spread) else 100 * spread for _, spread in gains],
                color=color,
                label=name,
                error_kw={"ecolor": "#555555", "elinewidth": 0.9},
            )
        axes.axvline(0, color="#222222", linewidth=1)
        axes.set(title=title(case), xlabel="← worse          points          better →")
        axes.set_yticks(range(len(methods)), [label(m) for m in methods])
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    grid[0].invert_yaxis()
    area.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", frameon=False)


def _embeddings(area: Any, planes: Planes, results: Results, case: Case) -> None:
    area.suptitle(f"Test embeddings in two dimensions, coloured by class ({title(case)}, one seed)", weight="bold")
    grid = area.subplots(1, len(planes), squeeze=False)[0]
    for axes, (method, (points, classes)) in zip(grid, planes.items(), strict=True):
        axes.scatter(*points.T, c=classes, cmap="tab10" if int(classes.max()) < 10 else "turbo", s=8, linewidths=0)
        run = results.of(case, method)[0]
        axes.set_title(label(method))
        axes.set_xlabel(
            f"alignment {run.alignment:.2f} (low: tight)\nuniformity {run.uniformity:.2f} (low: spread out)"
        )
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
