"""What property-based tests draw: problems, the layouts and sizes of their operands, and arguments of every kind."""

import math

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .cases import Problem

SPATIAL = [(), (1,), (3,), (2, 2), (2, 1, 2)]
LOW, HIGH = 0.01, 1000.0  # of the concentration


def many(examples: int) -> settings:
    """The same examples in every run, without a time limit for one."""
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


def concentrations(low: float = LOW) -> st.SearchStrategy[float]:
    """Over the whole range, the bounds, and where the sampler changes its arithmetic."""
    return st.one_of(
        st.sampled_from([max(low, special) for special in (LOW, 0.3, 0.4, 1.0, HIGH)]),
        st.floats(math.log(low), math.log(HIGH)).map(lambda x: min(max(math.exp(x), low), HIGH)),
    )


def alphas(low: float = LOW) -> st.SearchStrategy:
    """A number, a range, or one concentration for each example."""
    pair = st.tuples(concentrations(low), concentrations(low)).map(lambda pair: tuple(sorted(pair)))
    return st.one_of(concentrations(low), pair, st.just("per example"))


@st.composite
def problems(draw, kinds=("linear", "dense", "scores")) -> Problem:
    """A small loss of any options. A problem of scores has a given attention, or none."""
    kind = draw(st.sampled_from(kinds))
    b = draw(st.integers(1, 9))
    attention = draw({
        "linear": st.none(), "dense": st.sampled_from(["gap", "cam", "uniform", "given"]),
        "scores": st.sampled_from([None, "given"]),
    }[kind])  # fmt: skip
    return Problem(
        name=kind,
        b=b,
        d=draw(st.integers(1, 7)),
        c=draw(st.integers(1, 9)),
        n=draw(st.integers(1, 12)),
        spatial=() if kind == "linear" else draw(st.sampled_from(SPATIAL)),
        m=draw(st.one_of(st.none(), st.integers(1, b))),
        # The oracle multiplies weights by attention after they are drawn: there none may have underflowed.
        alpha=draw(alphas(LOW if attention is None else 0.3)),
        smoothing=draw(st.sampled_from([0.0, 0.1, 1.0])),
        reduction=draw(st.sampled_from(["mean", "sum", "none"])),
        soft=draw(st.booleans()),
        ignored=draw(st.integers(0, b - 1)),
        attention=attention,
        activation=draw(st.sampled_from(["relu", "softmax"])),
        # Gradients through a map that is computed have tests of their own.
        attention_grad=draw(st.booleans()) if attention == "given" else False,
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**63 - 4)),
        row_offset=draw(st.sampled_from([0, 1, 2**32 - 3, 2**62])),
    )


def layouts() -> st.SearchStrategy[str]:
    """How the elements of an operand lie in memory."""
    return st.sampled_from(["contiguous", "last dimension first", "every other"])


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same leaf in another layout; what lies between its elements is NaN."""
    x = x.detach()
    if layout == "last dimension first" and x.dim():
        x = x.movedim(-1, 0).contiguous().movedim(0, -1)
    elif layout == "every other" and x.dim():
        wide = torch.full((*x.shape, 2), torch.nan, dtype=x.dtype, device=x.device)
        wide[..., 0] = x
        x = wide[..., 0]
    return x.requires_grad_()


def anything() -> st.SearchStrategy:
    """An argument as a mistaken caller may pass it."""
    shapes = st.lists(st.integers(0, 4), max_size=4)
    dtypes = st.sampled_from([
        torch.float32, torch.float64, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.int32, torch.uint8,
        torch.bool, torch.complex64,
    ])  # fmt: skip
    tensors = st.builds(
        lambda shape, dtype, value, device: torch.full(shape, value, dtype=torch.float32).to(device, dtype),
        shapes, dtypes, st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, 1e30]), st.sampled_from(["cpu", "meta"]),
    )  # fmt: skip
    return st.one_of(
        tensors,
        st.integers(-3, 5),
        st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**20, -(2**63), -(2**63) - 1]),
        st.floats(),
        st.sampled_from([None, True, "", "gap", "none", (), (1, 2), [0.5, 2.0], {}, 1j, object(), b"x"]),
        st.sampled_from([np.float32(0.5), np.int64(2), np.ones(3), np.bool_(True), np.array(2)]),
    )
