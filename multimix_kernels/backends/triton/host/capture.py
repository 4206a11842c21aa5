"""CUDA graphs: while one is captured no kernel can be compiled and loaded; a sentence says so, and what to warm up.

Triton asks `jit_cache_hook` before it compiles a kernel that this process has not launched yet. The hook is ours while
an operator runs in a capture, and at no other time.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

import torch

from .. import INTERPRET

_refusing = threading.Lock()


def capturing() -> bool:
    """Whether the current stream records a graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def capturable(operator: Callable) -> Callable:
    """The operator, which in a capture refuses to compile."""

    @wraps(operator)
    def run(*arguments):
        if INTERPRET or not capturing():
            return operator(*arguments)
        with _compiling_nothing(operator.__name__, arguments):
            return operator(*arguments)

    return run


@contextmanager
def _compiling_nothing(name: str, arguments: Sequence) -> Iterator[None]:
    from triton import knobs

    with _refusing:
        before = knobs.runtime.jit_cache_hook

        def refuse(*, fn, **rest):
            if capturing():  # another thread may compile meanwhile
                raise RuntimeError(_refusal(fn.name.rpartition(".")[2], name, arguments))
            return before(fn=fn, **rest) if before else None

        knobs.runtime.jit_cache_hook = refuse
        try:
            yield
        finally:
            knobs.runtime.jit_cache_hook = before


def _refusal(kernel: str, name: str, arguments: Sequence) -> str:
    draw = arguments[-1]
    if name == "sample":
        (b, r, dtype), sizes = arguments[:3], ""
    else:
        operand, *others = arguments[name.endswith("_backward") :]
        (r, b, columns), dtype = operand.shape, operand.dtype
        sizes = f", {'d' if name.startswith('mix_') or name == 'mix' else 'c'}={columns}"
        if name.startswith("soft"):
            b, sizes = others[0].shape[0], f"{sizes}, d=..."
    spatial = f", spatial=({r},)" if r > 1 else ""
    subset = f", m={draw.m}" if draw.m != b else ""
    return (
        f"{kernel} has not been compiled for these arguments of {name} yet, and cannot be while a CUDA graph is "
        f"captured; before the capture do the same step once, or call multimix_kernels.warm_up({b}{sizes}{spatial}, "
        f"n={draw.n}{subset}, dtype={dtype}) with the other options of the step"
    )
