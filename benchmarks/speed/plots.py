"""Pictures of a file of results. Colours are the same for a peer in all of them."""

from pathlib import Path

from ..cases import CASES
from ..results import grouped, ok
from ..tables import fastest_peer
from ..text import duration, number

_COLOURS = {
    "paper": "#9a3412", "paper-compiled": "#ea580c", "linear-ce": "#f59e0b",
    "scores": "#1e40af", "scores-compiled": "#3b82f6", "scores-presampled": "#93c5fd",
    "reference": "#6b7280", "cpu": "#15803d", "triton": "#16a34a", "cuda": "#166534",
}  # fmt: skip
_LABELS = {
    "paper": "the paper's order", "paper-compiled": "the paper's order, torch.compile",
    "linear-ce": "the paper's order, linear_cross_entropy", "scores": "mixed scores",
    "scores-compiled": "mixed scores, torch.compile", "scores-presampled": "mixed scores, weights given",
}  # fmt: skip
_PARTS = {"products": "#1e40af", "exponentials": "#f59e0b", "gammas": "#15803d"}


def draw_all(rows: list[dict], folder: Path) -> list[Path]:
    """Write the pictures that these rows allow, one set for each dtype; none without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("No pictures: matplotlib is not installed")
        return []
    plt.rcParams.update({
        "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 10, "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False,
    })  # fmt: skip
    written = []
    for dtype in sorted({row["dtype"] for row in rows if "dtype" in row}):
        chosen = [row for row in rows if row.get("dtype") == dtype]
        suffix = "" if dtype == "float32" else f"-{dtype}"
        for name, function in (("overview", _overview), ("time", _time), ("memory", _memory), ("floor", _floor)):
            figure = function(chosen, plt)
            if figure is not None:
                path = folder / f"{name}{suffix}.png"
                figure.savefig(path)
                plt.close(figure)
                written.append(path)
    return written


def label(peer: str) -> str:
    """A peer's name for a reader."""
    return _LABELS.get(peer, f"multimix_kernels ({peer})")


def _overview(rows: list[dict], plt):
    """Bars for a newcomer: the time of one step at the smallest n of each case."""
    both = {True, False}  # ours and another
    groups = [g for g in _full_groups(rows) if {r["ours"] for r in g if ok(r)} == both]
    smallest = {g[0]["case"]: g for g in sorted(groups, key=lambda g: -g[0]["n"])}
    chosen = [smallest[case] for case in CASES if case in smallest][:4]
    if not chosen:
        return None
    shown = [[r for r in g if ok(r) and r["peer"] != "scores-presampled"] for g in chosen]
    heights = [len(bars) + 1.2 for bars in shown]
    figure, axes = plt.subplots(
        len(chosen), 1, figsize=(8.5, 0.3 * sum(heights) + 0.9), height_ratios=heights, squeeze=False
    )
    for axis, group, bars in zip(axes[:, 0], chosen, shown, strict=True):
        bars = sorted(bars, key=lambda r: (r["ours"], -r["median_s"]))
        times = [1e3 * r["median_s"] for r in bars]
        axis.barh(range(len(bars)), times, color=["#15803d" if r["ours"] else "#a8a29e" for r in bars], height=0.75)
        axis.set_yticks(range(len(bars)), [label(r["peer"]) for r in bars])
        for tick, row in zip(axis.get_yticklabels(), bars, strict=True):
            tick.set_fontweight("bold" if row["ours"] else "normal")
        axis.invert_yaxis()
        axis.set_xlim(0, 1.35 * max(times))
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        for i, row in enumerate(bars):
            axis.text(times[i] + 0.015 * max(times), i, _bar_text(row, bars), va="center", fontsize=9)
        case = CASES[group[0]["case"]]
        where = f" at each of {case.r} locations" if case.dense else ""
        title = f"{case.name}: {case.c} classes, {number(group[0]['n'])} interpolations{where}"
        axis.set_title(title, loc="left", fontsize=10)
    figure.suptitle(f"Time of one mixing step, forward and backward (shorter is better)\n{rows[0]['device_name']}")
    figure.tight_layout()
    return figure


