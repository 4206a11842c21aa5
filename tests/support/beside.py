"""Long tests that run in processes of their own, beside the others: started once it is known which tests will run.

A test marked `beside(function, *arguments)` gets a fixture of that name, which waits for what the function returns.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

AT_ONCE = 2

_pool = ThreadPoolExecutor(AT_ONCE)
_started: dict[str, Future] = {}
_processes: set[subprocess.Popen] = set()
_lock = threading.Lock()
_over = False


def run(command: Sequence[str], folder: Path, environment: dict[str, str], seconds: int = 3600) -> None:
    """A run of pytest that must pass. Fails with the end of what it printed."""
    with _lock:
        if _over:
            return
        process = subprocess.Popen(
            command, env=os.environ | environment, cwd=folder, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _processes.add(process)
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        _end(process)
    assert process.returncode == 0, said[-10_000:]
    assert " passed" in said


def start(items: Sequence[pytest.Item]) -> None:
    """What the tests that will run wait for; the last first, as those of Triton take longest."""
    for item in reversed(items):
        mark = item.get_closest_marker("beside")
        if mark is not None and not any(skip.args[0] for skip in item.iter_markers("skipif")):
            _started[item.nodeid] = _pool.submit(*mark.args)


def wait(item: pytest.Item) -> None:
    """For the function of a test; fails or skips as it does."""
    _started[item.nodeid].result()


def end() -> None:
    """No process is left."""
    global _over
    with _lock:
        _over = True
        processes = list(_processes)
    _pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _processes.discard(process)
