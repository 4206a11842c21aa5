"""Finds and loads the compiled libraries, and says in one sentence why one cannot be used.

A library registers implementations for the operators of its backend's namespace when it is loaded. Beside the libraries
build.json says what they were built with, or why one was not built.

The CUDA library has the CUDA runtime inside, so torch's toolkit may be another one: what counts is the driver, and the
machine code for the GPU.
"""

import ctypes
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import torch

DIRECTORY = Path(__file__).parent / "lib"
MIN_TORCH = (2, 10)
SOURCE = Path(__file__).parents[2]  # the clone, if this is one


@cache
def build_info() -> dict:
    """What the libraries were built with; empty if nothing was built."""
    try:
        return json.loads((DIRECTORY / "build.json").read_text())
    except (OSError, ValueError):
        return {}


def library(name: str) -> Path:
    """Where a library is, if it was built."""
    return DIRECTORY / f"multimix_{name}.so"


def is_loaded(name: str) -> bool:
    """Whether a library has been loaded."""
    return str(library(name).resolve()) in torch.ops.loaded_libraries


def shadowed(name: str) -> Path | None:
    """The folder of an installed package that has the library, while Python imports this one, which has not."""
    for entry in sys.path:
        folder = Path(entry or os.curdir).resolve() / "multimix_kernels"
        if (folder / "backends" / "lib" / library(name).name).exists() and folder != DIRECTORY.parents[1].resolve():
            return folder
    return None


def why_not_built(name: str) -> str:
    """Why a library is not here, in one clause."""
    if reason := build_info().get(name, {}).get("reason"):
        return reason
    if not (SOURCE / "setup.py").exists():
        return "nothing says why"
    other = shadowed(name)
    return f"this is the source tree {SOURCE}" + (f", which hides the package installed in {other}" if other else "")


def how_to_get(name: str) -> str:
    """The command that mends it."""
    build = f"to build it: MULTIMIX_BUILD={name} pip install --no-build-isolation --no-deps"
    if not (SOURCE / "setup.py").exists():
        return f"{build} --force-reinstall . in a clone of the source"
    here = f"{build} --editable {shlex.quote(str(SOURCE))}"
    if shadowed(name):
        return f"start Python in another folder, and keep this one out of PYTHONPATH, to use that package; or, {here}"
    return here


@cache
def missing(name: str, index: int | None = None) -> str | None:
    """Loads a library, "cpu" or "cuda", once. Why it cannot be used, in one sentence; None if it can.

    The CUDA library is looked at for the GPU of that index, or for any GPU here. That initialises CUDA in this process,
    and is therefore left until somebody asks.
    """
    info = build_info().get(name, {})
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MIN_TORCH:
        return f"it needs torch {'.'.join(map(str, MIN_TORCH))} or later, and this is torch {torch.__version__}"
    path = library(name)
    if not path.exists():
        return f"its library was not built ({why_not_built(name)}); {how_to_get(name)}"
    if name == "cuda" and (reason := _no_cuda(info, index)):
        return reason
    try:
        torch.ops.load_library(path)
    except OSError as error:
        built = f"built with torch {info.get('torch', '?')} and {info.get('compiler', 'an unknown compiler')}"
        return f"its library, {built}, cannot be loaded by torch {torch.__version__}: {error.__cause__ or error}"
    return None


def architecture_name(architecture: str) -> str:
    """As NVIDIA writes it: 9.0a -> sm_90a, 12.0+PTX -> sm_120 and PTX."""
    return f"sm_{architecture.replace('.', '').replace('+PTX', ' and PTX')}"


def runs_on(architecture: str, capability: tuple[int, int]) -> str | None:
    """How code for an architecture ("8.0", "9.0a", "12.0+PTX") runs there: "binary", "ptx" (compiled by the driver)."""
    match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture)
    if match is None:
        return None
    major, minor = int(match[1]), int(match[2])
    if match[3] == "a":  # the features of one chip
        return "binary" if (major, minor) == capability else None
    if major == capability[0] and minor <= capability[1]:
        return "binary"
    return "ptx" if match[4] and not match[3] and (major, minor) < capability else None


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver can run. Asking does not initialise CUDA."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


def _no_cuda(info: dict, index: int | None) -> str | None:
    """Why the CUDA library cannot be used with this torch, driver and GPU."""
    architectures = info.get("architectures", [])
    built = " and ".join(map(architecture_name, architectures)) or "no known GPU"
    if torch.version.cuda is None:
        return (
            f"its library, for {built}, needs a torch with CUDA, and this is torch {torch.__version__}; the build of "
            "torch for this machine's GPU is at https://pytorch.org/get-started/locally"
        )
    if not torch.cuda.is_available():
        return f"its library is for {built}, and torch {torch.__version__} sees no CUDA device here"
    toolkit = tuple(int(part) for part in info.get("nvcc", "0.0").split(".")[:2])
    driver = driver_version()
    # Within a major version older drivers run newer machine code.
    if driver and driver[0] < toolkit[0]:
        return (
            f"its library was built with CUDA {toolkit[0]}.{toolkit[1]}, and the driver here goes up to CUDA "
            f"{driver[0]}.{driver[1]} (torch was built with {torch.version.cuda}); update the driver, or build the "
            "library with an older nvcc"
        )
    devices = range(torch.cuda.device_count()) if index is None else [index]
    found = []
    for device in devices:
        capability = torch.cuda.get_device_capability(device)
        ways = {runs_on(architecture, capability) for architecture in architectures}
        # Other than machine code, PTX of a newer toolkit is refused by the driver.
        if "binary" in ways or ("ptx" in ways and (driver is None or driver >= toolkit)):
            return None
        found.append((torch.cuda.get_device_name(device), capability, "ptx" in ways))
    gpu, capability, only_ptx = found[0]
    here = ".".join(map(str, capability))
    why = f", whose PTX needs a driver for CUDA {toolkit[0]}.{toolkit[1]} or later" if only_ptx else ""
    return (
        f"its library was built for {built}, and this is {gpu}, compute capability {here}{why}; install the wheel for "
        f"this GPU, or build it with TORCH_CUDA_ARCH_LIST={here}"
    )
