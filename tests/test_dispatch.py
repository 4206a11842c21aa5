"""Operators written in Python are called past torch's dispatcher where it has nothing to do, and only there."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import multimix_kernels as mk
from multimix_kernels import ops
from multimix_kernels.dispatch import idle

X = torch.ones(3, 2)
Y = torch.tensor([0, 1, 1])


@pytest.fixture
def dispatched(monkeypatch):
    """The operators that were called through the dispatcher."""
    found = []
    flat = ops.flat
    monkeypatch.setattr(ops, "flat", lambda name, arguments: found.append(name) or flat(name, arguments))
    return found


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def profiled():
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


STATES = {
    "autocast": lambda: torch.autocast("cpu"), "inference mode": torch.inference_mode, "dispatch mode": Mode,
    "profiler": profiled,
}  # fmt: skip


def test_plain_tensors():
    assert idle([None, X, torch.nn.Parameter(X, requires_grad=False), Y])
    with torch.no_grad():
        assert idle([X.clone().requires_grad_()])


@pytest.mark.parametrize("state", STATES)
def test_who_looks_on_is_not_passed_by(state):
    with STATES[state]():
        assert not idle([X])
    assert idle([X])


def test_tensors_that_are_more_than_memory():
    assert not idle([X, X.clone().requires_grad_()]), "somebody would record"
    assert not idle([torch.zeros(2, dtype=torch.complex64).conj().imag]), "its memory holds the negative"
    assert not idle([FakeTensorMode().from_tensor(X)])
    assert not idle([X.to("meta")])
    with torch.inference_mode():
        inference = X.clone()
    assert not idle([inference])
    seen = []
    torch.func.vmap(lambda x: seen.append(idle([x])) or x)(X)
    assert seen == [False]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_step_does_not_pass_the_dispatcher(dispatched, reduction):
    """Of the reference, whose operators are written in Python on every device; the same bits as through it."""
    found = []
    for state in (nullcontext, Mode):
        x = (X * torch.arange(2.0)).requires_grad_()
        with state():
            loss = mk.mixed_cross_entropy(x, Y, n=4, seed=1, reduction=reduction, backend="reference")
            loss.backward(torch.ones_like(loss))
        found.append((loss.detach(), x.grad, list(dispatched)))
    (loss, gradient, passed), (expected, same, through) = found
    assert passed == []
    assert through
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, same)


def test_weights_do_not_pass_it_either(dispatched):
    mk.sample_dirichlet(3, 2, seed=1, backend="reference")
    assert dispatched == []


@pytest.mark.parametrize("state", STATES)
def test_a_step_that_is_looked_at_does(dispatched, state):
    with STATES[state]():
        mk.mixed_cross_entropy(X.clone(), Y, n=4, seed=1, backend="reference")
    assert dispatched == ["mixed_cross_entropy"]


def test_autocast_does_not_reach_into_an_operator():
    """Whichever way it is called."""
    with torch.autocast("cpu"):
        found = mk.mixed_cross_entropy(X * 1.001, Y, n=4, seed=1, backend="reference")
    assert torch.equal(found, mk.mixed_cross_entropy(X * 1.001, Y, n=4, seed=1, backend="reference"))
