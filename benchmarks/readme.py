"""`python -m benchmarks.readme`: writes the results into README.md, between its two benchmark marks.

`--check` writes nothing and fails if the text there is not the one that the results give.
"""

import argparse
import sys
from pathlib import Path

from .cases import CASES
from .results import RESULTS, grouped, ok, read_all
from .system import ROOT, busy, slug
from .tables import fastest_peer, memory_table, sampler_table, speed_up
from .text import duration, number, ratio, table

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
_PEERS = ("paper", "paper-compiled", "linear-ce", "scores", "scores-compiled")
_LEGEND = """\
`paper` is the order of the paper's equations with torch's Dirichlet; `scores` mixes class scores instead of embeddings,
with the same torch operations; both also under `torch.compile`, whose compilation is not counted; `linear-ce` is
`torch.nn.functional.linear_cross_entropy` on mixed embeddings. Medians of repetitions that alternate between all
peers; n interpolations per location. A time of ours is shown only where loss and gradients were found equal to float64
within twice the error of plain PyTorch. The floor is the time that this machine's own rates of matrix products,
exponentials and gamma variates leave unavoidable."""


def render(rows: list[dict], results: Path, readme_folder: Path) -> str:
    """The text between the marks."""
    parts = ["Measured by `python -m benchmarks`; written by `python -m benchmarks.readme`.", _LEGEND]
    devices = list(dict.fromkeys((r["device_name"], r.get("dtype") or "float32") for r in rows if r["kind"] == "step"))
    for name, dtype in devices:
        chosen = [r for r in rows if r["device_name"] == name and r.get("dtype", dtype) == dtype]
        parts += _device(name, dtype, chosen, results, readme_folder)
    parts.append(_not_measured(rows))
    return "\n\n".join(parts)


def replace_section(text: str, section: str) -> str:
    """The README with another section between the marks.

    Raises:
        ValueError: it does not have each mark once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected {BEGIN} and {END}, once each and in this order")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Write or check, and return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.readme", description="Results into README.md")
    parser.add_argument("--check", action="store_true", help="fail if the README is not up to date; write nothing")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        old = options.readme.read_text()
        new = replace_section(old, render(read_all(options.results), options.results, options.readme.parent))
    except (OSError, ValueError) as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 2
    if old == new:
        return 0
    if options.check:
        print(f"{options.readme}: not up to date; run python -m benchmarks.readme", file=sys.stderr)
        return 1
    options.readme.write_text(new)
    return 0


def _device(name: str, dtype: str, rows: list[dict], results: Path, readme_folder: Path) -> list[str]:
    parts = [f"### {name}, {dtype}", _provenance(rows)]
    folder = results / slug(name)
    picture = folder / ("overview.png" if dtype == "float32" else f"overview-{dtype}.png")
    if picture.exists() and picture.is_relative_to(readme_folder):
        parts.append(f"![Step times on {name}]({picture.relative_to(readme_folder).as_posix()})")
    steps = [r for r in rows if r["kind"] == "step"]
    for mode, title in (("full", "Forward and backward"), ("forward", "Forward only")):
        groups = grouped(r for r in steps if r["mode"] == mode)
        if groups:
            parts.append(f"{title}:\n\n{_step_table(groups)}\n\n{_losses(groups)}")
    memory = [r for r in rows if r["kind"] == "memory"]
    if memory:
        title, rest = memory_table(memory, markdown=True).split("\n", 1)
        parts.append(f"{title}:\n\n{rest}")
    sampler = [r for r in rows if r["kind"] == "sampler"]
    if sampler:
        parts.append("The sampler alone:\n\n" + sampler_table(sampler, markdown=True).split("\n", 1)[1])
    return parts


def _step_table(groups: list[list[dict]]) -> str:
    header = ["case", "n", "ours", *_PEERS, "ours vs paper", "vs fastest", "of floor"]
    body = []
    for group in sorted(groups, key=lambda g: (list(CASES).index(g[0]["case"]), g[0]["n"])):
        times = {r["peer"]: duration(r["median_s"]) if ok(r) else r["status"].split(":")[0] for r in group}
        for row in (r for r in group if r["ours"]):
            rival, fraction = fastest_peer(row, group), row.get("floor_fraction")
            best = rival["median_s"] / row["median_s"] if ok(row) and rival else None
            body.append([
                row["case"], number(row["n"]), f"{times[row['peer']]} ({row['peer']})",
                *(times.get(peer, "not measured") for peer in _PEERS), ratio(speed_up(row, "paper")),
                ratio(best) + (" (slower)" if best is not None and best < 1 else ""),
                "-" if fraction is None else f"{100 * fraction:.0f}%",
            ])  # fmt: skip
    return table(header, body, markdown=True)


def _losses(groups: list[list[dict]]) -> str:
    """What we lose and what is wrong, in words."""
    lost, wrong, won = [], [], 0
    for group in groups:
        for row in (r for r in group if r["ours"]):
            rival = fastest_peer(row, group)
            what = f"{row['case']} at n {number(row['n'])} ({row['peer']})"
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
            done = {(r["case"], r["n"]) for r in here if r["kind"] == "step" and r["mode"] == "full"}
            missing = [
                f"{case.name} at n {', '.join(number(n) for n in case.n if (case.name, n) not in done)}"
                for case in CASES.values()
                if any((case.name, n) not in done for n in case.n)
            ]
            missing += [part for part in ("sampler", "memory") if not any(r["kind"] == part for r in here)]
            missing += [d for d in ("bfloat16",) if not any(r.get("dtype") == d for r in here)]
            if missing:
                lines.append(f"- {name}: {'; '.join(missing)}: not measured yet.")
    return "Not measured:\n\n" + "\n".join(lines) if lines else "Every case was measured."


if __name__ == "__main__":
    sys.exit(main())
