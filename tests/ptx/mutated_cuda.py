"""The mutants of the CUDA kernels, under the tests of every variant of them; run by test_mutations.py.

MULTIMIX_MUTANTS names the file that each is written to, as a line of JSON.
"""

import ctypes
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from ..backends.cuda.executed import *  # noqa: F403
from . import machine
from .cuda.plugin import LIBRARY, MOST_INSTRUCTIONS
from .mutations import Launch, mutants

SEEN: set[tuple[str, str]] = set()
FOUND: list[dict] = []
WRONG: list[BaseException] = []
read = cache(machine.Module)


def observe(text, kernel, grid, threads, shared, arguments, ranges, count):
    """All mutants of a kernel at its first launch."""
    text, kernel = text.decode(), kernel.decode()
    if (text, kernel) in SEEN:
        return
    SEEN.add((text, kernel))
    try:
        values = [ctypes.string_at(arguments[k], size) for k, size in enumerate(read(text).sizes(kernel))]
        options = dict(
            shared=shared, most_instructions=MOST_INSTRUCTIONS,
            ranges=[(ranges[k].begin, ranges[k].end, bool(ranges[k].writable)) for k in range(count)],
        )  # fmt: skip
        launch = Launch(read(text), kernel, (list(grid[:3]), list(threads[:3]), values), options)
        FOUND.extend(asdict(mutant) for mutant in mutants(launch))
    except BaseException as error:
        WRONG.append(error)


SIZES = ctypes.POINTER(ctypes.c_uint32)
OBSERVER = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, SIZES, SIZES, ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(machine.Range), ctypes.c_size_t,
)(observe)  # fmt: skip
LIBRARY.standin_observe(OBSERVER)


@pytest.fixture(autouse=True)
def written():
    """What was found in a test."""
    yield
    with Path(os.environ["MULTIMIX_MUTANTS"]).open("a") as file:
        file.writelines(json.dumps(mutant) + "\n" for mutant in FOUND)
    FOUND.clear()
    if WRONG:
        raise WRONG.pop()
