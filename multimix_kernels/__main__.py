"""`python -m multimix_kernels`: versions, what is installed, and which backend runs where, and why."""

import os
import platform
import warnings
from importlib import metadata
from pathlib import Path

import torch

from . import __version__, available_backends
from .backends import ENVIRONMENT_VARIABLE, TABLE, choose, native

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


def installed_version() -> str:
    """The version with the local part that names the libraries of a wheel."""
    try:
        installed = metadata.version("multimix_kernels")
    except metadata.PackageNotFoundError:
        return __version__
    return installed if installed.split("+")[0] == __version__ else __version__


def gpus() -> list[str]:
    """A line for every GPU that torch can use."""
    if not torch.cuda.is_available():
        return ["no GPU that torch can use"]
    lines = []
    for index in range(torch.cuda.device_count()):
        capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
        lines.append(f"{torch.cuda.get_device_name(index)}, compute capability {capability}")
    driver = native.driver_version()
    return [*lines, f"driver for CUDA {driver[0]}.{driver[1]}"] if driver else lines


def libraries() -> list[str]:
    """A line for every compiled library."""
    lines = []
    for name in ("cpu", "cuda"):
        info = native.build_info().get(name, {})
        if native.library(name).exists():
            parts = [f"torch {info.get('torch', '?')}", info.get("compiler", "an unknown compiler")]
            parts += [f"nvcc {info['nvcc']}"] if "nvcc" in info else []
            targets = info.get("instruction_sets") or map(native.architecture_name, info.get("architectures", []))
            text = f"for {', '.join(targets)}, built with {', '.join(parts)}"
        else:
            text = f"not built: {native.why_not_built(name)}"
        lines.append(f"  {name:<10} {text}{'; loaded' if native.is_loaded(name) else ''}")
    return lines


def choices() -> list[str]:
    """Which backend tensors of each device and dtype get where none is named, and the order in which they are tried."""
    order = ", ".join(row.name if row.by_default else f"{row.name} (only if named)" for row in TABLE.values())
    lines = [f"  {'order':<10} {order}"]
    if name := os.environ.get(ENVIRONMENT_VARIABLE):
        lines.append(f"  {'set':<10} {ENVIRONMENT_VARIABLE}={name}")
    for device in ("cpu", "cuda"):
        chosen: dict[str, list[str]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of it is said here
            for dtype, name in NAMES.items():
                chosen.setdefault(choose(None, torch.device(device), dtype).name, []).append(name)
        better = [row for row in TABLE.values() if not row.by_default and device in row.devices]
        named = " and ".join(row.name for row in better if row.reason is None)
        why = f"; {named}, which no GPU has run yet, only if named" if named else ""
        taken = "; ".join(f"{name} for {', '.join(dtypes)}" for name, dtypes in chosen.items())
        lines.append(f"  {device:<10} {taken}{why}")
    return lines


def main() -> None:
    """Prints versions, devices, libraries, every backend with why it is missing if it is, and what is used where."""
    print(f"multimix_kernels {installed_version()}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"in {Path(__file__).parent}")
    print("\n".join([f"{platform.machine()}, {torch.get_num_threads()} threads", *gpus()]))
    print("backends:")
    for name, backend in available_backends().items():
        state = f"available ({', '.join(backend.devices)})" if backend else f"not available: {backend.reason}"
        print(f"  {name:<10} {state}")
    print("\n".join(["compiled libraries:", *libraries(), "used where no backend is named:", *choices()]))


if __name__ == "__main__":
    main()
