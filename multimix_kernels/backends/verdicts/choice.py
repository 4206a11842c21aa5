"""Which backends are verified on a device: read once per process and device, checked first where nobody did yet.

MULTIMIX_VERIFY=off starts no check: a verdict that is there is used, and otherwise the reference. MULTIMIX_VERIFY=
require starts none either, and where the reference would be used because no backend is verified, that is an error.

Several processes at once: one checks, the others wait for its verdict. Where they choose differently all the same (two
kinds of GPUs), they still mix alike: the weights are one stream on every backend.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from . import checking, device, plan, store

ENVIRONMENT_VARIABLE = "MULTIMIX_VERIFY"
COMMAND = "python -m multimix_kernels verify"
LIMIT = 600.0  # seconds
_ABOUT = "a minute; at most ten"
_POLL = 0.2


class Standing(NamedTuple):
    """What is known of a device: choice[operation][kind] are backends, the fastest first; and why nothing is."""

    choice: dict[str, dict[str, list[str]]]
    problem: str | None


_known: dict[tuple[str, int | None], Standing | None] = {}
_threads = threading.Lock()


def _after_fork() -> None:
    global _threads
    _threads = threading.Lock()  # another thread of the parent may hold it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def mode() -> str:
    """What MULTIMIX_VERIFY says: "auto", "off" or "require"."""
    value = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if value not in ("auto", "off", "require"):
        raise ValueError(f"{ENVIRONMENT_VARIABLE}: expected auto, off or require, got {value!r}")
    return value


def standing(
    device_type: str, index: int | None, backends: Callable[[], Sequence[str]], may_check: bool = True
) -> Standing | None:
    """Of a device; None where backends need no verdict. `backends` names those that can be verified, best first."""
    key = device_type, index
    if key in _known:
        return _known[key]
    with _threads:
        if key in _known:
            return _known[key]
        found = _find(device_type, index, backends, may_check)
        if may_check and key != ("cuda", None):  # which is another device tomorrow
            _known[key] = found
    return found


def _find(device_type: str, index: int | None, backends: Callable, may_check: bool) -> Standing | None:
    on = device.find(device_type, index)
    if on is None:
        return None
    found = store.load_choice(on)
    if found is not None:
        return Standing(found, None)
    names = backends()
    if not names:
        return Standing({}, None)
    if mode() != "auto" or not may_check:
        why = f", and {ENVIRONMENT_VARIABLE} is {mode()}" if mode() != "auto" else ""
        return Standing({}, f"the GPU backends have not been verified on this {on.name} yet{why}")
    problem = _check(on, names)
    return Standing(store.load_choice(on) or {}, problem)


def known(device_type: str, index: int | None) -> bool:
    """Whether backends have to be verified on a device that has been looked at."""
    return _known.get((device_type, index)) is not None


def why_not(device_type: str, index: int | None, backend: str, operation: str, kind: str) -> str:
    """Why a backend that is available is not used, in one clause."""
    on = device.find(device_type, index)
    found = None if on is None else store.load(on)
    if found is None:
        known = _known.get((device_type, index))
        return (known and known.problem) or "it has not been verified"
    if found["problems"].get(backend) and backend not in found["results"]:
        return found["problems"][backend]
    return plan.reason(found["results"], backend, operation, kind) or "it passed its check"


def _check(on: device.Device, names: Sequence[str]) -> str | None:
    """Checks, or waits for another process that does. Why there is no verdict; None if there is one."""
    lock = store.Lock(on)
    try:
        lock.open()
    except OSError as error:
        return store.unwritable(error)
    try:
        waited, deadline = False, time.monotonic() + LIMIT + 60
        while not lock.take():
            waited = True
            if time.monotonic() > deadline:
                return "another process has been checking them for too long"
            time.sleep(_POLL)
        if store.load_choice(on) is not None:
            return None
        if waited and (said := lock.said()):
            return said  # it could not be done a moment ago
        lock.say("")
        problem = _run(on, names)
        lock.say(problem or "")
        return problem
    except OSError as error:
        return store.unwritable(error)
    finally:
        lock.close()


def _run(on: device.Device, names: Sequence[str]) -> str | None:
    if not sys.executable:
        return f"this Python cannot start another one to check them; run {COMMAND}"
    print(
        f"multimix_kernels: verifying {' and '.join(names)} on {on.name}, once, in a process of its own; this takes "
        f"about {_ABOUT} ({ENVIRONMENT_VARIABLE}=off skips it)",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    outcome = checking.run(on, plan.parts(names, on.kinds), LIMIT)
    found = checking.verdict(on, outcome, names)
    if found is not None:
        store.save(on, found)
    problems = [text for name, text in outcome.problems.items() if not name or name not in outcome.results]
    return "; ".join(dict.fromkeys(problems)) or None
