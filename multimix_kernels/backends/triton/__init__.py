"""Triton kernels for any GPU that Triton knows. This module says whether they can run here, without importing Triton.

Triton reads TRITON_INTERPRET when it is imported: with 1 the kernels run on the CPU, in NumPy, to be tested.
"""

import os
from importlib.util import find_spec

import torch

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICES = ("cpu", "cuda") if INTERPRET else ("cuda",)


def missing() -> str | None:
    """Why the kernels cannot run here, in one sentence; None if they can."""
    if find_spec("triton") is None:
        return "the package triton is not installed; to install it: pip install triton"
    if not INTERPRET and not torch.cuda.is_available():
        return "PyTorch sees no CUDA or ROCm device here (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return None
