"""Finds and loads the compiled libraries, and says in one sentence why one is missing.

A library registers implementations for the operators of its backend's namespace when it is loaded. Beside the libraries
build.json says what they were built with, or why one was not built.
"""

import json
from functools import cache
from pathlib import Path

import torch

DIRECTORY = Path(__file__).parent / "lib"
MIN_TORCH = (2, 10)
HOW_TO_BUILD = "to build it: pip install --no-build-isolation --force-reinstall --no-deps . in a clone of the source"


def build_info() -> dict:
    """What the libraries were built with; empty if nothing was built."""
    try:
        return json.loads((DIRECTORY / "build.json").read_text())
    except (OSError, ValueError):
        return {}


@cache
def missing(name: str) -> str | None:
    """Loads a library, "cpu" or "cuda", once. Why it is not available, in one sentence; None if it is."""
    info = build_info().get(name, {})
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        return f"it needs torch {'.'.join(map(str, MIN_TORCH))} or later, and this is torch {torch.__version__}"
    path = DIRECTORY / f"multimix_{name}.so"
    if not path.exists():
        return f"its library was not built ({info.get('reason', 'this is a source tree')}); {HOW_TO_BUILD}"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        built = f"built with torch {info.get('torch', '?')} and {info.get('compiler', 'an unknown compiler')}"
        return f"its library, {built}, cannot be loaded by torch {torch.__version__}: {error}"
    return None
