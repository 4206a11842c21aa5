"""`python -m multimix_kernels.verify.child REQUEST`: the process that checks, started by `backends.verdicts.checking`.

Everything on the device happens here. It writes a JSON line for all that it begins and ends; what the libraries print
goes to the standard error stream.
"""

import json
import os
import sys
from collections.abc import Callable

import torch

from ..backends.verdicts import device as devices
from ..backends.verdicts import plan
from ..backends.verdicts.checking import DEVICE_LOST
from ..backends.verdicts.device import Device
from ..backends.verdicts.plan import Part
from . import times
from .checks import check, precision
from .problems import problem

Say = Callable[[dict], None]


def main() -> None:
    """Does what the request asks for."""
    request = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # only our lines are for the parent

    def say(event: dict) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    _serve(request, say)
    say({"event": "done"})


def _serve(request: dict, say: Say) -> None:
    device = None
    try:
        device = devices.find("cuda", request["index"])
        if device is None:
            raise RuntimeError("PyTorch sees no GPU in the process that checks")
        free = device.free_memory()
        device.synchronise()
    except Exception as error:
        text = problem(error) or f"the GPU cannot be used by another process: {error}"
        return say({"event": "problem", "backend": "", "text": text})
    if free < device.least_memory:
        text = f"{free >> 20} MiB of GPU memory are free, and a check needs {device.least_memory >> 20} MiB"
        return say({"event": "problem", "backend": "", "text": text})
    results, given_up = request["results"], set()
    for part in (Part(*fields) for fields in request["parts"]):
        if part.backend not in given_up and not _check(device, part, request["thorough"], results, say):
            given_up.add(part.backend)
    if request["times"]:
        _time(device, results, say)


def _check(device: Device, part: Part, thorough: bool, results: dict, say: Say) -> bool:
    """Whether the backend can be tried at all."""
    name = ""

    def begin(case: str) -> None:
        nonlocal name
        name = case
        say({"event": "case", "part": part, "case": case})

    lost = False
    try:
        cases, failed, more = check(device, part, thorough, begin)
    except Exception as error:
        text = problem(error)
        if text is not None:
            say({"event": "problem", "backend": part.backend, "text": text})
            return False
        cases, more = 0, {}
        said = str(error).strip().splitlines() or [""]
        failed = f"{name}: {type(error).__name__}: {said[0][:300]}"
        lost = _is_lost(device)
    say({"event": "end", "part": part, "cases": cases, "failed": failed, "more": more})
    if lost:
        sys.stdout.flush()
        os._exit(DEVICE_LOST)
    results.setdefault(part.backend, {}).setdefault(part.operator, {})[part.kind] = {"failed": failed}
    return True


def _is_lost(device: Device) -> bool:
    """Whether an error of a kernel has left the device of no more use to this process."""
    try:
        device.synchronise()
        torch.ones(1, device=device.torch_device).add_(1).item()
    except Exception:
        return True
    return False


def _time(device: Device, results: dict, say: Say) -> None:
    shapes = times.shapes(device)
    say({"event": "shapes", "shapes": list(map(str, shapes))})
    for kind in device.kinds:
        for operation in plan.OPERATIONS:
            passed = [name for name in results if plan.reason(results, name, operation, kind) is None]
            for backend in (*passed, times.PAPER):
                try:
                    with precision(kind), device.active():
                        found = [times.seconds(device, backend, operation, kind, shape) for shape in shapes]
                except Exception as error:  # no time, and no verdict either
                    print(f"{backend} {operation} {kind} was not timed: {error}", file=sys.stderr)
                    continue
                event = {"event": "time", "backend": backend, "operation": operation, "kind": kind}
                say(event | {"seconds": found})


if __name__ == "__main__":
    main()
