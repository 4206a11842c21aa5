"""A device for `verify` whose tensors are on the CPU, and whose GPU backend is one that runs there.

As a program it is the child that checks, or what its argument says: `python -m tests.support.verify_device verify` is
the command, `... choose` prints what a new process would use. MULTIMIX_TEST_FAULT plants faults in all processes:
"fault:operator", several with commas. MULTIMIX_TEST_RUNS names the backend that stands for one of a GPU, or is
"virtual 90": Triton's kernels as they are compiled for that architecture, on a virtual GPU; or "virtual sm_90a":
those of the CUDA backend. MULTIMIX_TEST_KINDS are the precisions.
"""

import os
import signal
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch

from multimix_kernels import backends, ops
from multimix_kernels.backends.verdicts import checking, choice, device

FAULT = "MULTIMIX_TEST_FAULT"
STARTS = "MULTIMIX_TEST_STARTS"  # a file that gets a line from each child
BACKEND = "triton"  # the name under which the other backend is verified
RUNS = os.environ.get("MULTIMIX_TEST_RUNS", "cpu")
_entered = ExitStack()  # a virtual GPU is there to the end of the process


class Simulated(device.Device):
    """Tensors on the CPU, one stream, no graphs."""

    simulated = True
    least_memory = 0
    name, capability, driver = "a simulated GPU", "9.0", "1.2.3"
    kinds = tuple(os.environ.get("MULTIMIX_TEST_KINDS", "float32 bfloat16").split())

    def __init__(self) -> None:
        self.index, self.torch_device = 0, torch.device("cpu")

    def free_memory(self) -> int:
        if planted("memory"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        if planted("exclusive"):
            raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
        return 1 << 30

    def synchronise(self) -> None:
        if _lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def on_streams(self, runs):
        return None

    def captured(self, run):
        return None

    def active(self):
        return nullcontext()


def planted(fault: str) -> str | None:
    """The operator that has this fault."""
    for item in filter(None, os.environ.get(FAULT, "").split(",")):
        name, _, operator = item.partition(":")
        if name == fault:
            return operator or "all"
    return None


def _wrong(found, call):
    """One element off."""
    first = found if isinstance(found, torch.Tensor) else found[-2]
    first.view(-1)[0] += 0.01 * first.abs().max() + 1e-3
    return found


def _unwritten(found, call):
    first = found if isinstance(found, torch.Tensor) else found[-2]
    first.view(-1)[-1] = float("nan")
    return found


def _beyond(found, call):
    """The element after the last, where that is memory of this process."""
    first = found if isinstance(found, torch.Tensor) else found[-2]
    after = first.storage_offset() + first.numel()
    if (after + 1) * first.itemsize <= first.untyped_storage().nbytes():
        first.as_strided((1,), (1,), after).zero_()
    return found


_calls = 0
_lost = False


def _unsteady(found, call):
    global _calls
    _calls += 1
    first = found if isinstance(found, torch.Tensor) else found[-2]
    first.view(-1)[0] *= 1 + _calls % 2 * 1e-6
    return found


def _crash(found, call):
    os.kill(os.getpid(), signal.SIGSEGV)


def _killed(found, call):
    os.kill(os.getpid(), signal.SIGKILL)


def _hang(found, call):
    time.sleep(3600)


def _lose(found, call):
    """What an illegal address does: the device can be used no more by this process."""
    global _lost
    _lost = True
    return found


def _raise(found, call):
    raise RuntimeError("PassManager::run failed")


def _no_compiler(found, call):
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


FAULTS = {
    "wrong": _wrong, "unwritten": _unwritten, "beyond": _beyond, "unsteady": _unsteady, "crash": _crash,
    "killed": _killed, "hang": _hang, "raise": _raise, "lose": _lose, "compiler": _no_compiler,
}  # fmt: skip


def _handed_out(found):
    """In memory from `new_empty`, as operators of GPUs have it; those of the library for the CPU have not."""
    if isinstance(found, torch.Tensor):
        return found.new_empty(found.shape).copy_(found)
    return tuple(map(_handed_out, found))


def _with_faults(name: str, operator):
    def run(*arguments):
        found = _handed_out(operator(*arguments))
        for fault, plant in FAULTS.items():
            if planted(fault) == name:
                found = plant(found, arguments)
        return found

    return run


def install(put=setattr) -> None:
    """In this process: the device, its backend, and the child that checks it. `put` is like setattr."""
    backend = RUNS
    if RUNS.startswith("virtual sm_"):
        os.environ["MULTIMIX_PTX_TARGET"] = RUNS.split()[1]
        from ..ptx.cuda import plugin  # noqa: F401  # puts the library in the place of the backend's

        backend = "cuda"
    elif RUNS.startswith("virtual"):
        from ..ptx.triton_driver import Machine, virtual_gpu

        _entered.enter_context(virtual_gpu(int(RUNS.split()[1]), Machine()))
        backend = "triton"
    stand_in = replace(backends.TABLE[BACKEND], devices=("cpu",), missing=lambda index: None)
    rows = {BACKEND: stand_in, "reference": backends.TABLE["reference"]}
    operators = {name: _with_faults(name, x) for name, x in ops.OPERATORS[backend].items()}
    put(backends, "TABLE", MappingProxyType(rows))
    put(ops, "OPERATORS", ops.OPERATORS | {BACKEND: operators})
    put(device, "find", lambda device_type, index: Simulated() if device_type in ("cpu", "cuda") else None)
    put(checking, "COMMAND", ("-m", "tests.support.verify_device"))
    put(checking, "SILENCE", float(os.environ.get("MULTIMIX_TEST_SILENCE", checking.SILENCE)))
    put(choice, "LIMIT", float(os.environ.get("MULTIMIX_TEST_LIMIT", choice.LIMIT)))


def main() -> None:
    torch.set_num_threads(1)
    install()
    what = sys.argv[1]
    if what == "choose":
        import multimix_kernels as mk

        mk.sample_dirichlet(2, 2, seed=1)
        print(backends.choose(None, torch.device("cpu"), torch.float32, "mixed_cross_entropy").name)
    elif what == "verify":
        from multimix_kernels.verify import command

        sys.exit(command.main(sys.argv[2:]))
    else:
        from multimix_kernels.verify import child

        if log := os.environ.get(STARTS):
            with Path(log).open("a") as file:
                file.write(f"{os.getpid()}\n")
        child.main()


if __name__ == "__main__":
    main()
