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
    r"(?P<guard>@!?%\w+\s+)?\b(?P<name>bar\.(?:sync|warp\.sync)|barrier(?:\.cta)?\.sync|cp\.async\.(?:wait|commit)_\w+|"
    r"wgmma\.(?:fence|commit_group|wait_group)|fence\.\w+|membar)\b[^;]*;"
)
NOWHERE = "st.global.b32 [8], 0;"  # a fault, if it is reached
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
    reached: bool = True  # whether the launch executes the instruction

    def __str__(self) -> str:
        noticed = self.noticed or ("UNNOTICED" if self.reached else "not reached")
        return f"{self.kernel}, line {self.line}, {self.instruction}: {noticed}"


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

        def instead(other: str, match=match) -> str:
            return text[: match.start()] + other + text[match.end() :]

        report, found = launch.run(instead(""), **options)
        noticed = ", ".join(sorted(report.kinds)) or ("result" if found != result else "")
        reached = bool(noticed) or bool(launch.run(instead((match["guard"] or "") + NOWHERE), **options)[0].faults)
        yield Mutant(launch.kernel, match["name"], text.count("\n", 0, match.start()) + 1, noticed, reached)


@contextmanager
def mutated(seen: set[tuple[str, str]], **options) -> Iterator[list[Mutant]]:
    """What becomes of the mutants of all kernels that are launched inside, other than those `seen`: texts and names."""
    found: list[Mutant] = []
    launch = machine.Module.launch

    def first_mutants(module, kernel, *arguments, **given):
        if (module.text, kernel) not in seen:
            seen.add((module.text, kernel))
            with patch.object(machine.Module, "launch", launch):
                found.extend(mutants(Launch(module, kernel, arguments, given), **options))
        return launch(module, kernel, *arguments, **given)

    with patch.object(machine.Module, "launch", first_mutants):
        yield found


def table(found: Sequence[Mutant]) -> str:
    """How many mutants were reached and noticed, by kernel and instruction."""
    count: dict[tuple[str, str], Counter] = {}
    for mutant in found:
        for row in ((mutant.kernel, mutant.instruction), ("all", "")):
            one = count.setdefault(row, Counter())
            one.update(mutants=1, reached=mutant.reached, noticed=bool(mutant.noticed))
    rows = ["| kernel | left out | mutants | reached | noticed |", "|---|---|---|---|---|"]
    for (kernel, name), one in sorted(count.items()):
        rows.append(f"| {kernel} | {name} | {one['mutants']} | {one['reached']} | {one['noticed']} |")
    return "\n".join(rows)
