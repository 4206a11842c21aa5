"""Runs the steps one after the other within the budget; the outcome of each part is on disk before the next starts."""

import shlex
import time
from dataclasses import replace
from pathlib import Path

from .child import Outcome, run_child
from .machine import FILE, Machine, facts
from .parts import PYTHON, Part, Step
from .summary import BAD, Summary, read_note

REHEARSAL_SECONDS = 110.0
SHORTEST = 3.0  # with less left none is started
_TRIAL_SECONDS = 40.0


class Session:
    """One visit to one machine."""

    def __init__(self, steps: list[Step], chosen: list[Step], folder: Path, minutes: float) -> None:
        self.chosen, self.folder = chosen, folder
        self.logs = folder / "logs"
        self.summary = Summary(folder, steps, chosen, minutes)
        self.logs.mkdir(exist_ok=True)
        (folder / FILE).unlink(missing_ok=True)  # an earlier visit's
        self._deadline = time.monotonic() + 60 * minutes - 1  # a second for the last words
        self._broken: dict[str, str] = {}  # tools that do not work here, and what they say
        self.machine = Machine()

    def run(self) -> int:
        """Run everything; the exit code: 1 if something failed on a machine with a GPU, 130 if interrupted."""
        try:
            for index, step in enumerate(self.chosen):
                later = sum(s.weight for s in self.chosen[index:])
                self._run_step(step, time.monotonic() + self._left() * step.weight / later)
                self._look(after=step)
        except KeyboardInterrupt:
            return self._finish(130)
        bad = any(row["status"] in BAD for row in self.summary.rows())
        # Without torch not even the rehearsal means anything.
        counts = self.machine.has_gpu or self.machine.torch is None
        return self._finish(int(bad and counts))

    def _run_step(self, step: Step, end: float) -> None:
        try:
            parts = self._plan(step)
        except Exception as error:  # the other steps have their turn all the same
            self._skip(step, Part(step.name, ()), "failed", f"not planned: {type(error).__name__}: {error}")
            return
        if not parts:
            self._skip(step, Part(step.name, ()), "unavailable", "no GPU backend is available")
        for index, part in enumerate(parts):
            reason = part.missing or self._broken.get(_tool(part))
            if not part.runs:
                self._skip(step, part, "would run", self._said(part) if reason is None else reason)
            elif reason is not None:
                self._skip(step, part, "failed" if part.required else "unavailable", reason)
            elif self._left() < SHORTEST:
                self._skip(step, part, "failed" if part.required else "no time", "no time was left for it")
            else:
                later = sum(p.weight for p in parts[index:] if p.runs and p.missing is None)
                share = max(part.least, (end - time.monotonic()) * part.weight / later)
                self._run_part(step, part, min(share, self._left()))

    def _run_part(self, step: Step, part: Part, limit: float) -> None:
        log = self.logs / f"{part.name.replace('/', '-')}.log"
        if part.writes is not None:
            part.writes.unlink(missing_ok=True)
        row = self.summary.begin(step, part, log, limit)
        outcome = run_child(part.command, log, limit, part.environment)
        note = read_note(log, part.note, outcome.status)
        if outcome.status == "failed" and part.trial and not self._works(part):
            outcome, note = replace(outcome, status="unavailable"), self._broken[_tool(part)]
        self.summary.end(step, row, outcome, note)
        _say(row)
        if outcome.status == "interrupted":
            raise KeyboardInterrupt

    def _works(self, part: Part) -> bool:
        """Whether the tool can do its work on a program that has no faults."""
        limit = min(_TRIAL_SECONDS, self._left())
        if limit < SHORTEST:
            return True  # not known, so the failure stands
        log = self.logs / f"{part.name.replace('/', '-')}-trial.log"
        outcome: Outcome = run_child(part.trial, log, limit)
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        if outcome.status == "failed":
            self._broken[_tool(part)] = f"does not work here: {read_note(log, None, outcome.status)}"
        return outcome.status != "failed"

    def _plan(self, step: Step) -> list[Part]:
        if self.machine.has_gpu or step.rehearsal is None:
            return step.parts(self.machine, self.folder)
        said = [replace(part, runs=False) for part in step.parts(self.machine.pretended(), self.folder)]
        return said + step.rehearsal(self.machine, self.folder)

    def _look(self, after: Step) -> None:
        """What the machine has may be new after a step: first of all the report, then what was built."""
        self.machine = Machine.read(self.folder)
        first = self.summary.data["rehearsal"] is None
        self.summary.data |= {"machine": facts(self.folder), "rehearsal": not self.machine.has_gpu}
        self.summary.write()
        if first and not self.machine.has_gpu:
            print("No GPU here: a rehearsal. What needs one is only said.", flush=True)
            self._deadline = min(self._deadline, time.monotonic() + REHEARSAL_SECONDS)

    def _skip(self, step: Step, part: Part, status: str, note: str) -> None:
        _say(self.summary.without(step, part, status, note))

    def _said(self, part: Part) -> str:
        words = ["python" if word == PYTHON else word for word in part.command]
        return shlex.join(words).replace(f"{self.folder}/", "")

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _finish(self, exit_code: int) -> int:
        self.summary.finish(exit_code)
        return exit_code


def _tool(part: Part) -> str:
    return part.trial[0] if part.trial else ""


def _say(row: dict) -> None:
    seconds = f"{row['seconds']:.1f} s" if "seconds" in row else ""
    print(f"{row['part']:<34}  {row['status']:<11}  {seconds:>7}  {row.get('note', '')}".rstrip(), flush=True)
