"""Triton kernels for any GPU that Triton knows. This module says whether they can run here, without importing Triton.

Triton reads TRITON_INTERPRET when it is imported: with 1 the kernels run on the CPU, in NumPy, to be tested.
"""

import os
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ("cpu", "cuda") if INTERPRET else ("cuda",)
MIN_CAPABILITY = (8, 0)
NO_COMPILER = "Triton needs a C compiler, and there is none: install gcc or clang, or name one in CC"


def missing(index: int | None = None) -> str | None:
    """Why the kernels cannot run on the GPU of that index, or on any GPU here, in one sentence; None if they can.

    That is what compiling and loading a kernel asks for. Nothing is compiled to find out: it takes seconds, and where
    backends are verified all kernels are.
    """
    if find_spec("triton") is None:
        return "the package triton is not installed; to install it: pip install triton"
    if INTERPRET:
        return None
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA or ROCm device here (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    reasons = [unsupported(gpu) for gpu in (range(torch.cuda.device_count()) if index is None else [index])]
    if reasons and all(reasons):
        return reasons[0]
    if os.name != "posix":  # there Triton comes with a compiler of its own
        return None
    return no_compiler() or no_headers() or no_cache()


def unsupported(index: int) -> str | None:
    """Why the kernels do not run on a GPU."""
    name = torch.cuda.get_device_name(index)
    if torch.version.hip:
        architecture = torch.cuda.get_device_properties(index).gcnArchName.split(":")[0]
        if architecture.startswith("gfx9"):
            return None
        return (
            f"its kernels are laid out for AMD GPUs with 64 threads to a warp (CDNA: gfx90a, gfx942), and this is "
            f"{name}, {architecture}, with 32; use such a GPU, or backend='reference'"
        )
    capability = torch.cuda.get_device_capability(index)
    if capability >= MIN_CAPABILITY:
        return None
    least, here = (".".join(map(str, version)) for version in (MIN_CAPABILITY, capability))
    return (
        f"its kernels need a GPU of compute capability {least} or later, and this is {name}, compute capability "
        f"{here}; use such a GPU, or backend='reference'"
    )


def no_compiler() -> str | None:
    """Triton compiles the program that launches its kernels, with these compilers."""
    named = os.environ.get("CC")
    if named is None:
        return None if which("gcc") or which("clang") else NO_COMPILER
    if which(named):
        return None
    return f"Triton needs a C compiler, and CC names none that can be run, {named!r}: name another, or unset CC"


def no_headers() -> str | None:
    """The program is a module of Python."""
    scheme = sysconfig.get_default_scheme()
    folder = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    if (Path(folder) / "Python.h").exists() or os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH"):
        return None
    return (
        f"Triton's C compiler needs Python's headers, and there is no Python.h in {folder}: install them (on Debian "
        f"and Ubuntu: python3-dev)"
    )


def no_cache() -> str | None:
    """Triton writes what it compiles to a folder, and loads it from there."""
    if os.environ.get("TRITON_CACHE_MANAGER"):  # which keeps it elsewhere
        return None
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    folder = os.path.abspath(os.environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache"))
    there = folder
    while not os.path.exists(there):
        there = os.path.dirname(there)
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        why = "cannot be written"
    elif os.statvfs(there).f_flag & getattr(os, "ST_NOEXEC", 0):
        why = "is on a file system from which no program can be loaded (noexec)"
    else:
        return None
    return f"Triton's cache folder {folder} {why}; set TRITON_CACHE_DIR to a folder that can be used"
