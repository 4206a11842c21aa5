"""A pytest plugin: the `cuda` backend takes CPU tensors, and its kernels run as PTX on the machine of tests/ptx.

For a process of its own, as the table of backends is changed. The environment says how:
MULTIMIX_PTX_TARGET   sm_80 or sm_90a
MULTIMIX_PTX_SEED     a number that names an order of blocks and warps; 0: as they are numbered
MULTIMIX_PTX_ERROR    by how much of their documented bound approximate functions are off: 0 to 1
MULTIMIX_PTX_COUNTS   a file for what was executed: a line of JSON for each test and kernel
"""

import ctypes
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from multimix_kernels.backends import TABLE

from .. import machine
from .build import TARGETS, build, missing

SHARED_LIMITS = {"sm_80": 163 << 10, "sm_90a": 227 << 10}  # bytes of a block
TARGET = os.environ.get("MULTIMIX_PTX_TARGET", "sm_80")
PROCESSORS = 3  # few, so that small grids have several rounds of blocks
SMALL_SCRATCH = 1 << 16  # bytes of weights: some hundred rows make several super-blocks
MOST_INSTRUCTIONS = 10**9  # of one launch: more is a hang


def load() -> ctypes.CDLL:
    """Puts the library in the place of the backend's."""
    if reason := missing():
        raise pytest.UsageError(f"the CUDA kernels cannot be built: {reason}")
    if TARGET not in TARGETS:
        raise pytest.UsageError(f"MULTIMIX_PTX_TARGET: expected one of {', '.join(TARGETS)}, got {TARGET!r}")
    path = build(machine.build())
    library = ctypes.CDLL(str(path))
    options = machine.Options(
        seed=int(os.environ.get("MULTIMIX_PTX_SEED", 0)),
        check=machine.CHECK_FAULTS | machine.CHECK_ROUNDED,
        approximate_error=float(os.environ.get("MULTIMIX_PTX_ERROR", 0)),
        most_instructions=MOST_INSTRUCTIONS,
    )
    library.standin_use(TARGET.encode(), SHARED_LIMITS[TARGET], ctypes.byref(options))
    library.standin_execute.argtypes = (ctypes.c_bool, ctypes.c_int)
    library.standin_attributes.argtypes = (ctypes.c_int, ctypes.c_bool)
    library.standin_scratch.argtypes = (ctypes.c_int64,)
    library.standin_reports.restype = ctypes.c_size_t
    library.standin_reports.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    torch.ops.load_library(path)
    for name, value in {"devices": ("cpu",), "missing": lambda index: None}.items():
        object.__setattr__(TABLE["cuda"], name, value)
    return library


LIBRARY = load()


@contextmanager
def recorded(processors: int = PROCESSORS, scratch: int = SMALL_SCRATCH):
    """Launches are checked and reported, and nothing runs: results are what memory held before.

    Args:
        processors: multiprocessors of the device
        scratch: bytes of weights of a super-block of rows; 0: as many as on a GPU
    """
    LIBRARY.standin_execute(False, processors)
    LIBRARY.standin_scratch(scratch)
    try:
        yield
    finally:
        LIBRARY.standin_execute(True, PROCESSORS)
        LIBRARY.standin_scratch(SMALL_SCRATCH)


def reports() -> list[tuple[str, dict]]:
    """Of each launch since the last time: its kernel, and what the machine says."""
    size = LIBRARY.standin_reports(None, 0)
    text = ctypes.create_string_buffer(size)
    LIBRARY.standin_reports(text, size)
    lines = text.raw.decode().splitlines()
    return [(name, json.loads(report)) for name, report in zip(lines[::2], lines[1::2], strict=True)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    reports()
    try:
        return (yield)
    finally:
        if path := os.environ.get("MULTIMIX_PTX_COUNTS"):
            with Path(path).open("a") as file:
                for name, report in reports():
                    print(json.dumps({"test": item.nodeid, "kernel": name, **report}), file=file)
