"""Errors that say nothing about the kernels, and what mends them: no verdict follows from one."""

import errno
import subprocess

import torch

from ..backends.triton import NO_COMPILER

_DISK = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EPERM)


def problem(error: BaseException) -> str | None:
    """A clause for the user; None if it may be the kernels' fault."""
    found: BaseException | None = error
    while found is not None:
        if text := _one(found):
            return text
        found = found.__cause__ or found.__context__
    return None


def _one(error: BaseException) -> str | None:
    text = str(error)
    lower = text.lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in lower:
        return "too little memory is free for a check; end what uses the GPU"
    if "busy or unavailable" in lower or "exclusive" in lower:
        return "another process has the GPU for itself (exclusive compute mode); verify while nothing else uses it"
    if "failed to find c compiler" in lower:
        return NO_COMPILER
    if isinstance(error, subprocess.CalledProcessError):
        return f"Triton's C compiler failed (are Python's headers, python3-dev, installed?): {text.splitlines()[0]}"
    if "driver version is insufficient" in lower or "no cuda-capable device" in lower:
        return f"the driver cannot be used: {text.splitlines()[0]}"
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"a file cannot be written: {error} (Triton's cache is TRITON_CACHE_DIR)"
    return None
