"""Peak memory of a step, beyond its inputs, outputs and gradients, each point in a process of its own.

`python -m benchmarks.speed.memory JSON` is that process: it prints one JSON object.
"""

import contextlib
import ctypes
import gc
import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..cases import CASES, DTYPES, Case, make_problem
from ..system import ROOT
from .peers import all_peers
from .timing import describe_error, peak_cuda_bytes

CASE = CASES["cifar100-r18"]
N = (10**3, 10**4, 10**5, 10**6, 10**7)
_WARM_UP_N = 64


def measure_point(
    case: Case, n: int, mode: str, dtype: str, device: str, peer: str, threads: int, limit: float
) -> dict:
    """Peak bytes and seconds of one step, from a fresh process; or a status that says why not."""
    point = {"case": case.name, "n": n, "mode": mode, "dtype": dtype, "device": device, "peer": peer}
    command = [sys.executable, "-m", "benchmarks.speed.memory", json.dumps(point | {"threads": threads})]
    try:
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"status": f"too slow (more than {limit:.0f} s)"}
    if child.returncode == -9:
        return {"status": "out of memory"}  # the kernel's answer
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return {"status": f"failed: {last}"[:200]}
    return json.loads(child.stdout.splitlines()[-1])


def _child(point: dict) -> dict:
    # If memory runs out, this process is the one to go.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(point["threads"])
    device, peer = torch.device(point["device"]), all_peers()[point["peer"]]
    problem = make_problem(CASES[point["case"]], point["n"], point["mode"], DTYPES[point["dtype"]], device)
    try:
        step = peer.prepare(problem)
        # Libraries and thread pools set themselves up; what is compiled is compiled for this n.
        if peer.compiled or device.type == "cuda":
            step()
        else:
            peer.prepare(replace(problem, n=min(problem.n, _WARM_UP_N)))()
        start = time.perf_counter()
        peak = peak_cuda_bytes(step, device) if device.type == "cuda" else _peak_resident_bytes(step)
    except Exception as error:
        return {"status": describe_error(error)}
    return {"status": "ok", "peak_bytes": peak, "seconds": time.perf_counter() - start}


def _peak_resident_bytes(step) -> int:
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    resettable = True
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        resettable = False
    results = step()
    # Without the reset the peak is that of the whole process: right for large steps, too large for small ones.
    peak = _status("VmHWM") if resettable else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    kept = sum(x.numel() * x.element_size() for x in results)
    return max(0, peak - before - kept)


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
