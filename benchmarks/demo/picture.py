"""The picture: accuracy beside time and memory of a step, training curves, and embeddings in the plane."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from ..speed.growth import along_n
from ..speed.style import PARAMETERS, WIDTH
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
# Accuracies by name, each with its words, its colour and its marker.
TESTS = {
    "accuracy": ("clean test set", "#2a9d5c", "o"),
    "noise_accuracy": ("test set with noise", "#8e4fb0", "s"),
    "shift_accuracy": ("shifted test set", "#d1495b", "D"),
}
# Embeddings are shown of the first four of these that there are.
PANELS = ("plain", "manifold", "multimix", "multimix-sparse", *STYLES)


def draw(results: Results, planes: Planes, path: Path) -> None:
    """Writes the picture, of what there is to show.

    Args:
        results: of one run at least.
        planes: of the first case; may be empty.
        path: a .png.
    """
    cases = results.cases()[:3]  # as many as can be read side by side
    methods = [m for m in dict.fromkeys(run.method for run in results.runs) if m != "plain"]
    rows = []  # inches and what draws them
    if methods and any("plain" in results.methods(case) for case in cases):
        rows.append((0.34 * len(methods) + 1.7, lambda area: _gains(area, results, cases, methods)))
    if results.costs:
        rows.append((3.1, lambda area: _costs(area, results)))
    rows.append((3.9, lambda area: _curves(area, results, cases)))
    shown = {method: planes[method] for method in sorted(planes, key=PANELS.index)[:4]}
    if shown:
        rows.append((2.9, lambda area: _embeddings(area, shown, results, cases[0])))
    with plt.rc_context(PARAMETERS | {"font.size": 9, "axes.titlesize": 9, "figure.titlesize": 10}):
        heights = [height for height, _ in rows]
        figure = plt.figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        areas: Any = figure.subfigures(len(rows), 1, height_ratios=heights, hspace=0.02, squeeze=False)
        for area, (_, draw_row) in zip(areas[:, 0], rows, strict=True):
            draw_row(area)
        figure.savefig(path)
        plt.close(figure)


def _title(case: Case) -> str:
    return title(case).replace(", ", "\n", 1)


def _spread(results: Results, sign: str) -> str:
    return f" ({sign}: spread over seeds)" if results.seeds > 1 else ""


def _gains(area: Any, results: Results, cases: list[Case], methods: list[str]) -> None:
    area.suptitle(f"Accuracy gained over plain training{_spread(results, 'bar')}", weight="bold")
    grid = area.subplots(1, len(cases), squeeze=False, sharey=True)[0]
    for axes, case in zip(grid, cases, strict=True):
        for k, (figure, (name, color, marker)) in enumerate(TESTS.items()):
            gains = [results.gain(case, m, figure) for m in methods]
            axes.errorbar(
                [100 * mean for mean, _ in gains],
                [row + 0.22 * (k - 1) for row in range(len(methods))],
                xerr=[0 if math.isnan(spread) else 100 * spread for _, spread in gains],
                fmt=marker,
                markersize=4,
                elinewidth=1,
                color=color,
                label=name,
            )
        for row in range(1, len(methods), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=0)
        axes.axvline(0, color="#222222", linewidth=1)
        axes.set(title=_title(case), xlabel="percentage points", ylim=(len(methods) - 0.5, -0.5))
        axes.set_yticks(range(len(methods)), [label(m) for m in methods])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
    area.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _costs(area: Any, results: Results) -> None:
    area.suptitle(
        "What the library saves: one mixing step, forward and backward (128 examples, 10 classes)", weight="bold"
    )
    panels = (("memory beyond inputs and gradients", "peak_bytes"), ("time", "seconds"))
    grid = area.subplots(1, 2)
    for axes, (name, figure) in zip(grid, panels, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for cost in results.costs:
            lines.setdefault(cost.peer, []).append((cost.n, getattr(cost, figure)))
        along_n(axes, lines, figure == "peak_bytes", name)
    area.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)


def _curves(area: Any, results: Results, cases: list[Case]) -> None:
    area.suptitle(f"Test accuracy while training{_spread(results, 'band')}", weight="bold")
    lines = {}
    grid = area.subplots(1, len(cases), squeeze=False)[0]
    for axes, case in zip(grid, cases, strict=True):
        late = []
        for method in results.methods(case):
            runs = results.of(case, method)
            steps = [step for step, _ in runs[0].curve]
            values = 100 * torch.tensor([[value for _, value in run.curve] for run in runs])
            mean, spread = values.mean(0), values.std(0, correction=0)
            color, style = STYLES[method]
            (lines[method],) = axes.plot(steps, mean, style, color=color, linewidth=1.6)
            axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.1, linewidth=0)
            late += mean[len(mean) // 2 :].tolist()
        axes.set(title=_title(case), xlabel="training step", ylim=(max(0, min(late) - 3), min(100.5, max(late) + 3)))
        axes.grid(alpha=0.25)
    grid[0].set_ylabel("test accuracy, %")
    area.legend(lines.values(), map(label, lines), loc="outside lower center", ncols=3, handlelength=3)


def _embeddings(area: Any, planes: Planes, results: Results, case: Case) -> None:
    area.suptitle(
        f"Test embeddings in two dimensions, coloured by class ({title(case)})\n"
        "low alignment: classes are tight; low uniformity: embeddings are spread out",
        weight="bold",
    )
    grid = area.subplots(1, len(planes), squeeze=False)[0]
    for axes, (method, (points, classes)) in zip(grid, planes.items(), strict=True):
        axes.scatter(*points.T, c=classes, cmap="tab10" if int(classes.max()) < 10 else "turbo", s=4, linewidths=0)
        run = results.of(case, method)[0]
        axes.set_title(label(method))
        axes.set_xlabel(f"alignment {run.alignment:.2f}\nuniformity {run.uniformity:.2f}")
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
