"""Finds and runs the programs that read binaries."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {"cuobjdump": "nvidia-cuda-cuobjdump", "nvdisasm": "nvidia-cuda-nvdisasm"}


class Missing(Exception):
    """A program that is not here, and how to get it."""


def _folders() -> list[Path]:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [Path(home) / "bin" for home in homes]
    for package, pattern in (("nvidia", "cu[0-9]*/bin"), ("triton", "backends/nvidia/bin")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            folders += sorted(Path(place).glob(pattern), reverse=True)
    return [*folders, Path("/usr/local/cuda/bin")]


def find(name: str) -> str:
    """Where a program is: in CUDA_HOME, on PATH, in PyPI's package for it, in Triton, in /usr/local/cuda."""
    for folder in _folders():
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise Missing(
            f"there is no {name}; pip install {PACKAGES[name]}" if name in PACKAGES else f"there is no {name}"
        )
    return found


def run(name: str, *arguments: str | Path, folder: Path | None = None) -> str:
    """What a program prints; where it fails, CalledProcessError with what it said."""
    done = subprocess.run([find(name), *arguments], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, name, done.stdout, done.stderr)
    return done.stdout
