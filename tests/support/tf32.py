"""Plain PyTorch with TF32 products, on the CPU: operands of matrix products are rounded, sums are in float32."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default}


def rounded(x: torch.Tensor) -> torch.Tensor:
    """To 11 significant bits, to nearest."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & -8192).view(torch.float32)


class Products(TorchDispatchMode):
    """Inside, products of float32 matrices round their operands."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function in PRODUCTS and arguments[0].dtype == torch.float32:
            arguments = tuple(map(rounded, arguments))
        return function(*arguments, **keywords or {})
