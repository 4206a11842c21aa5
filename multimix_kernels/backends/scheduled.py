"""Numbers that change from call to call of a compiled graph: alpha's range and the label smoothing.

The operators take floats, which are constants of a graph: another value is compiled anew. Beside each operator there is
one, the overload "scheduled", that takes these numbers in a Tensor on the CPU, reads them when it runs, without a wait
for any device, and calls the operator. A CUDA graph would keep the numbers that it was captured with: torch.compile is
told to leave the overload out of them. Where numbers are floats nothing of this is in the graph.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .contract import Draw, LossOptions

ALPHA_MIN, ALPHA_MAX = 0.01, 1000.0
ROUNDING = 2.0**-23  # relative distance to a bound at which float32 cannot tell a number from it


def within(low: float, high: float) -> tuple[float, float] | None:
    """The range of alpha as operators take it; None if it is not in order and within the bounds."""
    if not ALPHA_MIN * (1 - ROUNDING) <= low <= high <= ALPHA_MAX * (1 + ROUNDING):
        return None
    return min(max(low, ALPHA_MIN), ALPHA_MAX), min(max(high, ALPHA_MIN), ALPHA_MAX)


def numbers_of(draw: Draw, options: LossOptions | None = None) -> Tensor | None:
    """(3,) float64: the range of alpha and the label smoothing, if one of them is a Tensor."""
    low, high, smoothing = draw.low, draw.high, 0.0 if options is None else options.label_smoothing
    if not (isinstance(low, Tensor) or isinstance(high, Tensor) or isinstance(smoothing, Tensor)):
        return None
    return torch.stack([
        x if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device="cpu")
        for x in (low, high, smoothing)
    ])  # fmt: skip


def with_numbers(records: Sequence, numbers: Tensor) -> list:
    """The arguments of an operator with the values that `numbers_of` put together.

    Raises:
        ValueError: naming the argument that is out of its range.
    """
    low, high, smoothing = numbers.tolist()
    nearest = within(low, high)
    if nearest is None:
        expected = f"a float or a (low, high) pair with low <= high, within [{ALPHA_MIN}, {ALPHA_MAX}]"
        raise ValueError(f"alpha: expected {expected}, got {low if low == high else (low, high)}")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a float in [0, 1], got {smoothing}")
    return _replaced(records, *nearest, smoothing)


def without_numbers(records: Sequence) -> list:
    """The arguments of an operator without them: no tensor is where a float belongs."""
    return _replaced(records, 0.0, 0.0, 0.0)


def _replaced(records: Sequence, low: float, high: float, smoothing: float) -> list:
    replaced = []
    for x in records:
        if isinstance(x, Draw):
            x = x._replace(low=low, high=high)
        elif isinstance(x, LossOptions):
            x = x._replace(label_smoothing=smoothing)
        replaced.append(x)
    return replaced
