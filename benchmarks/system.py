"""This machine: its name, its memory, its software; by hand, as `make gpu` runs where nothing can be installed."""

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

import multimix_kernels

ROOT = Path(__file__).resolve().parents[1]
_MARGIN = 512 * 2**20
_NEIGHBOUR = """
import os
parent = os.getppid()
while os.getppid() == parent:  # it ends with this process, however that ends
    sum(range(10**5))
"""


def available_bytes(device: torch.device) -> int:
    """Memory that a step may take, with a margin left for everything else."""
    if device.type == "cuda":
        return int(0.95 * torch.cuda.mem_get_info(device)[0])
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo", ""))
    free = [int(found.group(1)) * 1024] if found else []
    limit, used = _read("/sys/fs/cgroup/memory.max", "max"), _read("/sys/fs/cgroup/memory.current", "0")
    if limit.strip().isdigit():
        free.append(int(limit) - int(used))
    if not free:
        return sys.maxsize  # not known here: let the step try
    return max(0, int(0.85 * min(free)) - _MARGIN)


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def slug(name: str) -> str:
    """A name as a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def provenance(device: torch.device) -> dict:
    """What every row says about where it comes from."""
    return {
        "device_name": device_name(device),
        "device": device.type,
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "driver": _driver() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "library": multimix_kernels.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def busy(row: dict) -> bool:
    """Whether other work was running on the CPU that was measured."""
    return row["device"] == "cpu" and row["load"] > 0.5 * (row["cores"] or 1)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes beside this one, each of which keeps a core busy, as a data loader or another user's work does."""
    processes: list[subprocess.Popen] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen([sys.executable, "-S", "-c", _NEIGHBOUR]))
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@functools.cache
def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo", ""), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@functools.cache
def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    return _output("git", "-C", str(ROOT), *arguments)


def _output(*command: str) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _read(path: str, otherwise: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return otherwise
