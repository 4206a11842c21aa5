"""The command line of a visit."""

import argparse
import signal
from pathlib import Path

from .parts import Step
from .session import Session
from .steps import STEPS

FIRST = "report"  # the others need what it finds


def main(arguments: list[str] | None = None, steps: list[Step] | None = None) -> int:
    """Run; 0, or 1 if something failed on a machine with a GPU, or 130 if interrupted."""
    steps = STEPS if steps is None else steps
    options = _options(arguments, [step.name for step in steps])
    if options.list:
        print("\n".join(f"{step.name:<10} {step.what}" for step in steps))
        return 0
    only = options.only or [step.name for step in steps]
    chosen = [s for s in steps if s.name == FIRST or (s.name in only and s.name not in options.skip)]
    folder = options.out.resolve()
    session = Session(steps, chosen, folder, options.minutes)
    # Both: what a shell starts in the background ignores SIGINT, and Python then does too.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        exit_code = session.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"\n{session.summary.text()}\n")
    if exit_code == 130:
        print("Interrupted; what was finished is kept.")
    if session.machine.torch is None:
        print("This Python cannot import torch; make gpu PYTHON=/path/to/python chooses another.")
    print(f"Everything is in {folder}")
    return exit_code


def _options(arguments: list[str] | None, names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/gpu"), metavar="FOLDER", help="where everything goes (default: out/gpu)")
    add("--minutes", type=_minutes, default=9.0, help="for everything together (default: 9)")
    add("--only", nargs="+", choices=names, metavar="STEP", help=f"only these steps, and {FIRST}")
    add("--skip", nargs="+", choices=names, metavar="STEP", default=[], help="not these steps")
    add("--list", action="store_true", help="list the steps, and stop")
    options = parser.parse_args(arguments)
    if FIRST in options.skip:
        parser.error(f"{FIRST} cannot be skipped: the other steps need what it finds")
    return options


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of minutes, got {text}")
    return value


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
