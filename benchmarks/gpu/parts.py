"""What a visit consists of: steps, each made of parts, each part one child process."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Machine

PYTHON = sys.executable


@dataclass(frozen=True)
class Part:
    """One child process: its command, its share of time, and how its log is read."""

    name: str  # "step/part"
    command: tuple[str, ...]
    weight: float = 1.0  # share of what its step has left
    least: float = 20.0  # seconds that it is given, whatever its share, as long as there are any
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str | None = None  # why it cannot run here
    required: bool = False  # that it cannot run is a failure
    note: str | None = None  # a regular expression: what of the log the summary shows
    writes: Path | None = None  # what it leaves besides its log
    trial: tuple[str, ...] = ()  # the same tool on a program without faults: if that fails too, it is the tool
    runs: bool = True  # False: only said, in a rehearsal


Plan = Callable[[Machine, Path], list[Part]]


@dataclass(frozen=True)
class Step:
    """Parts that belong together, planned when their turn comes."""

    name: str
    what: str
    weight: float  # share of the time that is left
    parts: Plan
    rehearsal: Plan | None = None  # what can run without a GPU; None: the same parts
