"""Every barrier, wait and fence of the compiled kernels is needed by what the tests see: each is left out once."""


import torch

from ..backends.kernels import attention_of, draw_of, operators, randn, targets
from . import mutations
from .mutations import Mutant

B, C, N = 33, 70, 21


def losses(dtype: torch.dtype) -> None:
    """Launches the kernels of the losses and of the mixture."""
    y, _ = targets(B, C, dtype, soft=False)
    values, logits = (randn(2, rows, C, seed=rows).to(dtype) for rows in (B, N))
    tail = (attention_of(2, B), None, *draw_of(N, B))
    operators.mixed_cross_entropy(values, y, 0.1, -100, "sum", True, True, *tail)
    operators.soft_cross_entropy(logits, y, 0.1, -100, "mean", True, True, *tail)
    operators.mix(values, *tail)
    operators.mix_backward(logits, values, True, True, *tail)


# Instructions that may be missing, and why nobody can tell.
EXPLAINED: dict[tuple[str, str], str] = {}


def unnoticed(found: list[Mutant]) -> list[str]:
    """Those that are not explained."""
    return [str(m) for m in found if not m.noticed and (m.kernel, m.instruction) not in EXPLAINED]
