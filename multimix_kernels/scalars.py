"""Numbers as users pass them: those of Python, NumPy and torch, and the symbolic ones of a compiled graph."""

import numbers
import operator

import torch
from torch import Tensor


def is_integer(x) -> bool:
    """Whether x is an int (bool is not), perhaps a symbolic one."""
    return isinstance(x, (int, torch.SymInt)) and not isinstance(x, bool)


def as_integer(x, name: str, accepted: str = "an int") -> int:
    """x as an int: also from a NumPy integer, or an integer Tensor without dimensions that can be read without a wait.

    Raises:
        TypeError: naming the argument.
    """
    if is_integer(x):
        return x
    if isinstance(x, Tensor):
        x = _read(x, name, accepted)
    if not isinstance(x, bool):
        try:
            return operator.index(x)
        except TypeError:
            pass
    raise TypeError(f"{name}: expected {accepted}, got {x!r}")


def as_float(x) -> float | None:
    """x as a float, if it is a real number of Python, NumPy or torch (a Tensor without dimensions, on the CPU)."""
    if isinstance(x, bool):
        return None
    if isinstance(x, (int, float, torch.SymInt, torch.SymFloat)):
        return float(x)
    if isinstance(x, Tensor):
        real = not x.dim() and x.device.type == "cpu" and not x.is_complex() and x.dtype != torch.bool
        return float(x.item()) if real else None
    return float(x) if isinstance(x, numbers.Real) else None


def _read(x: Tensor, name: str, accepted: str):
    """The value of a Tensor without dimensions."""
    if x.dim() or x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"{name}: expected {accepted}, got a Tensor {x.dtype} of shape {tuple(x.shape)}")
    if x.device.type != "cpu":
        raise TypeError(
            f"{name}: expected {accepted}, got a Tensor on {x.device}, which cannot be read without waiting for it; "
            f"pass a Python number"
        )
    return x.item()
