"""`python -m benchmarks.readme`: writes the results into README.md, between its two benchmark marks.

`--check` writes nothing and fails if the text there is not the one that the results give. `--pictures` draws the
pictures beside the results again.
"""

import argparse
import json
import sys
from pathlib import Path

from .cases import CASES, FEW
from .files import marks, replace_section
from .results import RESULTS, few, grouped, latest, ok, read_all
from .speed.plots import draw_all
from .system import ROOT, busy, slug
from .tables import fastest_peer, memory_table, sampler_table, speed_up
from .text import duration, number, ratio, table

SECTION, STUDY = "benchmarks", "study"
STUDY_COMMAND = "python -m benchmarks.demo --data fashion-mnist --study"
_PEERS = ("paper", "paper-compiled", "linear-ce", "scores", "scores-compiled")
_PAIRS = ("pairs", "pairs-compiled", "scores", "scores-compiled")
_LEGEND = """\
`paper` is the order of the paper's equations with torch's Dirichlet; `scores` mixes class scores instead of embeddings,
with the same torch operations; both also under `torch.compile`, whose compilation is not counted; `linear-ce` is
`torch.nn.functional.linear_cross_entropy` on mixed embeddings. Medians of repetitions that alternate between all
peers; n interpolations per location. A time of ours is shown only where loss and gradients were found equal to float64
within twice the error of plain PyTorch. The floor is the time that this machine's own rates of matrix products,
exponentials and gamma variates leave unavoidable."""
_LEGEND_FEW = """\
Few examples in each mixture (m of 128), forward and backward; from class scores, where the linear head hides nothing.
`pairs` draws pairs of examples and Beta weights, gathers and mixes their scores and gathers the log-softmax at
their two labels: m = 2 only; `scores` multiplies by weights that are mostly zero."""


def render(rows: list[dict], results: Path, readme_folder: Path) -> str:
    """The text between the marks."""
    parts = ["Measured by `python -m benchmarks`; written by `python -m benchmarks.readme`.", _LEGEND]
    devices = list(dict.fromkeys((r["device_name"], r.get("dtype") or "float32") for r in rows if r["kind"] == "step"))
    for name, dtype in devices:
        chosen = [r for r in rows if r["device_name"] == name and r.get("dtype", dtype) == dtype]
        parts += _device(name, dtype, chosen, results, readme_folder)
    parts.append(_not_measured(rows))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Write or check, and return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.readme", description="Results into README.md")
    parser.add_argument("--check", action="store_true", help="fail if the README is not up to date; write nothing")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures beside the results again")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text()
        new = _written(old, options.results, options.readme.parent)
    except (OSError, ValueError) as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 2
    if options.pictures and not options.check:
        for folder in sorted({path.parent for path in options.results.glob("*/*.jsonl")}):
            draw_all(latest(folder.glob("*.jsonl")), folder)
        new = _written(old, options.results, options.readme.parent)
    if old == new:
        return 0
    if options.check:
        print(f"{options.readme}: not up to date; run python -m benchmarks.readme", file=sys.stderr)
        return 1
    options.readme.write_text(new)
    return 0


def _written(text: str, results: Path, readme_folder: Path) -> str:
    """The README with both sections; that of the study only where it has a place."""
    text = replace_section(text, render(read_all(results), results, readme_folder), SECTION)
    return replace_section(text, _study(results, readme_folder), STUDY) if marks(STUDY)[0] in text else text


def _study(results: Path, readme_folder: Path) -> str:
    """The table and the picture of the newest study."""
    files = sorted(results.glob("*/study.json"), key=lambda file: json.loads(file.read_text())["provenance"]["date"])
    if not files:
        return f"Not run yet: `{STUDY_COMMAND}`."
    from .study import report
    from .study.jobs import Study

    parts = [f"Measured by `{STUDY_COMMAND}`.", report.render(Study.load(files[-1]))]
    picture = files[-1].with_suffix(".png")
    if picture.exists() and picture.is_relative_to(readme_folder):
        parts.insert(
            1, f"![Accuracy of methods against plain training]({picture.relative_to(readme_folder).as_posix()})"
        )
    return "\n\n".join(parts)


