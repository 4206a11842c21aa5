"""Pictures of a file of results: what `draw_all` writes, and those made of bars."""

from pathlib import Path

from ..cases import CASES
from ..results import few, grouped, ok
from ..tables import fastest_peer
from ..text import duration, number
from . import growth
from .style import OTHERS, OURS, PARAMETERS, WIDTH, label

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
    kinds = {
        "growth": growth.growth, "overview": _overview, "time": growth.time, "memory": growth.memory, "floor": _floor,
        "few": _few,
    }  # fmt: skip
    written = []
    with plt.rc_context(PARAMETERS):
        for dtype in sorted({row["dtype"] for row in rows if "dtype" in row}):
            chosen = [row for row in rows if row.get("dtype") == dtype]
            groups = grouped(r for r in chosen if r["kind"] == "step" and r["mode"] == "full")
            suffix = "" if dtype == "float32" else f"-{dtype}"
            for name, function in kinds.items():
                of_kind = [g for g in groups if (few(g[0]) is None and not CASES[g[0]["case"]].from_scores)]
                figure = function(groups if name == "few" else of_kind, chosen, plt)
                if figure is not None:
                    path = folder / f"{name}{suffix}.png"
                    figure.savefig(path)
                    plt.close(figure)
                    written.append(path)
    return written


def _overview(groups: list[list[dict]], rows: list[dict], plt):
    """Bars for a newcomer: the time of one step at the smallest n of each case."""
    both = {True, False}  # ours and another
    groups = [g for g in groups if {r["ours"] for r in g if ok(r)} == both]
    smallest = {g[0]["case"]: g for g in sorted(groups, key=lambda g: -g[0]["n"])}
    chosen = [smallest[case] for case in CASES if case in smallest][:4]

    def title(row):
        case = CASES[row["case"]]
        where = f" at each of {case.r} locations" if case.dense else ""
        return f"{case.label}: {number(row['n'])} interpolated examples{where}"

    return _bars(chosen, "Time of one mixing step, forward and backward (shorter is better)", title, rows, plt)


def _few(groups: list[list[dict]], rows: list[dict], plt):
    """Bars of mixtures of two: this library beside gathered pairs, at the largest n of each case from scores."""
    both = {True, False}
    groups = [g for g in groups if few(g[0]) == 2 and {r["ours"] for r in g if ok(r)} == both]
    largest = {g[0]["case"]: g for g in sorted(groups, key=lambda g: g[0]["n"])}
    chosen = [largest[case] for case in CASES if case in largest][:4]

    def title(row):
        case = CASES[row["case"]]
        where = f" at each of {case.r} locations" if case.dense else ""
        return f"{case.label}: {number(row['n'])} pairs{where}"

    return _bars(chosen, "Mixtures of two examples, forward and backward (shorter is better)", title, rows, plt)


def _bars(groups: list[list[dict]], heading: str, title, rows: list[dict], plt):
    """A panel of bars for each group, ours last."""
    if not groups:
        return None
    shown = [[r for r in g if ok(r) and r["peer"] != "scores-presampled"] for g in groups]
    heights = [len(bars) + 1.2 for bars in shown]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(WIDTH, 0.28 * sum(heights) + 0.9),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, bars in zip(axes[:, 0], shown, strict=True):
        bars = sorted(bars, key=lambda r: (r["ours"], -r["median_s"]))
        times = [1e3 * r["median_s"] for r in bars]
        axis.barh(range(len(bars)), times, color=[OURS if r["ours"] else OTHERS for r in bars], height=0.75)
        axis.set_yticks(range(len(bars)), [label(r["peer"]) for r in bars])
        axis.tick_params(axis="y", length=0)
        for tick, row in zip(axis.get_yticklabels(), bars, strict=True):
            tick.set_fontweight("bold" if row["ours"] else "normal")
        axis.invert_yaxis()
        axis.set_xlim(0, 1.5 * max(times))
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        for i, row in enumerate(bars):
            axis.text(times[i] + 0.015 * max(times), i, _bar_text(row, bars), va="center", fontsize=9)
        axis.set_title(title(bars[0]), loc="left")
    figure.suptitle(f"{heading}\n{rows[0]['device_name']}")
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


def _floor(groups: list[list[dict]], rows: list[dict], plt):
    """Share of our time that the machine's own rates account for, by kind of work."""
    bars = [r for g in groups for r in g if r["ours"] and ok(r) and "floor_parts_s" in r]
    if not bars:
        return None
    bars.sort(key=lambda r: (list(CASES).index(r["case"]), r["n"]))
    figure, axis = plt.subplots(figsize=(WIDTH, 0.27 * len(bars) + 1.8), layout="constrained")
    left = [0.0] * len(bars)
    for part, colour in _PARTS.items():
        shares = [100 * r["floor_parts_s"][part] / r["median_s"] for r in bars]
        axis.barh(range(len(bars)), shares, left=left, color=colour, label=part, height=0.75)
        left = [x + y for x, y in zip(left, shares, strict=True)]
    axis.axvline(100, color="black", linewidth=0.8, linestyle=":", zorder=0)
    for i, total in enumerate(left):
        # The line of 100 % ends where a figure stands.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(total + 1, i, f"{total:.0f}%", va="center", fontsize=9, bbox=box)
    one = len({r["peer"] for r in bars}) == 1
    names = [f"{CASES[r['case']].label}, n = {number(r['n'])}" + ("" if one else f", {r['peer']}") for r in bars]
    axis.set_yticks(range(len(bars)), names)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xlim(0, max(110, 1.1 * max(left)))
    axis.set_xlabel("% of the measured time (100: as fast as the machine's own rates allow)")
    figure.suptitle(
        "Unavoidable work as a share of the time, by case and interpolated examples per step (n)\n"
        f"forward and backward, {bars[0]['device_name']}"
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
