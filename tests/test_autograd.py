"""The autograd Functions: what is computed when, what is refused, and how gradients combine."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import multimix_kernels as mk
from multimix_kernels import ops

from .support.bounds import assert_close
from .support.cases import DENSE, PLAIN, loss_and_gradients, upstream_of

PROBLEMS = [
    PLAIN,
    PLAIN.but("none", reduction="none"),
    DENSE.but("dense", attention="given", attention_grad=True),
    DENSE.but("dense none", attention="given", attention_grad=True, reduction="none"),
    DENSE.but("dense cam", attention="cam", attention_grad=True),
]


@pytest.fixture
def wants(monkeypatch):
    """Which gradients each call of an operator was asked for."""
    seen = []

    def spy(name, operator):
        def call(*arguments):
            seen.append((name, tuple(x for x in arguments if isinstance(x, bool))))
            return operator(*arguments)

        return call

    for operators in ops.OPERATORS.values():
        for name, operator in operators.items():
            monkeypatch.setitem(operators, name, spy(name, operator))
    return seen


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_no_gradient_work_under_no_grad(problem, backend, device, wants):
    for make, evaluate in ((problem.operands, problem.loss), (problem.scores, problem.score_loss)):
        operands = make(torch.float32, device)
        with torch.no_grad():
            loss = evaluate(operands, backend)
        assert loss.grad_fn is None
        assert not loss.requires_grad
        frozen = {k: v.detach() for k, v in operands.items()}
        assert not evaluate(frozen, backend).requires_grad
        with torch.inference_mode():
            evaluate(frozen, backend)
    assert wants
    assert not any(any(want) for _, want in wants)


class Operations(TorchDispatchMode):
    """Notes what torch computes: an operation is a launch on a GPU, views and new memory are none."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not function.is_view and "empty" not in function._opname:
            self.found.append(function._opname)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_backward_of_a_reduced_loss_is_one_product(reduction, dtype, backend, device):
    """For each gradient, multiplied and cast at once: to the bit what two operations give, however often."""
    problem = DENSE.but("", attention="given")
    operands = problem.scores(dtype, device)
    scores, attention = operands["scores"], operands["attention"]
    loss = mk.mixed_cross_entropy(
        scores, problem.target().to(device), attention=attention, n=6, seed=1, reduction=reduction, backend=backend
    )
    ones, upstream = (torch.full_like(loss, value) for value in (1.0, 3.0))
    plain = torch.autograd.grad(loss, (scores, attention), ones, retain_graph=True)
    with Operations() as operations:
        found = torch.autograd.grad(loss, (scores, attention), upstream, retain_graph=True)
    assert operations.found == ["mul", "mul"]
    again = torch.autograd.grad(loss, (scores, attention), upstream)
    for x, y, z in zip(found, again, plain, strict=True):
        assert x.dtype == dtype
        assert torch.equal(x, y)
        assert_close(x, 3 * z, 1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_only_the_wanted_gradients_are_computed(backend, device, wants):
    problem = DENSE.but("", attention="given")
    operands = problem.scores(torch.float32, device)
    scores, attention = operands["scores"], operands["attention"]
    for grad in ((True, False), (False, True), (True, True)):
        wants.clear()
        problem.score_loss(
            {
                "scores": scores.detach().requires_grad_(grad[0]),
                "attention": attention.detach().requires_grad_(grad[1]),
            },
            backend,
        )
        assert wants == [("mixed_cross_entropy", grad)]


def test_reduced_losses_do_all_work_in_the_forward(backend, device, wants):
    operands = PLAIN.scores(torch.float32, device)
    loss = PLAIN.score_loss(operands, backend)
    wants.clear()
    loss.backward()
    assert not wants


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("kind", ["linear", "scores"])
def test_backward_twice_through_one_graph(problem, kind, backend, device):
    make, evaluate = {"linear": (problem.operands, problem.loss), "scores": (problem.scores, problem.score_loss)}[kind]
    operands = make(torch.float32, device)
    loss = evaluate(operands, backend)
    upstream = upstream_of(loss)
    first = torch.autograd.grad(loss, list(operands.values()), upstream, retain_graph=True)
    kept = [g.clone() for g in first]
    second = torch.autograd.grad(loss, list(operands.values()), upstream, retain_graph=True)
    tripled = torch.autograd.grad(loss, list(operands.values()), 3 * upstream)
    for a, b, before, c in zip(first, second, kept, tripled, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, before)
        assert_close(c, 3 * a, 1e-5)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, list(operands.values()), upstream)


