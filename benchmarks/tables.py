"""Results as tables, for the terminal and for Markdown."""

from collections.abc import Iterable

from .cases import CASES
from .results import few, ok
from .text import duration, number, ratio, size, table

BASELINES = ("paper", "scores")


def spread(row: dict) -> str:
    """Interquartile range as a share of the median."""
    return f"{100 * (row['q3_s'] - row['q1_s']) / row['median_s']:.0f}%"


def speed_up(row: dict, peer: str) -> float | None:
    """How many times as long a peer took; 1 for the peer itself, None if one of the two has no time."""
    if not ok(row):
        return None
    return 1.0 if row["peer"] == peer else row["ratios"].get(peer)


def fastest_peer(row: dict, rows: Iterable[dict]) -> dict | None:
    """The fastest row of the group that is not ours. The peer whose weights are given does less work: no rival."""
    rivals = [r for r in rows if ok(r) and not r["ours"] and r["peer"] != "scores-presampled"]
    return min(rivals, key=lambda r: r["median_s"], default=None)


def step_title(row: dict) -> str:
    """What a group measured."""
    case = CASES[row["case"]]
    d = "from scores" if case.from_scores else f"d {case.d}"
    sizes = f"b {case.b}, {d}, c {case.c}" + (f", r {case.r}" if case.dense else "")
    mode = "forward + backward" if row["mode"] == "full" else "forward"
    m = "" if few(row) is None else f", m {few(row)}"
    return f"{case.name} ({sizes}), n {number(row['n'])}{m}, {mode}, {row['dtype']}, {row['device_name']}"


def step_table(rows: list[dict]) -> str:
    """One group: every peer's time, its speed relative to the baselines, and for ours the share of the floor."""
    body = []
    for row in rows:
        if not ok(row):
            body.append([row["peer"], "-", "-", *("-" for _ in BASELINES), "-", "-", row["status"]])
            continue
        fraction = row.get("floor_fraction")
        note = ", ".join(["multimix_kernels"] * row["ours"] + ["CUDA graph"] * row.get("graph", False))
        body.append([
            row["peer"], duration(row["median_s"]), spread(row), *(ratio(speed_up(row, p)) for p in BASELINES),
            "-" if fraction is None else f"{100 * fraction:.0f}%", f"{row['loss']:.4f}", note,
        ])  # fmt: skip
    header = ["peer", "median", "IQR", *(f"vs {p}" for p in BASELINES), "of floor", "loss", "note"]
    return "\n".join([step_title(rows[0]), table(header, body), *map(_verdict(rows), _ours(rows))])


def check_table(rows: list[dict]) -> str:
    """Errors of the loss and the largest one of the gradients, ours and plain PyTorch's."""
    body = []
    for row in rows:
        errors, plain = row.get("errors", {}), row.get("plain_errors", {})

        def worst(of, gradients):
            values = [value for name, value in of.items() if (name != "loss") == gradients]
            return f"{max(values):.1e}" if values else "-"

        cells = [worst(of, gradients) for gradients in (False, True) for of in (errors, plain)]
        verdict = "the same" if ok(row) else row["status"]
        m = "" if few(row) is None else f", m {few(row)}"
        body.append([f"{row['case']}{m}, {row['peer']}, {row['dtype']}", *cells, verdict])
    header = ["case, backend, dtype", "loss error", "(PyTorch)", "gradient error", "(PyTorch)", "note"]
    return "Is the loss the same? Errors against float64, relative\n" + table(header, body)


def sampler_table(rows: list[dict], markdown: bool = False) -> str:
    """Gamma variates per second, and rows; with few examples in a row rows count."""
    ours = [row["mega_gammas_per_s"] for row in rows if row["ours"] and ok(row) and few(row) is None]
    all_b = {row["peer"]: row["mega_rows_per_s"] for row in rows if ok(row) and "mega_rows_per_s" in row}
    body = []
    for row in rows:
        if not ok(row):
            body.append([row["peer"], "-", "-", "-", "-", row["status"]])
            continue
        rate = row["mega_gammas_per_s"]
        # Rows of before had no rate of rows; all were of 128 examples.
        mega_rows = row.get("mega_rows_per_s", rate / 128)
        ours_over = f"{max(ours) / rate:.2f}x" if ours and few(row) is None else "-"
        note = f"{number(row['gammas'])} gammas" + (", 1 thread" if row["peer"].startswith("numpy") else "")
        whole = all_b.get(row["peer"].split(",")[0])
        if few(row) is not None and whole:
            note += f"; {ratio(mega_rows / whole)} the rows a second of m = b"
        body.append([row["peer"], f"{rate:.3g}", f"{mega_rows:.3g}", spread(row), ours_over, note])
    header = ["sampler", "M gammas/s", "M rows/s", "IQR", "ours over it", "note"]
    return "Sampler alone\n" + table(header, body, markdown)


def memory_table(rows: list[dict], markdown: bool = False) -> str:
    """Peak bytes by n and peer."""
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    cell = {
        (row["n"], row["peer"]): size(row["peak_bytes"]) if ok(row) else row["status"].split(":")[0] for row in rows
    }
    body = [[number(n), *(cell.get((n, p), "-") for p in peers)] for n in sorted({row["n"] for row in rows})]
    case = CASES[rows[0]["case"]]
    mode = "forward and backward" if rows[0]["mode"] == "full" else "forward"
    title = f"Peak memory beyond inputs, outputs and gradients ({case.label}, b {case.b}, {mode})"
    return title + "\n" + table(["n", *peers], body, markdown)


def _ours(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["ours"] and ok(row)]


def _verdict(rows: list[dict]):
    def sentence(row):
        rival = fastest_peer(row, rows)
        if rival is None:
            return f"{row['peer']}: no peer has a time to compare with"
        times = rival["median_s"] / row["median_s"]
        if times >= 1:
            return f"{row['peer']} is {times:.2f}x as fast as the fastest peer ({rival['peer']})"
        return f"{row['peer']} LOSES: the fastest peer ({rival['peer']}) is {1 / times:.2f}x as fast"

    return sentence
