"""Checks a device in a child process: an illegal address, a crash or a hang there touches nobody else.

The child (`verify.child`) is told which parts to check and writes one JSON line for all that it begins and ends. A
part in which it dies or is not heard of any more has failed, and another child goes on with what is left. What says
nothing about the kernels (too little memory, no compiler, a GPU that somebody else has for himself) is a problem, and
never a failure.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from . import plan, store
from .device import Device
from .plan import Part

COMMAND = ("-m", "multimix_kernels.verify.child")  # arguments of Python; the tests have a child of their own
SILENCE = 180.0  # seconds without a word from the child, in which Triton may be compiling one case
RESTARTS = 8
DEVICE_LOST = 3  # the child's exit code where the device is of no more use to it
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")
_ROOT = Path(__file__).parents[3]


@dataclass
class Outcome:
    """What a check found."""

    results: dict[str, Any] = field(default_factory=dict)  # see `plan`
    times: dict[str, Any] = field(default_factory=dict)  # times[backend][operation][kind]: seconds for each shape
    shapes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # by backend, "" for all: why it could not be checked
    seconds: float = 0.0

    def enter(self, part: Part, cases: int, failed: str | None, **more: Any) -> None:
        """The result of a part."""
        operators = self.results.setdefault(part.backend, {}).setdefault(part.operator, {})
        operators[part.kind] = {"cases": cases, "failed": failed, **more}


def run(
    device: Device,
    parts: Sequence[Part],
    limit: float,
    thorough: bool = False,
    hear: Callable[[dict], None] = lambda event: None,
) -> Outcome:
    """Checks the parts within a number of seconds; what the child says is passed on."""
    outcome, left, timing, restarts = Outcome(), list(parts), True, 0
    start = time.monotonic()
    while (left or timing) and "" not in outcome.problems:
        request = {
            "index": device.index, "parts": left, "times": timing, "thorough": thorough, "results": outcome.results,
        }  # fmt: skip
        current: tuple[Part, str] | None = None
        child = _Child(request)
        try:
            for event in child.events(start + limit):
                kind = event["event"]
                if kind == "case":
                    current = Part(*event["part"]), event["case"]
                elif kind == "end":
                    part = Part(*event["part"])
                    outcome.enter(part, event["cases"], event["failed"], **event.get("more", {}))
                    left.remove(part)
                    current = None
                elif kind == "problem":
                    outcome.problems[event["backend"]] = event["text"]
                    left = [part for part in left if part.backend != event["backend"]]
                    current = None
                elif kind == "shapes":
                    outcome.shapes, timing, current = event["shapes"], False, None  # once, whatever becomes of it
                elif kind == "time":
                    times = outcome.times.setdefault(event["backend"], {}).setdefault(event["operation"], {})
                    times[event["kind"]] = event["seconds"]
                hear(event)
        finally:
            child.end()
        if child.fate is None:
            break
        fault, text = child.fate
        restarts += 1
        if fault == "late" or restarts > RESTARTS:
            why = f"there were {limit:.0f} s for it" if fault == "late" else "the check broke off too often"
            for part in left:
                outcome.problems.setdefault(part.backend, f"not all of it was checked: {why}")
            break
        if fault == "lost":
            continue
        if fault == "fault" and current is not None:
            part, case = current
            outcome.enter(part, 0, f"{case}: {text}")
            left.remove(part)
            hear({"event": "end", "part": part, "cases": 0, "failed": f"{case}: {text}", "seconds": 0.0})
        elif left or current is not None:
            outcome.problems[""] = f"the process that checks {text}"
        else:
            break  # of the times some are missing
    outcome.seconds = time.monotonic() - start
    return outcome


def verdict(device: Device, outcome: Outcome, order: Sequence[str]) -> dict[str, Any] | None:
    """What is kept of an outcome, together with what an earlier verdict says of other backends; None if nothing."""
    old = store.load(device) or {}
    results = {name: x for name, x in (old.get("results", {}) | outcome.results).items() if name in order}
    if not outcome.results:
        return None
    times = old.get("times", {}) | outcome.times
    return {
        "choice": plan.choice(results, times, order), "date": store.today(), "seconds": round(outcome.seconds, 1),
        "results": results, "times": times, "shapes": outcome.shapes or old.get("shapes", []),
        "problems": outcome.problems,
    }  # fmt: skip


class _Child:
    """The process, and what became of it: `fate` is None if it did all that it was asked for."""

    def __init__(self, request: dict) -> None:
        self.fate: tuple[str, str] | None = None
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed by `end`
        self._lines: queue.Queue[str | None] = queue.Queue()
        environment = os.environ | {"MULTIMIX_VERIFY": "off", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        environment.pop("MULTIMIX_BACKEND", None)
        # The package that is imported here, wherever Python was started.
        folders = [str(_ROOT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders))
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND, json.dumps(request)], env=environment, cwd=_ROOT, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

    def _listen(self, stream: IO[str]) -> None:
        with suppress(ValueError):  # closed at the end
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def events(self, deadline: float) -> Iterator[dict]:
        """What it says, until it ends, or is silent too long, or the deadline (of time.monotonic) has come."""
        while True:
            left = deadline - time.monotonic()
            try:
                line = self._lines.get(timeout=max(0.0, min(SILENCE, left)))
            except queue.Empty:
                quiet = left > SILENCE
                self.fate = ("fault", f"did not end within {SILENCE:.0f} s") if quiet else ("late", "")
                return
            if line is None:
                self.fate = self._ended()
                return
            event = json.loads(line)
            if event["event"] == "done":
                return
            yield event

    def _ended(self) -> tuple[str, str]:
        code = self._process.wait()
        if code == DEVICE_LOST:
            return "lost", ""
        if code < 0:
            name = signal.Signals(-code).name
            return "fault" if name in _CRASHES else "problem", f"was ended by {name}"
        self._log.seek(0)
        said = [line.strip() for line in self._log.read().splitlines() if line.strip()][-1:] or ["nothing"]
        return "problem", f"ended with code {code} and said: {said[0]}"

    def end(self) -> None:
        """No process of it is left."""
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # one that waits for a broken driver
            self._process.wait(10)
        self._log.close()
