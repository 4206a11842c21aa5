"""One child process with a time limit: its output in a log, and nothing of it left behind."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GRACE = 8.0  # seconds to write down what is finished
# They would change what is measured and tested.
_DROPPED = ("MULTIMIX_BACKEND", "TRITON_INTERPRET")


@dataclass(frozen=True)
class Outcome:
    """How a child ended: "ok", "failed", "timed out" or "interrupted"."""

    status: str
    seconds: float
    exit_code: int | None = None


def run_child(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a command from the repository's root for at most `limit` seconds, which include the time to end in peace."""
    start = time.monotonic()
    grace = min(GRACE, 0.25 * limit)
    with log.open("w") as output:
        output.write(f"$ {shlex.join(command)}".replace("\n", " ") + "\n")  # one line
        output.flush()
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, env=_environment(environment or {}), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, preexec_fn=_own_group,
            )  # fmt: skip
        except OSError as error:
            output.write(f"{error}\n")
            return Outcome("failed", time.monotonic() - start)
        status = "ok"
        try:
            process.wait(limit - grace)
        except subprocess.TimeoutExpired:
            status = "timed out"
            interrupted = _end(process, grace)
        except KeyboardInterrupt:
            status = "interrupted"
            _end(process, grace)
        finally:
            _kill(process)
    if status == "timed out" and interrupted:
        status = "interrupted"
    if status == "ok" and process.returncode:
        status = "failed"
    return Outcome(status, time.monotonic() - start, process.returncode)


def _environment(changes: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    path = os.pathsep.join(filter(None, [str(ROOT), found.get("PYTHONPATH")]))
    return found | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | dict(changes)


def _own_group() -> None:
    os.setpgrp()
    # Where it is ignored, as in a shell's background job, Python would ignore it too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(process: subprocess.Popen, grace: float) -> bool:
    """Ask it to finish what it keeps; whether Ctrl-C came meanwhile."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(grace)
    except subprocess.TimeoutExpired:
        pass
    except KeyboardInterrupt:
        return True
    return False


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
