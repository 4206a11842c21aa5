"""Leaves out every barrier, wait and fence of kernels once, and says which of them nobody notices.

`recorded` keeps the launches of the code inside, with the memory they began with; `mutants` runs one of them again for
each instruction that is left out. A mutant is noticed if the machine reports a fault, or if it writes another result.
"""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from . import machine

ORDERING = re.compile(
    r"(?:@!?%\w+\s+)?\b(?:bar\.(?:sync|warp\.sync|red)|barrier\.|cp\.async\.(?:wait|commit)|wgmma\.(?:fence|commit|wait)|"
    r"fence\.|membar)[^;]*;"
)
MORE = 20  # times the instructions of the kernel that a mutant may execute


@dataclass
class Launch:
    """One launch as it began."""

    text: str
    kernel: str
    shape: tuple  # grid, block, dynamic shared memory
    values: list[bytes]
    ranges: list[tuple]
    options: dict
    before: list[bytes] = field(default_factory=list)  # contents of the ranges
    keep: list = field(default_factory=list)  # what the ranges belong to

    def contents(self) -> list[bytes]:
        """Of the ranges now."""
        return [ctypes.string_at(begin, end - begin) for begin, end, *_ in self.ranges]

    def run(self, text: str, **options) -> tuple[dict, list[bytes]]:
        """The report, and what is in the ranges afterwards; they are as they were when this returns."""
        now = self.contents()
        self._write(self.before)
        try:
            report = machine.Module(text).launch(
                self.kernel, *self.shape, self.values, self.ranges, **self.options | options
            )
            return report, self.contents()
        finally:
            self._write(now)

    def _write(self, contents):
        for (begin, *_), data in zip(self.ranges, contents, strict=True):
            ctypes.memmove(begin, data, len(data))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The first launch of every kernel and shape inside; the tensors must live until they have been run again."""
    launches: dict[tuple, Launch] = {}
    texts, load, launch = {}, machine.Module.__init__, machine.Module.launch

    def note_text(module, text, *rest, **options):
        load(module, text, *rest, **options)
        texts[id(module)] = text
        launches.setdefault("modules", []).append(module)  # so that the number stays this module's

    def note(module, kernel, grid, block, shared, values, ranges, **options):
        key = (texts[id(module)], kernel, grid, shared)
        if key not in launches:
            one = Launch(texts[id(module)], kernel, (grid, block, shared), values, ranges, options)
            one.before = one.contents()
            launches[key] = one
        return launch(module, kernel, grid, block, shared, values, ranges, **options)

    found: list[Launch] = []
    with patch.object(machine.Module, "__init__", note_text), patch.object(machine.Module, "launch", note):
        yield found
    found += [one for key, one in launches.items() if key != "modules"]


@dataclass(frozen=True)
class Mutant:
    """One instruction left out."""

    kernel: str
    instruction: str
    number: int  # among the kernel's instructions of the kind
    line: int
    noticed: str  # kinds of faults, "result", or nothing

    def __str__(self) -> str:
        return f"{self.kernel} line {self.line}, {self.instruction} ({self.number}): {self.noticed or 'unnoticed'}"


def _entry(text: str, kernel: str) -> tuple[int, int]:
    """Where a kernel's text is."""
    begin = re.search(rf"\.entry\s+{re.escape(kernel)}\b", text).start()
    following = text.find(".entry", begin + 6)
    return begin, following if following >= 0 else len(text)


def mutants(launch: Launch, **options) -> list[Mutant]:
    """Every ordering instruction of the launched kernel, left out once."""
    right, result = launch.run(launch.text, **options)
    assert not right["faults"], right["faults"]
    most = MORE * sum(right["counts"][name] for name in right["counts"]) + 1_000_000
    begin, end = _entry(launch.text, launch.kernel)
    found, numbers = [], {}
    for match in ORDERING.finditer(launch.text, begin, end):
        words = match[0].split("%")[0] if match[0].startswith("@") else match[0]
        instruction = re.sub(r"^@!?%\w+\s+", "", match[0]).rstrip(";").strip() if words else match[0]
        numbers[instruction] = numbers.get(instruction, -1) + 1
        text = launch.text[: match.start()] + " " * len(match[0]) + launch.text[match.end() :]
        report, changed = launch.run(text, **options | dict(most_instructions=most))
        noticed = ", ".join(sorted({fault["kind"] for fault in report["faults"]}))
        if not noticed and changed != result:
            noticed = "result"
        line = launch.text.count("\n", 0, match.start()) + 1
        found.append(Mutant(launch.kernel, instruction, numbers[instruction], line, noticed))
    return found
