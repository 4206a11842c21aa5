"""`python -m multimix_kernels verify`: checks now, whatever was found before, and prints and keeps what it finds."""

import argparse
import sys
import time
from pathlib import Path

from .. import backends
from ..backends.verdicts import checking, device, plan, store
from ..backends.verdicts.plan import Part
from . import table

LIMIT, LONG_LIMIT = 1800.0, 4 * 3600.0  # seconds; who asks for it may wait longer than a first call does


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 1 if something failed, 2 if nothing could be checked."""
    parser = argparse.ArgumentParser("python -m multimix_kernels verify", description="Verify the GPU backends here")
    parser.add_argument("--device", type=int, default=0, help="the index of the GPU in torch (0)")
    parser.add_argument("--backend", choices=[row.name for row in backends.TABLE.values() if row.to_verify])
    parser.add_argument("--all", action="store_true", help="more sizes and options, and ten times as many weights")
    parser.add_argument("--table", type=Path, help="a file that gets the table, too")
    options = parser.parse_args(arguments)
    on = device.find("cuda", options.device)
    if on is None:
        return _cannot("PyTorch sees no GPU here: there is nothing to verify")
    kind = on.torch_device.type
    rows = [row for row in backends.TABLE.values() if row.to_verify and kind in row.devices]
    reasons = {row.name: row.missing(options.device) for row in rows}
    for name, reason in reasons.items():
        if reason is not None and options.backend in (None, name):
            print(f"{name} is not available: {reason}", flush=True)
    names = [name for name, reason in reasons.items() if reason is None]
    chosen = [name for name in names if options.backend in (None, name)]
    if not chosen:
        return _cannot("no GPU backend is available")
    lock = store.Lock(on)
    try:
        lock.open()
    except OSError as error:
        return _cannot(store.unwritable(error))
    try:
        while not lock.take():
            time.sleep(1)
        lock.say("")
        return _verify(on, chosen, names, options)
    finally:
        lock.close()


def _verify(on: device.Device, chosen: list[str], names: list[str], options: argparse.Namespace) -> int:
    about = "many minutes" if options.all else "about a minute, the first time a little longer, as Triton compiles"
    print(f"{' and '.join(chosen)} on {on.name}: {about}", flush=True)
    parts = plan.parts(chosen, on.kinds)
    outcome = checking.run(on, parts, LONG_LIMIT if options.all else LIMIT, options.all, _Progress(len(parts)))
    for name, text in outcome.problems.items():
        print(f"{name or 'nothing'} could {'not ' if name else ''}be checked: {text}", file=sys.stderr, flush=True)
    found = checking.verdict(on, outcome, names)
    if found is None:
        return 2
    store.save(on, found)
    text = table.text(found | {"key": store.key(on)})
    print(f"\n{text}\n\nkept in {store.path(on)}", flush=True)
    if options.table is not None:
        options.table.write_text(text + "\n")
    failed = any(x["failed"] for by in outcome.results.values() for kinds in by.values() for x in kinds.values())
    return 1 if failed else 2 if outcome.problems else 0


def _cannot(why: str) -> int:
    print(f"multimix_kernels verify: {why}", file=sys.stderr)
    return 2


class _Progress:
    """A line for each part."""

    def __init__(self, count: int) -> None:
        self._count, self._done, self._start = count, 0, time.monotonic()
        self._timing = False

    def __call__(self, event: dict) -> None:
        """Of the child."""
        if event["event"] == "end":
            self._done += 1
            state = "passed" if event["failed"] is None else f"FAILED: {event['failed']}"
            seconds = time.monotonic() - self._start
            print(f"{self._done:>3}/{self._count} {seconds:5.1f} s  {Part(*event['part'])}: {state}", flush=True)
        elif event["event"] == "shapes" and not self._timing:
            self._timing = True
            print("timing", flush=True)
