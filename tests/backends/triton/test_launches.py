"""How many kernels a step launches: those of the library, noted by a driver that runs nothing, and those of PyTorch."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import groupby

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the package triton is not installed"
)
SCRIPT = """
import json, sys
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from multimix_kernels.backends.contract import MEAN, Draw, LossOptions, Want
from multimix_kernels.backends.triton import operators
from tests.ptx.triton_driver import Recorder, virtual_gpu


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*arguments, **keywords or {})


found = {}
with virtual_gpu(90, Recorder(), programs=132) as gpu:
    for name, (r, b, c, n, attended, want) in json.loads(sys.argv[1]).items():
        scores, target = torch.zeros(r, b, c, dtype=torch.bfloat16), torch.arange(b) % c
        attention = torch.ones(r, b) if attended else None
        draw = Draw(torch.tensor([1]), None, n, b, 0.5, 2.0, 0)
        first = len(gpu.launches)
        with Calls() as calls:
            operators.mixed_cross_entropy(
                scores, target, LossOptions(0.0, -100, MEAN), Want(*want), attention, None, draw
            )
        launches = [(x.kernel.removesuffix("_kernel"), x.grid[0]) for x in gpu.launches[first:]]
        found[name] = launches, sorted(set(calls.names))
print(json.dumps(found))
"""
BOTH, LOSS, ATTENTION = (True, False), (False, False), (True, True)
CASES = {  # locations, examples, classes, rows, attention, gradients
    "cifar10": (1, 128, 10, 1000, False, BOTH),
    "cifar10, 127 examples": (1, 127, 10, 10**6, False, BOTH),
    "cifar100": (1, 128, 100, 1000, False, BOTH),
    "cifar100, loss": (1, 128, 100, 1000, False, LOSS),
    "dense-cifar100": (16, 128, 100, 1000, True, BOTH),
    "imagenet": (1, 128, 1000, 1000, False, BOTH),
    "imagenet, loss": (1, 128, 1000, 1000, False, LOSS),
    "imagenet, 1e6": (1, 128, 1000, 10**6, False, BOTH),
    "dense, attention gradient": (4, 128, 1000, 1000, True, ATTENTION),
}
WITHOUT_KERNELS = {
    "empty", "new_empty", "view", "slice", "select", "unbind", "unsqueeze", "transpose", "detach", "as_strided",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(request):
    """In a process of its own, as one that compiled kernels keeps them."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(CASES)],
        env=dict(os.environ, TRITON_INTERPRET="0", PYTHONPATH=str(request.config.rootpath)),
        cwd=request.config.rootpath, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


FEW, MANY = ["mixed_small", "add_up"], ["sample", "normaliser", "gradient", "add_up"]


@pytest.mark.parametrize(("name", "kernels"), [
    ("cifar10", FEW), ("cifar10, 127 examples", FEW), ("cifar100", FEW), ("dense-cifar100", FEW), ("imagenet", MANY),
    ("cifar100, loss", ["mixed_small", "finish"]), ("imagenet, loss", ["sample", "normaliser", "finish"]),
    ("dense, attention gradient", [*MANY, "weights_gradient", "centre", "attention"]),
])  # fmt: skip
def test_kernels_of_a_step(name, kernels, found):
    assert [kernel for kernel, _ in found[name][0]] == kernels


def test_kernels_of_many_rows(found):
    """Three for each super-block of rows; what is prepared, and added up in the end, costs one."""
    kernels = [kernel for kernel, _ in found["imagenet, 1e6"][0]]
    assert kernels == ["sample", "normaliser", "gradient"] * (len(kernels) // 3) + ["add_up"]
    blocks = [list(group) for kernel, group in groupby(found["imagenet, 1e6"][0]) if kernel[0] == "sample"]
    assert len(blocks) == len(kernels) // 3 == 16


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][-1] != ATTENTION])
def test_no_kernels_of_pytorch(name, found):
    assert set(found[name][1]) <= WITHOUT_KERNELS


def test_few_rows_go_to_many_programs(found):
    """All passes over 1000 rows and 1000 classes share them out among half of the multiprocessors or more."""
    grids = dict(found["imagenet"][0])
    assert grids["sample"] > 128
    assert grids["normaliser"] >= 63
