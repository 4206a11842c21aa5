"""Steps in the capture of a CUDA graph, as far as the host sees them; run by test_capture.py as a program.

The GPU is one that only notes launches, and whether a graph is captured is said here. Prints JSON: of each case what a
cold capture said, how many kernels were loaded by `warm_up` and by the steps after it, and the operations of torch in
such a step.
"""

import json
import random
import sys
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import multimix_kernels as mk
from multimix_kernels.backends.contract import records
from multimix_kernels.backends.triton import operators
from multimix_kernels.backends.triton.host import capture

from ...ptx.triton_driver import Recorder, virtual_gpu

# Options of warm_up, of which those of a loss are the step's, too.
CASES = {
    "few": dict(b=32, c=10, n=1000),
    "many": dict(b=33, c=700, n=100, reduction="none"),
    "dense": dict(b=16, c=10, n=50, spatial=(2, 2), attention=True, attention_grad=True),
    "mix": dict(b=16, c=12, d=24, n=50),
}


class Counting(Recorder):
    """Notes what was loaded, too."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def load(self, name, ptx):
        self.loaded.append(name)
        return super().load(name, ptx)


class Operations(TorchDispatchMode):
    """Notes what torch is asked for, inside of this library's operators, too."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "multimix_triton":
            name = function._opname
            with self:
                return getattr(operators, name)(*records(name, args))
        self.found.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def waits(function, args, kwargs) -> bool:
    """Whether an operation would wait for the device, or read memory of the host: a capture may do neither."""
    if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags):
        return True
    if function._opname in ("lift_fresh", "lift_fresh_copy", "item"):
        return True
    return any(isinstance(x, torch.Tensor) and x.device != kwargs.get("device", x.device) for x in args)


def step(b, c, n, d=None, spatial=(), attention=False, attention_grad=False, reduction="mean"):
    """A step of other values, seed and rows than another one."""
    options = dict(n=n, row_offset=random.randrange(1, 9), backend="triton")
    with patch_readable():
        y = torch.randint(c, (b,))
        given = torch.rand(b, *spatial).requires_grad_(attention_grad) if attention else None
        if d is None:
            scores = torch.randn(b, c, *spatial, requires_grad=True)
            loss = mk.mixed_cross_entropy(scores, y, attention=given, reduction=reduction, **options)
            loss.backward(torch.ones_like(loss))
        else:
            x, weight = torch.randn(b, d, requires_grad=True), torch.randn(c, d, requires_grad=True)
            mixture = mk.multimix(x, attention=given, **options)
            mixture.cross_entropy(mixture.embeddings @ weight.T, y).backward()
            mk.multimix_cross_entropy(x, y, weight, torch.zeros(c), **options).backward()


def patch_readable():
    """Values are not looked at, as those on a GPU are not."""
    return patch("multimix_kernels.arguments.readable", lambda x: False)


def main(name: str) -> None:
    case, found, capturing = CASES[name], {}, [True]
    kept = {}
    with virtual_gpu(90, Counting(), programs=132) as gpu, patch.object(capture, "capturing", lambda: capturing[0]):
        from triton import knobs

        knobs.runtime.jit_cache_hook = hook = lambda **compilation: kept.update(compilation)
        try:
            step(**case)
        except RuntimeError as error:
            found["cold"] = str(error)
        found["launched"] = len(gpu.launches)
        capturing[0] = False
        with patch_readable():
            mk.warm_up(**case, backend="triton")
        found["warmed"] = len(gpu.loaded)
        found["asked"], found["restored"] = bool(kept), knobs.runtime.jit_cache_hook is hook
        capturing[0] = True
        step(**case)
        step(**case)
        found["after"] = len(gpu.loaded) - found["warmed"]
        operations = Operations()
        with operations:
            step(**case)
        found["waits"] = [str(function) for function, *arguments in operations.found if waits(function, *arguments)]
        found["operations"] = sorted({str(function) for function, *_ in operations.found})
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