def _bar_text(row: dict, bars: list[dict]) -> str:
    text = duration(row["median_s"])
    if not row["ours"]:
        return text
    rival = fastest_peer(row, bars)
    paper = row["ratios"].get("paper")
    said = [] if paper is None else [f"{_times(paper)} the paper's order"]
    if rival is not None and rival["peer"] != "paper":
        said.append(f"{_times(rival['median_s'] / row['median_s'])} the fastest other")
    return text + "   " + "; ".join(said)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x as fast as" if ratio >= 1 else f"{1 / ratio:.1f}x slower than"


def _time(rows: list[dict], plt):
    """Time against n, one panel for each case."""
    groups = [g for g in _full_groups(rows) if any(ok(r) for r in g)]
    cases = [case for case in CASES if sum(g[0]["case"] == case for g in groups) > 1]
    if not cases:
        return None
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.6 * lines), squeeze=False)
    handles = {}
    for axis in axes.flat[len(cases) :]:
        axis.set_visible(False)
    for axis, case in zip(axes.flat, cases, strict=False):
        of_case = [r for g in groups if g[0]["case"] == case for r in g if ok(r)]
        for peer in dict.fromkeys(r["peer"] for r in of_case):
            points = sorted((r for r in of_case if r["peer"] == peer), key=lambda r: r["n"])
            handles[peer] = _line(axis, points, peer, [r["median_s"] for r in points])
        axis.set(title=case, xscale="log", yscale="log", xlabel="n", ylabel="seconds")
        axis.grid(alpha=0.25)
        axis.margins(x=0.12)
    figure.suptitle(f"One step, forward and backward, {rows[0]['device_name']}")
    figure.tight_layout()
    figure.legend(handles.values(), map(label, handles), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns)
    return figure


def _memory(rows: list[dict], plt):
    """Memory against n."""
    points = [r for r in rows if r["kind"] == "memory" and ok(r)]
    if len({r["n"] for r in points}) < 2:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4))
    for peer in dict.fromkeys(r["peer"] for r in points):
        line = sorted((r for r in points if r["peer"] == peer), key=lambda r: r["n"])
        _line(axis, line, peer, [max(r["peak_bytes"], 2**12) / 2**20 for r in line])
    axis.set(xscale="log", yscale="log", xlabel="n", ylabel="MiB beyond inputs, outputs and gradients")
    case = CASES[points[0]["case"]]
    axis.set_title(f"Peak memory of one step (b {case.b}, c {case.c}), {points[0]['device_name']}", fontsize=10)
    axis.grid(alpha=0.25)
    axis.margins(x=0.12)
    axis.legend()
    return figure


def _floor(rows: list[dict], plt):
    """Share of our time that the machine's own rates account for, by kind of work."""
    bars = [r for g in _full_groups(rows) for r in g if r["ours"] and ok(r) and "floor_parts_s" in r]
    if not bars:
        return None
    bars.sort(key=lambda r: (list(CASES).index(r["case"]), r["n"]))
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(bars) + 1.6))
    left = [0.0] * len(bars)
    for part, colour in _PARTS.items():
        shares = [100 * r["floor_parts_s"][part] / r["median_s"] for r in bars]
        axis.barh(range(len(bars)), shares, left=left, color=colour, label=part, height=0.75)
        left = [x + y for x, y in zip(left, shares, strict=True)]
    for i, total in enumerate(left):
        axis.text(total + 1, i, f"{total:.0f}%", va="center", fontsize=9)
    axis.set_yticks(range(len(bars)), [f"{r['case']}, n {number(r['n'])}, {r['peer']}" for r in bars])
    axis.invert_yaxis()
    axis.axvline(100, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlim(0, max(110, 1.1 * max(left)))
    axis.set_xlabel("% of the measured time (100: as fast as the machine's own rates allow)")
    axis.set_title(f"Share of the floor, forward and backward, {bars[0]['device_name']}", fontsize=10)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.1 * len(bars) + 1)), ncols=3)
    return figure


def _full_groups(rows: list[dict]) -> list[list[dict]]:
    return grouped(r for r in rows if r["kind"] == "step" and r["mode"] == "full")


def _line(axis, points: list[dict], peer: str, values: list[float]):
    ours = points[0]["ours"]
    (line,) = axis.plot(
        [r["n"] for r in points], values, marker="o", markersize=4, color=_COLOURS.get(peer, "black"),
        linewidth=2.6 if ours else 1.3, zorder=3 if ours else 2, label=label(peer),
    )  # fmt: skip
    return line
