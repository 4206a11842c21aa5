"""summary.json and summary.txt: what became of every part, rewritten after each."""

import json
import re
import time
from datetime import datetime, timezone
from pathlib import Path

from ..files import write_atomically, write_json
from ..text import table
from .child import Outcome
from .parts import Part, Step

BAD = ("failed", "timed out", "interrupted")
_ORDER = (*BAD, "running", "ok", "no time", "unavailable", "would run", "pending", "not chosen")
_LOG_END = 200_000  # characters in which a note is looked for
_NOTE = 300


class Summary:
    """Collects the outcomes of a visit in a folder."""

    def __init__(self, folder: Path, steps: list[Step], chosen: list[Step], minutes: float) -> None:
        self.folder = folder
        self._start = time.monotonic()
        self.data: dict = {
            "started": _now(), "finished": None, "minutes": minutes, "rehearsal": None, "exit_code": None,
            "seconds": 0.0, "machine": {},
            "steps": [
                {"step": s.name, "what": s.what, "status": "pending" if s in chosen else "not chosen", "parts": []}
                for s in steps
            ],
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def step(self, name: str) -> dict:
        """The record of a step."""
        return next(record for record in self.data["steps"] if record["step"] == name)

    def begin(self, step: Step, part: Part, log: Path, limit: float) -> dict:
        """The row of a part that starts now: it says "running" if nothing is heard of it again."""
        row = self._row(part) | {"status": "running", "started": _now(), "limit": round(limit, 1)}
        row["log"] = str(log.relative_to(self.folder))
        self._add(step, row)
        return row

    def end(self, step: Step, row: dict, outcome: Outcome, note: str) -> None:
        """The same row, when it has ended."""
        row |= {"status": outcome.status, "seconds": round(outcome.seconds, 2), "exit_code": outcome.exit_code}
        row["note"] = note
        self._settle(step)

    def without(self, step: Step, part: Part, status: str, note: str) -> dict:
        """A row for a part that is not started, and why."""
        row = self._row(part) | {"status": status, "note": note}
        self._add(step, row)
        return row

    def rows(self) -> list[dict]:
        """Rows of all parts."""
        return [row for record in self.data["steps"] for row in record["parts"]]

    def write(self) -> None:
        """Both files, as things are."""
        self.data["seconds"] = round(time.monotonic() - self._start, 1)
        write_json(self.folder / "summary.json", self.data)
        write_atomically(self.folder / "summary.txt", self.text() + "\n")

    def finish(self, exit_code: int) -> None:
        """The last words."""
        for row in self.rows():
            if row["status"] == "running":
                row["status"] = "interrupted"
        self.data |= {"finished": _now(), "exit_code": exit_code}
        self.write()

    def text(self) -> str:
        """A table for a reader."""
        data, machine = self.data, self.data["machine"]
        what = {None: "Visit", True: "Rehearsal without a GPU", False: "Visit"}[data["rehearsal"]]
        dirty = {True: ", with changes", False: "", None: ", unknown whether changed"}[machine.get("dirty")]
        lines = [
            f"{what}, {data['started']}, {data['seconds']:.0f} s of {60 * data['minutes']:.0f} s",
            f"{machine.get('gpu') or 'no GPU that torch can use'}; torch {machine.get('torch')}, "
            f"CUDA {machine.get('cuda')}, Triton {machine.get('triton')}, driver {machine.get('driver')}",
            f"commit {machine.get('commit') or 'unknown'}{dirty}",
            "",
        ]
        body = []
        for record in data["steps"]:
            rows = record["parts"] or [{"part": record["step"], "status": record["status"]}]
            for row in rows:
                seconds = f"{row['seconds']:.1f}" if "seconds" in row else "-"
                body.append((row["part"], row["status"], seconds, row.get("note", "")))
        lines.append(table(("part", "status", "seconds", "note"), body, left=("status", "note")))
        return "\n".join(lines)

    def _row(self, part: Part) -> dict:
        row = {"part": part.name, "command": list(part.command)}
        if part.environment:
            row["environment"] = dict(part.environment)
        if part.writes is not None:
            row["writes"] = str(part.writes.relative_to(self.folder))
        return row

    def _add(self, step: Step, row: dict) -> None:
        self.step(step.name)["parts"].append(row)
        self._settle(step)

    def _settle(self, step: Step) -> None:
        record = self.step(step.name)
        record["status"] = min((row["status"] for row in record["parts"]), key=_ORDER.index)
        self.write()


def read_note(log: Path, pattern: str | None, status: str) -> str:
    """What the summary says of a log: what the pattern finds, or the last line of one that did not end well."""
    try:
        text = log.read_text(errors="replace").partition("\n")[2][-_LOG_END:]  # without the command
    except OSError:
        return ""
    found = list(dict.fromkeys(m.group(0).strip(" =") for m in re.finditer(pattern, text, re.M))) if pattern else []
    if not found and status != "ok":
        found = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    return "; ".join(found)[:_NOTE]


def read_summary(folder: Path) -> dict:
    """What summary.json says."""
    return json.loads((folder / "summary.json").read_text())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
