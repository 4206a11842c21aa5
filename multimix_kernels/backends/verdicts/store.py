"""Verdicts on disk: the key, one JSON file for each kind of GPU in the user's cache folder, and a lock beside it.

A file is written by atomic rename. One that is not whole, or is about other kernels, another torch or Triton, is no
verdict. `choice` comes first in it, so that the first call of a process need not read the rest.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from . import kernels
from .device import Device

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1  # rises when checks or files change
_START = f'{{"format":{FORMAT},"mark":"'
_END = "}\n"
_HERE = f"{Path(__file__).parents[2]}, torch {torch.__version__}"


def folder() -> Path:
    """MULTIMIX_CACHE, or multimix_kernels in the user's cache folder."""
    return Path(_folder())


def _folder() -> str:
    # A Path costs as much as reading a file.
    if named := os.environ.get("MULTIMIX_CACHE"):
        return named
    return f"{os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')}/multimix_kernels"


def unwritable(error: OSError) -> str:
    """What to do about a folder where nothing can be written."""
    return (
        f"no verdict can be kept in {folder()} ({error.strerror}); set MULTIMIX_CACHE to a folder that can be written"
    )


def path(device: Device) -> Path:
    """Where the verdict on a device is: what differs in it needs another one, what is cheap to ask is in the name."""
    return Path(_path(device))


def _path(device: Device) -> str:
    name = f"{device.name}, {device.capability}, {device.driver}, {_HERE}"
    return f"{_folder()}/verdict-{hashlib.sha1(name.encode()).hexdigest()[:16]}.json"


def key(device: Device) -> dict[str, Any]:
    """All that a verdict depends on."""
    return {
        "gpu": device.name, "capability": device.capability, "driver": device.driver, "torch": torch.__version__,
        "triton": kernels.triton_version(), "kernels": kernels.hashes(),
    }  # fmt: skip


def _read(file: str) -> str | None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(descriptor, os.fstat(descriptor).st_size + 1).decode()
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return text if text.startswith(_START) and text.endswith(_END) else None


def load_choice(device: Device) -> dict[str, dict[str, list[str]]] | None:
    """The verdict's choice, if there is one and the kernels are those that it is about."""
    text = _read(_path(device))
    if text is None:
        return None
    try:
        end = text.index('"', len(_START))
        if text[len(_START) : end] == kernels.mark():
            return json.JSONDecoder().raw_decode(text, text.index("{", end))[0]
        verdict = load(device)
    except ValueError:
        return None
    if verdict is None:
        return None
    with suppress(OSError):  # the same kernels in files that were written again
        save(device, verdict)
    return verdict["choice"]


def load(device: Device) -> dict[str, Any] | None:
    """All of a verdict, if there is one about these kernels."""
    text = _read(_path(device))
    try:
        verdict = None if text is None else json.loads(text)
    except ValueError:
        return None
    return verdict if verdict is not None and verdict.get("key") == key(device) else None


def save(device: Device, verdict: dict[str, Any]) -> None:
    """Writes a verdict, atomically."""
    whole = {"format": FORMAT, "mark": kernels.mark(), "choice": verdict["choice"], "key": key(device)}
    whole |= {name: value for name, value in verdict.items() if name not in whole}
    text = json.dumps(whole, separators=(",", ":")) + "\n"
    file = path(device)
    descriptor, temporary = tempfile.mkstemp(prefix=file.stem, suffix=".new", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def today() -> str:
    """The date and time, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Lock:
    """One process at a time checks a device. Released when its process ends, however it does.

    The file holds what the last holder had to say, for those who waited for it.
    """

    def __init__(self, device: Device) -> None:
        self._path = path(device).with_suffix(".lock")
        self._descriptor: int | None = None

    def open(self) -> None:
        """Makes folder and file; OSError where nothing can be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self) -> bool:
        """Whether it is ours now. A file system without locks has none."""
        if fcntl is None:
            return True
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def said(self) -> str:
        """What the last holder left."""
        assert self._descriptor is not None
        return os.pread(self._descriptor, 10_000, 0).decode(errors="replace")

    def say(self, text: str) -> None:
        """Leaves a word for those who wait."""
        assert self._descriptor is not None
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def close(self) -> None:
        """Gives it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