def test_forward_mode_is_refused(backend, device):
    target = torch.tensor([0, 1, 2], device=device)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.randn(3, 3, device=device), torch.randn(3, 3, device=device))
        for call in (
            lambda: mk.mixed_cross_entropy(dual, target, n=2, backend=backend),
            lambda: mk.multimix_cross_entropy(dual, target, torch.eye(3, device=device), n=2, backend=backend),
            lambda: mk.multimix(dual, n=2, backend=backend),
        ):
            with pytest.raises((RuntimeError, NotImplementedError), match=r"jvp|forward"):
                call()


def test_vmap_is_refused(backend, device):
    target = torch.tensor([0, 1, 2], device=device)
    batch = torch.randn(2, 3, 3, device=device)
    for call in (
        lambda x: mk.mixed_cross_entropy(x, target, n=2, seed=1, backend=backend),
        lambda x: mk.multimix_cross_entropy(x, target, torch.eye(3, device=device), n=2, seed=1, backend=backend),
        lambda x: mk.multimix(x, n=2, seed=1, backend=backend).embeddings,
    ):
        with pytest.raises(RuntimeError, match="vmap"):
            torch.vmap(call)(batch)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("problem", [PLAIN, DENSE, PLAIN.but("none", reduction="none")], ids=str)
def test_checkpointing_draws_the_same_weights(reentrant, problem, backend, device):
    """With no seed given: the recomputed forward must draw the seed that the first one drew."""
    operands = problem.operands(torch.float32, device)
    torch.manual_seed(4)
    expected = loss_and_gradients(problem.loss(operands, backend, seed=None).sum(), operands)

    def run(x, weight, bias):
        return problem.loss({"input": x, "weight": weight, "bias": bias}, backend, seed=None)

    torch.manual_seed(4)
    loss = checkpoint(run, *operands.values(), use_reentrant=reentrant).sum()
    torch.rand(100, device=device)
    loss.backward(upstream_of(loss))
    assert torch.equal(loss, expected["loss"])
    for name, x in operands.items():
        assert torch.equal(x.grad, expected[name]), name


def test_checkpointed_mixture(backend, device):
    """A head between the mixture and its loss, recomputed."""
    x = torch.randn(6, 5, device=device, requires_grad=True)
    target, head = torch.arange(6, device=device) % 3, torch.nn.Linear(5, 3).to(device)

    def run(x):
        mixture = mk.multimix(x, n=8, backend=backend)
        return mixture.cross_entropy(head(torch.tanh(mixture.embeddings)), target)

    results = []
    for call in (run, lambda x: checkpoint(run, x, use_reentrant=False)):
        torch.manual_seed(4)
        loss = call(x)
        results.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_rows_get_their_own_upstream_gradients(backend, device, best_dtype):
    """With reduction "none": a row whose upstream gradient is zero adds nothing."""
    problem = PLAIN.but("", reduction="none")
    operands = problem.scores(best_dtype, device)
    rows = problem.score_loss(operands, backend)
    total = torch.zeros_like(operands["scores"])
    for k in range(len(rows)):
        one = torch.autograd.grad(rows, operands["scores"], torch.eye(len(rows)).to(rows)[k], retain_graph=True)[0]
        alone = problem.but("", n=1, row_offset=k, reduction="sum")
        expected = torch.autograd.grad(alone.score_loss(operands, backend), operands["scores"])[0]
        assert_close(one, expected, 1e-12 if best_dtype == torch.float64 else 1e-5)
        total += one
    whole = torch.autograd.grad(rows.sum(), operands["scores"])[0]
    assert_close(total, whole, 1e-12 if best_dtype == torch.float64 else 1e-5)


def test_seed_changed_before_the_backward_does_no_harm(backend, device):
    """The backward draws the weights again: a changed seed would make other ones."""
    seed = torch.tensor([1], device=device)
    operands = PLAIN.scores(torch.float32, device)
    rows = PLAIN.score_loss(operands, backend, seed=seed, reduction="none")
    expected = torch.autograd.grad(rows.sum(), operands["scores"], retain_graph=True)[0]
    seed.add_(1)
    try:
        found = torch.autograd.grad(rows.sum(), operands["scores"])[0]
    except RuntimeError as refused:
        found = str(refused)
    assert "modified by an inplace operation" in found if isinstance(found, str) else torch.equal(found, expected)


def test_gradients_accumulate(backend, device):
    operands = PLAIN.operands(torch.float32, device)
    for _ in range(2):
        PLAIN.loss(operands, backend).backward()
    single = PLAIN.operands(torch.float32, device)
    PLAIN.loss(single, backend).backward()
    for name, x in operands.items():
        assert_close(x.grad, 2 * single[name].grad, 1e-6)
