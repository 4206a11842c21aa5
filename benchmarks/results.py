"""Rows of results and the files that keep them: JSON lines, one row each, with its provenance.

Grouped by hand: a row has the fields of its kind only, which a data frame would fill with NaN and turn into floats.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from .files import write_atomically
from .system import ROOT

RESULTS = ROOT / "benchmarks" / "results"
# Rows that agree in these belong together: a new run replaces all of them, so that ratios stay within one run.
_GROUP = ("kind", "device_name", "dtype", "case", "n", "mode")


def few(row: dict) -> int | None:
    """m, the examples in each mixture, where these are not all b: rows without m mix all."""
    m = row.get("m")
    return None if m == row.get("b") else m


def group(row: dict) -> tuple:
    """What a row is compared within. Memory is compared over all n, samplers over all m."""
    fields = (f for f in _GROUP if not (row["kind"] == "memory" and f == "n"))
    return (*(row.get(f) for f in fields), None if row["kind"] == "sampler" else few(row))


def grouped(rows: Iterable[dict]) -> list[list[dict]]:
    """Rows by group, in order of appearance."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    return list(groups.values())


def ok(row: dict) -> bool:
    """Whether a row is a measurement rather than the reason why there is none."""
    return row["status"] == "ok"


def read(path: Path) -> list[dict]:
    """Rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def read_all(folder: Path = RESULTS) -> list[dict]:
    """Rows of all files below a folder."""
    return latest(folder.glob("*/*.jsonl"))


def latest(paths: Iterable[Path]) -> list[dict]:
    """Rows of several files. Of groups that occur in more than one, those of the latest run."""
    found: dict[tuple, list[dict]] = {}
    for path in sorted(paths):
        for rows in grouped(read(path)):
            key = group(rows[0])
            if key not in found or found[key][0]["date"] < rows[0]["date"]:
                found[key] = rows
    return [row for rows in found.values() for row in rows]


class Recorder:
    """Collects the rows of a run. Each row is in the file as soon as it is added."""

    def __init__(self, path: Path, provenance: dict) -> None:
        self.path, self.provenance = path, provenance
        self.rows: list[dict] = []
        self._old = read(path)
        self._replaced: set[tuple] = set()

    def add(self, **fields) -> dict:
        """Add one row, which replaces the rows of its group from earlier runs."""
        row = {**fields, **self.provenance}
        self.rows.append(row)
        if group(row) not in self._replaced:
            self._replaced.add(group(row))
            self._old = [old for old in self._old if group(old) not in self._replaced]
        self._write()
        return row

    def of_kind(self, kind: str) -> list[dict]:
        """Rows of this run."""
        return [row for row in self.rows if row["kind"] == kind]

    def everything(self) -> list[dict]:
        """Rows of the file: this run's and those it did not replace."""
        return self._old + self.rows

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.everything()))