def _device(name: str, dtype: str, rows: list[dict], results: Path, readme_folder: Path) -> list[str]:
    parts = [f"### {name}, {dtype}", _provenance(rows)]
    folder = results / slug(name)
    picture = folder / ("overview.png" if dtype == "float32" else f"overview-{dtype}.png")
    if picture.exists() and picture.is_relative_to(readme_folder):
        parts.append(f"![Step times on {name}]({picture.relative_to(readme_folder).as_posix()})")
    steps = grouped(r for r in rows if r["kind"] == "step")
    for mode, title in (("full", "Forward and backward"), ("forward", "Forward only")):
        groups = [g for g in steps if g[0]["mode"] == mode and not _is_few(g[0])]
        if groups:
            parts.append(f"{title}:\n\n{_step_table(groups)}\n\n{_losses(groups)}")
    groups = [g for g in steps if g[0]["mode"] == "full" and _is_few(g[0])]
    if groups:
        parts.append(f"{_LEGEND_FEW}\n\n{_few_table(groups)}\n\n{_losses(groups)}")
    memory = [r for r in rows if r["kind"] == "memory"]
    if memory:
        title, rest = memory_table(memory, markdown=True).split("\n", 1)
        parts.append(f"{title}:\n\n{rest}")
    sampler = [r for r in rows if r["kind"] == "sampler"]
    if sampler:
        parts.append("The sampler alone:\n\n" + sampler_table(sampler, markdown=True).split("\n", 1)[1])
    return parts


def _is_few(row: dict) -> bool:
    """Whether a row belongs to the table of few examples: m = b from scores too, to compare with."""
    return few(row) is not None or CASES[row["case"]].from_scores


def _case(row: dict) -> str:
    return CASES[row["case"]].label


def _order(group: list[dict]) -> tuple:
    row = group[0]
    return list(CASES).index(row["case"]), row["n"], few(row) or CASES[row["case"]].b


def _few_table(groups: list[list[dict]]) -> str:
    """One row for each m; ours is compared with the fastest peer and with itself at m = b."""
    header = ["case", "n", "m", "ours", *_PAIRS, "vs fastest", "vs m = b", "of floor"]
    whole = {
        (r["case"], r["n"], r["peer"]): r["median_s"]
        for g in groups for r in g if r["ours"] and ok(r) and few(r) is None
    }  # fmt: skip
    body = []
    for group in sorted(groups, key=_order):
        for row in (r for r in group if r["ours"]):
            times, fraction = _times(group), row.get("floor_fraction")
            all_b = whole.get((row["case"], row["n"], row["peer"]))
            body.append([
                _case(row), number(row["n"]), str(few(row) or CASES[row["case"]].b),
                f"{times[row['peer']]} ({row['peer']})",
                *(times.get(peer, "not measured" if few(row) == 2 or "pairs" not in peer else "-") for peer in _PAIRS),
                _against(row, group), ratio(all_b / row["median_s"] if all_b and ok(row) else None),
                "-" if fraction is None else f"{100 * fraction:.0f}%",
            ])  # fmt: skip
    return table(header, body, markdown=True)


def _times(group: list[dict]) -> dict[str, str]:
    return {r["peer"]: duration(r["median_s"]) if ok(r) else r["status"].split(":")[0] for r in group}


def _against(row: dict, group: list[dict]) -> str:
    """How many times as fast as the fastest peer."""
    rival = fastest_peer(row, group)
    best = rival["median_s"] / row["median_s"] if ok(row) and rival else None
    return ratio(best) + (" (slower)" if best is not None and best < 1 else "")


