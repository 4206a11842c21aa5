"""The hash of the library's kernels, and a mark of their files that costs less to take."""

import hashlib
import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from .. import native

_PACKAGE = Path(__file__).parents[2]
_TRITON = _PACKAGE / "backends" / "triton"


def _files() -> list[Path]:
    """All that decides what a GPU computes."""
    return [*sorted(_TRITON.rglob("*.py")), native.library("cuda")]


def hashes() -> dict[str, str]:
    """Of the contents, by backend; "none" where there is nothing."""
    *sources, library = _files()
    found = {}
    for name, paths in (("triton", sources), ("cuda", [library])):
        digest = hashlib.sha256()
        for path in paths:
            if path.exists():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
        found[name] = digest.hexdigest()[:16] if any(path.exists() for path in paths) else "none"
    return found


@cache
def triton_version() -> str:
    """As its package says; "none" if it is not installed."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def _marked() -> list[str]:
    """What changes whenever the kernels or Triton do: in a clone every file, in an installation what pip writes."""
    installed = native.DIRECTORY / "build.json"
    clone = (native.SOURCE / "setup.py").exists() or not installed.exists()
    triton = find_spec("triton")
    paths = [*(_files() if clone else [installed]), *([triton.origin] if triton and triton.origin else [])]
    return list(map(str, paths))


@cache
def mark() -> str:
    """Of sizes and times of change, as they were when this process came to them. As long as it stays, the hashes do."""
    found = []
    for path in _marked():
        try:
            state = os.stat(path)
        except OSError:
            continue
        found.append(f"{state.st_size},{state.st_mtime_ns}")
    return hashlib.sha1(";".join(found).encode()).hexdigest()


if torch.version.cuda or torch.version.hip:
    mark()  # while the package is imported, so that the first call need not look at every file
