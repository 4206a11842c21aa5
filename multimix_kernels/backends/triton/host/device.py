"""The device of a call: where kernels are launched, with which options, and what its matrix products read."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

from .. import INTERPRET

OPERANDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_HERE = nullcontext()  # it has no state: one for all


def on_device(x: Tensor) -> AbstractContextManager:
    """Kernels are launched on the current device, which is hardly ever another one than that of x."""
    if x.is_cuda and x.get_device() != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    return _HERE


def options(warps: int, stages: int, hip: bool = torch.version.hip is not None) -> dict:
    """Launch options. FP fusion is set, as its default depends on Triton; all registers may be used."""
    return dict(num_warps=warps, num_stages=stages, enable_fp_fusion=True) | ({} if hip else dict(maxnreg=255))


def assembly(x: Tensor) -> bool:
    """Whether kernels may contain PTX."""
    return x.is_cuda and torch.version.hip is None and not INTERPRET


def programs(x: Tensor) -> int:
    """Multiprocessors."""
    return _multiprocessors(x.get_device()) if x.is_cuda else 2


@cache
def _multiprocessors(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def operand(x: Tensor) -> str:
    """How matrix products read x: float32 by PyTorch's setting of their precision."""
    # AMD's matrix instructions take float32 as it is.
    if x.dtype == torch.float32 and x.is_cuda and not torch.version.hip:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    return OPERANDS[x.dtype]