def _step_table(groups: list[list[dict]]) -> str:
    header = ["case", "n", "ours", *_PEERS, "ours vs paper", "vs fastest", "of floor"]
    body = []
    for group in sorted(groups, key=_order):
        times = _times(group)
        for row in (r for r in group if r["ours"]):
            fraction = row.get("floor_fraction")
            body.append([
                _case(row), number(row["n"]), f"{times[row['peer']]} ({row['peer']})",
                *(times.get(peer, "not measured") for peer in _PEERS), ratio(speed_up(row, "paper")),
                _against(row, group),
                "-" if fraction is None else f"{100 * fraction:.0f}%",
            ])  # fmt: skip
    return table(header, body, markdown=True)


def _losses(groups: list[list[dict]]) -> str:
    """What we lose and what is wrong, in words."""
    lost, wrong, won = [], [], 0
    for group in groups:
        for row in (r for r in group if r["ours"]):
            rival = fastest_peer(row, group)
            m = "" if few(row) is None else f", m {few(row)}"
            what = f"{_case(row)} at n {number(row['n'])}{m} ({row['peer']})"
            if row["status"].startswith("WRONG"):
                wrong.append(what)
            elif ok(row) and rival is not None and rival["median_s"] < row["median_s"]:
                times = row["median_s"] / rival["median_s"]
                lost.append(f"{what}, where `{rival['peer']}` is {ratio(times)} as fast")
            elif ok(row):
                won += 1
    total = won + len(lost)
    text = (
        f"Slower than the fastest peer in {len(lost)} of {total} rows" + (": " if lost else "") + "; ".join(lost) + "."
    )
    return text + (f" Wrong, and so without a time: {'; '.join(wrong)}." if wrong else "")


def _provenance(rows: list[dict]) -> str:
    def values(field):
        return ", ".join(dict.fromkeys(str(r[field]) for r in rows if r.get(field) is not None))

    commits = dict.fromkeys(f"{(r['commit'] or 'unknown')[:10]}{' with changes' if r['dirty'] else ''}" for r in rows)
    dates = sorted({r["date"][:10] for r in rows})
    told = [
        f"torch {values('torch')}", f"Triton {values('triton')}" if values("triton") else "",
        f"driver {values('driver')}" if values("driver") else "", f"Python {values('python')}",
        f"multimix_kernels {values('library')}", f"commit {', '.join(commits)}",
        f"{values('threads')} threads", " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    ]  # fmt: skip
    disturbed = [r for r in rows if busy(r)]
    loads = ", ".join(dict.fromkeys(f"{r['load']:.1f}" for r in disturbed))
    warning = f" Other work was running at the start of these measurements (load {loads})." if disturbed else ""
    return "; ".join(text for text in told if text) + "." + warning


def _not_measured(rows: list[dict]) -> str:
    """Devices, cases and parts without a row."""
    lines = []
    for device, backends in (("cpu", "`cpu`"), ("cuda", "`triton` and `cuda`")):
        of_device = [r for r in rows if r["device"] == device]
        if not of_device:
            lines.append(f"- {'GPU' if device == 'cuda' else 'CPU'} ({backends}): not measured yet.")
            continue
        for name in dict.fromkeys(r["device_name"] for r in of_device):
            here = [r for r in of_device if r["device_name"] == name]
            done = {(r["case"], r["n"], few(r)) for r in here if r["kind"] == "step" and r["mode"] == "full"}
            missing = []
            for case in CASES.values():
                mixed = {m: m or case.b for m in ((*FEW, None) if case.from_scores else (None,))}
                n = [n for n in case.n if any((case.name, n, m) not in done for m in mixed)]
                without = [str(mixed[m]) for m in mixed if any((case.name, n, m) not in done for n in case.n)]
                which = f", m {', '.join(without)}" if case.from_scores else ""
                missing += [f"{case.label} at n {', '.join(map(number, n))}{which}"] if n else []
            missing += [part for part in ("sampler", "memory") if not any(r["kind"] == part for r in here)]
            missing += [d for d in ("bfloat16",) if not any(r.get("dtype") == d for r in here)]
            if missing:
                lines.append(f"- {name}: {'; '.join(missing)}: not measured yet.")
    return "Not measured:\n\n" + "\n".join(lines) if lines else "Every case was measured."


if __name__ == "__main__":
    sys.exit(main())
