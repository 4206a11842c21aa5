"""`python -m benchmarks.gpu.report FOLDER`: what this machine has, into machine.json and in words.

Each section is on disk before the next is looked at, so that a library that cannot be imported, or that ends the
process, hides no more than itself.
"""

import argparse
import glob
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..files import write_json
from .machine import FILE, facts

TOOLS = ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu", "cuobjdump", "ninja", "c++", "git")
PACKAGES = (
    "numpy", "scipy", "triton", "setuptools", "ninja", "pytest", "xdist", "pytest_benchmark", "tqdm", "matplotlib",
)  # fmt: skip
# Where installers put them, often without telling PATH.
_PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin", "/opt/nvidia/nsight-compute/*")
_ASKED = (
    ("nvidia-smi",), ("nvidia-smi", "-q"), ("nvcc", "--version"), ("compute-sanitizer", "--version"),
    ("ncu", "--version"),
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Look at everything; 1 if a section failed."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu.report", description="What this machine has")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--backends", action="store_true", help="only the backends, which may be new after a build")
    options = parser.parse_args(arguments)
    found = facts(options.folder) if options.backends else {}
    sections: dict[str, Callable[[dict], dict]] = {"tools": _tools, "torch": _torch, "provenance": _provenance}
    failed = False
    for name, look in ({} if options.backends else sections).items() | {"backends": _backends}.items():
        failed |= not _section(name, look, found)
        write_json(options.folder / FILE, found)
    return int(failed)


def _section(name: str, look: Callable[[dict], dict], found: dict) -> bool:
    try:
        new = look(found)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        return False
    found |= new
    for key, value in new.items():
        print(f"{key}: {value}", flush=True)
    return True


def _tools(found: dict) -> dict:
    home = os.environ.get("CUDA_HOME")
    places = [f"{home}/bin"] if home else []
    places += [place for pattern in _PLACES for place in sorted(glob.glob(pattern), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *places])
    tools = {name: where for name in TOOLS if (where := shutil.which(name, path=path))}
    for command in _ASKED:
        if command[0] in tools:
            print(f"$ {' '.join(command)}\n{_output(tools[command[0]], *command[1:])}\n", flush=True)
    gpus = _output(tools["nvidia-smi"], "-L") if "nvidia-smi" in tools else ""
    return {
        "tools": tools,
        "packages": [name for name in PACKAGES if importlib.util.find_spec(name)],
        "driver_sees": gpus if gpus.startswith("GPU ") else None,
        "cores": len(os.sched_getaffinity(0)),
    }


def _torch(found: dict) -> dict:
    import torch

    facts = {"torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip, "gpu": None}
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        capability = ".".join(map(str, torch.cuda.get_device_capability(0)))
        facts |= {"gpu": device.name, "capability": capability, "memory_bytes": device.total_memory}
        facts |= {"multiprocessors": device.multi_processor_count, "l2_bytes": device.L2_cache_size}
    return facts


def _provenance(found: dict) -> dict:
    import torch

    from benchmarks.system import provenance

    facts = provenance(torch.device("cuda" if found.get("gpu") else "cpu"))
    if facts["commit"] is None:
        facts["dirty"] = None  # nobody knows
    return {name: value for name, value in facts.items() if name not in found}


def _backends(found: dict) -> dict:
    from multimix_kernels import available_backends

    return {
        "backends": {
            name: {"available": row.available, "devices": list(row.devices), "reason": row.reason}
            for name, row in available_backends().items()
        }
    }


def _output(*command: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return (result.stdout + result.stderr).strip()


if __name__ == "__main__":
    sys.exit(main())
