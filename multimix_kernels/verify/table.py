"""A verdict as people read it: what passed, how long a step takes, and what is used."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..backends.verdicts import plan
from .times import PAPER

WHAT = {"sample": "weights alone", "mix": "a step through any head", "mixed_cross_entropy": "a step"}


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left."""
    cells = [tuple(header), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for first, *others in cells:
        padded = [first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(padded).rstrip())
    return lines


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if seconds >= s), ("µs", 1e-6))
    return f"{seconds / scale:.3g} {unit}"


def headline(verdict: Mapping[str, Any]) -> str:
    """What the verdict is about, and when it was found."""
    key = verdict["key"]
    return (
        f"{key['gpu']} ({key['capability']}), driver {key['driver']}, torch {key['torch']}, Triton {key['triton']}; "
        f"{verdict['date']}, {verdict['seconds']:.0f} s"
    )


def text(verdict: Mapping[str, Any]) -> str:
    """All of it."""
    lines = [headline(verdict), "", *_passed(verdict["results"])]
    for operation in plan.OPERATIONS:
        lines += ["", *_times(verdict, operation)]
    lines += ["", "used where no backend is named:"]
    for operation, by_kind in verdict["choice"].items():
        chosen = ", ".join(f"{kind} {(names or ['reference'])[0]}" for kind, names in by_kind.items())
        lines.append(f"  {operation}: {chosen}")
    lines += [f"not checked: {name}: {why}" for name, why in verdict["problems"].items()]
    return "\n".join(lines)


def _passed(results: Mapping[str, Any]) -> list[str]:
    kinds = list(dict.fromkeys(k for operators in results.values() for by_kind in operators.values() for k in by_kind))
    rows, reasons, flips, weights = [], [], 0, 0
    for backend, operators in results.items():
        for operator, by_kind in operators.items():
            cells = []
            for kind in kinds:
                found = by_kind.get(kind)
                if found is None:
                    cells.append("-")
                    continue
                cells.append(f"{found['cases']} passed" if found["failed"] is None else "FAILED")
                if found["failed"] is not None:
                    reasons.append(f"FAILED: {backend} {operator} {kind}: {found['failed']}")
                flips, weights = flips + found.get("flipped_rows", 0), weights + found.get("weights", 0)
            rows.append((f"{backend} {operator}", *cells))
    lines = [*columns(("cases against float64", *kinds), rows), *reasons]
    return [*lines, f"rows of weights with a flipped acceptance: {flips}, among {weights:,} weights"]


def _times(verdict: Mapping[str, Any], operation: str) -> list[str]:
    rows = []
    for kind in dict.fromkeys(k for by_operation in verdict["times"].values() for k in by_operation.get(operation, {})):
        for backend, by_operation in verdict["times"].items():
            if kind in by_operation.get(operation, {}):
                name = "the paper's order" if backend == PAPER else backend
                rows.append((f"{kind}, {name}", *map(duration, by_operation[operation][kind])))
    return columns((f"{WHAT[operation]} ({operation})", *verdict["shapes"]), rows) if rows else []
