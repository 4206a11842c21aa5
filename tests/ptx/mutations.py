"""Leaves out every barrier, wait and fence of compiled kernels once, and says which of them nobody notices.

A mutant is noticed if the machine reports a fault, or if it writes another result than the kernel.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from . import machine

ORDERING = re.compile(
    r"(?:@!?%\w+\s+)?\b(?P<name>bar\.(?:sync|warp\.sync)|barrier(?:\.cta)?\.sync|cp\.async\.(?:wait|commit)_\w+|"
    r"wgmma\.(?:fence|commit_group|wait_group)|fence\.\w+|membar)\b[^;]*;"
)
MORE = 20  # times the instructions of the kernel that a mutant may execute


@dataclass
class Launch:
    """One launch as it began."""

    module: machine.Module
    kernel: str
    arguments: tuple
    options: dict
    before: list[bytes] = field(default_factory=list)  # contents of the ranges

    def __post_init__(self) -> None:
        self.before = self.contents()

    def contents(self) -> list[bytes]:
        """Of the ranges now."""
        return [ctypes.string_at(begin, end - begin) for begin, end, _ in self.options["ranges"]]

    def run(self, text: str, **options) -> tuple[machine.Report, list[bytes]]:
        """The report, and what the ranges hold afterwards; they are as they were when this returns."""
        now = self.contents()
        self._write(self.before)
        try:
            report = machine.Module(text).launch(self.kernel, *self.arguments, **self.options | options)
            return report, self.contents()
        finally:
            self._write(now)

    def _write(self, contents: Sequence[bytes]) -> None:
        for (begin, _, _), data in zip(self.options["ranges"], contents, strict=True):
            ctypes.memmove(begin, data, len(data))


@dataclass(frozen=True)
class Mutant:
    """One instruction left out."""

    kernel: str
    instruction: str
    line: int
    noticed: str  # kinds of faults, "result", or nothing

    def __str__(self) -> str:
        return f"{self.kernel}, line {self.line}, {self.instruction}: {self.noticed or 'UNNOTICED'}"


def entry(text: str, kernel: str) -> tuple[int, int]:
    """Where a kernel's text is."""
    begin = re.search(rf"\.entry\s+{re.escape(kernel)}\b", text).start()
    following = text.find(".entry", begin + 6)
    return begin, following if following >= 0 else len(text)


def mutants(launch: Launch, **options) -> Iterator[Mutant]:
    """Every ordering instruction of the launched kernel, left out once."""
    text = launch.module.text
    right, result = launch.run(text, **options)
    if right.faults:
        raise machine.Faults(right.faults)
    options["most_instructions"] = MORE * right.counts["executed"]
    for match in ORDERING.finditer(text, *entry(text, launch.kernel)):
        changed = text[: match.start()] + " " * len(match[0]) + text[match.end() :]
        report, found = launch.run(changed, **options)
        noticed = ", ".join(sorted(report.kinds)) or ("result" if found != result else "")
        yield Mutant(launch.kernel, match["name"], text.count("\n", 0, match.start()) + 1, noticed)


@contextmanager
def mutated(**options) -> Iterator[list[Mutant]]:
    """What becomes of the mutants of all kernels that are launched inside, at the first launch of each text."""
    found: list[Mutant] = []
    seen, launch = set(), machine.Module.launch

    def first_mutants(module, kernel, *arguments, **given):
        if (module.text, kernel) not in seen:
            seen.add((module.text, kernel))
            with patch.object(machine.Module, "launch", launch):
                found.extend(mutants(Launch(module, kernel, arguments, given), **options))
        return launch(module, kernel, *arguments, **given)

    with patch.object(machine.Module, "launch", first_mutants):
        yield found


def table(found: Sequence[Mutant]) -> str:
    """Mutants and how many were noticed, by kernel and instruction."""
    all_, noticed = (Counter((m.kernel, m.instruction) for m in found if m.noticed or every) for every in (True, False))
    rows = ["| kernel | left out | mutants | noticed |", "|---|---|---|---|"]
    rows += [f"| {kernel} | {name} | {all_[kernel, name]} | {noticed[kernel, name]} |" for kernel, name in sorted(all_)]
    return "\n".join([*rows, f"| all | | {all_.total()} | {noticed.total()} |"])
