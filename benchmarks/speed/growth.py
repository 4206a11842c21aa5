"""Pictures of what grows with n: time and memory of one step."""

from ..cases import CASES
from ..results import ok
from .peers import all_peers
from .style import COLOURS, OURS, WIDTH, N, label

_SECONDS = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0))
_BYTES = (("KiB", 2.0**10), ("MiB", 2.0**20), ("GiB", 2.0**30))
_STEPS = ((1,), (1, 3), (1, 2, 5))  # marks in a decade: as few as leave two on the axis


def growth(groups: list[list[dict]], rows: list[dict], plt):
    """Memory and time of the paper's order and of this library, side by side: what a newcomer sees first."""
    memory = [r for r in rows if r["kind"] == "memory" and (r["ours"] or r["peer"] == "paper")]
    names = {r["case"] for r in memory}
    steps = [r for g in groups for r in g if r["case"] in names and (r["ours"] or r["peer"] == "paper")]
    panels = (
        ("Memory of one step", memory, "peak_bytes", _BYTES), ("Time of one step", steps, "median_s", _SECONDS),
    )  # fmt: skip
    if len(names) != 1 or not all(_grows(rows) for _, rows, *_ in panels):
        return None
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.0), layout="constrained")
    last = max(r["n"] for _, rows, *_ in panels for r in rows if ok(r))
    for axis, (title, of_panel, field, units) in zip(axes, panels, strict=True):
        for peer in _peers(of_panel):
            line = _points(of_panel, peer)
            _line(axis, line, peer, [r[field] for r in line])
            failed = [r for r in of_panel if r["peer"] == peer and r["status"] == "out of memory"]
            if failed:
                axis.plot([line[-1]["n"], last], [line[-1][field]] * 2, alpha=0)  # room for the words
                words = f"out of memory\nat {_power(min(r['n'] for r in failed))}"
                axis.annotate(words, (line[-1]["n"], line[-1][field]), (9, 0), textcoords="offset points",
                              va="center", color=COLOURS[peer], fontsize=9)  # fmt: skip
        _axes(axis, units, title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    case = CASES[names.pop()]
    about = f"{case.b} examples in a mini-batch, forward and backward, {rows[0]['device_name']}"
    figure.suptitle(f"{case.label}\n{about}")
    return figure


def time(groups: list[list[dict]], rows: list[dict], plt):
    """Time against n, one panel for each case of which several n were measured."""
    measured = {case: [r for g in groups for r in g if r["case"] == case and ok(r)] for case in CASES}
    cases = [case for case, found in measured.items() if _grows(found)]
    if not cases:
        return None
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure = plt.figure(figsize=(WIDTH, 3.0 * lines + 1.2), layout="constrained")
    grid = figure.add_gridspec(lines, 2 * columns)
    handles = {}
    for k, case in enumerate(cases):
        line, column = divmod(k, columns)
        alone = k == len(cases) - 1 and column == 0 and columns > 1  # in the middle of its line: no panel is empty
        axis = figure.add_subplot(grid[line, 1:3] if alone else grid[line, 2 * column : 2 * column + 2])
        for peer in _peers(measured[case]):
            points = _points(measured[case], peer)
            handles[peer] = _line(axis, points, peer, [r["median_s"] for r in points])
        _axes(axis, _SECONDS, CASES[case].label)
    figure.suptitle(f"Time of one step, forward and backward, {rows[0]['device_name']}")
    figure.legend(handles.values(), map(label, handles), loc="outside lower center", ncols=2)
    return figure


def memory(groups: list[list[dict]], rows: list[dict], plt):
    """Memory against n."""
    points = [r for r in rows if r["kind"] == "memory" and ok(r)]
    if not _grows(points):
        return None
    figure, axis = plt.subplots(figsize=(WIDTH, 4), layout="constrained")
    for peer in _peers(points):
        line = _points(points, peer)
        _line(axis, line, peer, [max(r["peak_bytes"], 2**12) for r in line])
    case = CASES[points[0]["case"]]
    title = f"Memory of one step beyond inputs, outputs and gradients\n{case.label}, {points[0]['device_name']}"
    _axes(axis, _BYTES, title)
    axis.legend()
    return figure


def along_n(axis, lines: dict[str, list[tuple[int, float]]], of_memory: bool, title: str) -> None:
    """Lines of (n, bytes or seconds) by peer."""
    for peer, points in lines.items():
        rows = [{"n": n, "ours": peer in all_peers() and all_peers()[peer].ours} for n, _ in sorted(points)]
        _line(axis, rows, peer, [value for _, value in sorted(points)])
    _axes(axis, _BYTES if of_memory else _SECONDS, title)


def _grows(rows: list[dict]) -> bool:
    return len({r["n"] for r in rows if ok(r)}) > 1


def _peers(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(r["peer"] for r in rows if ok(r)))


def _points(rows: list[dict], peer: str) -> list[dict]:
    return sorted((r for r in rows if r["peer"] == peer and ok(r)), key=lambda r: r["n"])


def _power(n: int) -> str:
    return f"$10^{{{len(str(n)) - 1}}}$" if str(n).strip("0") == "1" else f"{n:,}"


def _axes(axis, units, title: str) -> None:
    """Both logarithmic, with units that people say."""
    axis.set(title=title, xscale="log", yscale="log", xlabel=N)
    axis.margins(x=0.12, y=0.12)
    low, high = axis.get_ylim()
    for steps in _STEPS:
        marks = {
            f"{step * decade} {unit}": step * decade * scale
            for unit, scale in units for decade in (1, 10, 100) for step in steps
        }  # fmt: skip
        shown = {name: value for name, value in marks.items() if low <= value <= high}
        if len(shown) > 1:
            axis.set_yticks(list(shown.values()), list(shown))
            axis.minorticks_off()
            break
    axis.grid(alpha=0.25)


def _line(axis, points: list[dict], peer: str, values: list[float]):
    ours = points[0]["ours"]
    (line,) = axis.plot(
        [r["n"] for r in points], values, marker="o", markersize=4, color=COLOURS.get(peer, OURS),
        linewidth=2.6 if ours else 1.3, zorder=3 if ours else 2, label=label(peer),
    )  # fmt: skip
    return line
