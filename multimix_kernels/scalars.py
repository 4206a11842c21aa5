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


def readable(x: Tensor) -> bool:
    """Whether x has values that may be read: a fake tensor has none, and a mode (make_fx) may record what is done."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()


def is_number(x: Tensor) -> bool:
    """Whether x is one real number that can be read without a wait."""
    return not x.dim() and x.device.type == "cpu" and not x.is_complex() and x.dtype != torch.bool


def as_number(x, name: str) -> float | Tensor | None:
    """x as a float, if it is a real number of Python, NumPy or torch (a Tensor without dimensions, on the CPU).

    While a graph is compiled or recorded, a number that is no constant of it has no value yet: it is a float64 Tensor
    () on the CPU, with a value when the graph runs.

    Raises:
        ValueError: naming the argument, if x requires grad.
    """
    if isinstance(x, (int, float, torch.SymInt, torch.SymFloat)):
        if isinstance(x, bool):
            return None
        return _traced(x) if torch.compiler.is_compiling() else float(x)
    if isinstance(x, Tensor):
        if not is_number(x):
            return None
        if x.requires_grad:
            raise ValueError(f"{name}: must not require grad; nothing is differentiated by it; pass {name}.detach()")
        return float(x.item()) if readable(x) else x.detach().to(torch.float64, copy=True)
    return float(x) if isinstance(x, numbers.Real) else None


def _traced(x) -> float | Tensor:
    """A number in a graph that is being compiled: a constant of it, or symbolic, as is one that changed before."""
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to import

    # As a float it would be made a constant, and compiled again for the next value.
    return float(x) if has_static_value(x) else torch.zeros((), dtype=torch.float64, device="cpu") + x


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
