"""Losses and gradients of the public functions against the float64 oracle, in every dtype."""

import pytest
import torch
from torch.autograd import gradcheck

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from .support import oracle
from .support.bounds import assert_as_accurate, assert_close
from .support.cases import ATTENDED, DENSE, DIFFERENTIABLE, LINEAR, PLAIN, SCORES, loss_and_gradients

LOW = (torch.float32, torch.bfloat16, torch.float16)


def compare(problem, kind, backend, device, dtype):
    """The rule of `bounds`, on several draws at once where rounding is coarse: one scalar may be lucky."""
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")
    results = []
    for draw in range(12 if dtype in LOW[1:] else 1):
        case = problem.but(problem.name, seed=problem.seed + 10 * draw)
        make, evaluate = {"linear": (case.operands, case.loss), "scores": (case.scores, case.score_loss)}[kind]
        operands = make(dtype, device)
        lam = case.lam(backend, dtype, device)
        actual = loss_and_gradients(evaluate(operands, backend), operands)
        plain = loss_and_gradients(case.plain_loss(operands, lam), operands)
        exact_operands = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
        exact = loss_and_gradients(case.plain_loss(exact_operands, lam), exact_operands)
        assert actual["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert all(actual[name].dtype == dtype for name in operands)
        results.append((actual, plain, exact))
    for name in results[0][0]:
        actual, plain, exact = (torch.stack([draw[name] for draw in which]) for which in zip(*results, strict=True))
        assert_as_accurate(actual, plain, exact, name)


@pytest.mark.parametrize("dtype", [torch.float64, *LOW], ids=str)
@pytest.mark.parametrize("problem", LINEAR + ATTENDED + DIFFERENTIABLE, ids=str)
def test_linear_head(problem, backend, device, dtype):
    if dtype in LOW[1:] and problem.attention in ("gap", "cam") and problem.activation == "relu":
        pytest.skip("which attentions are zero depends on rounding; see the given attention")
    compare(problem, "linear", backend, device, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, *LOW], ids=str)
@pytest.mark.parametrize("problem", SCORES, ids=str)
def test_scores(problem, backend, device, dtype):
    compare(problem, "scores", backend, device, dtype)


@pytest.mark.parametrize("problem", [PLAIN, PLAIN.but("none", reduction="none"), DENSE], ids=str)
@pytest.mark.parametrize("wanted", ["input", "weight", "bias"])
def test_one_gradient_alone(problem, wanted, backend, device, best_dtype):
    operands = problem.operands(best_dtype, device)
    expected = loss_and_gradients(problem.loss(operands, backend), operands)
    operands = {k: v.detach().requires_grad_(k == wanted) for k, v in operands.items()}
    loss = problem.loss(operands, backend)
    alone = loss_and_gradients(loss, {wanted: operands[wanted]})
    assert_close(alone[wanted], expected[wanted], 1e-12 if best_dtype == torch.float64 else 1e-6)


def small(problem):
    """Few elements: finite differences evaluate the loss twice for each."""
    least = dict(b=5, d=3, c=3, n=4)
    sizes = {k: min(v, getattr(problem, k)) for k, v in least.items()}
    m = None if problem.m is None else min(problem.m, sizes["b"] - 1) or 1
    return problem.but(
        problem.name, **sizes, m=m, ignored=min(problem.ignored, 4), spatial=(2,) * bool(problem.spatial)
    )


@pytest.mark.parametrize("problem", LINEAR[:19] + ATTENDED[:9] + DIFFERENTIABLE[:8], ids=str)
def test_gradcheck_linear_head(problem, backend, best_dtype):
    problem = small(problem)
    if best_dtype != torch.float64:
        pytest.skip("finite differences need float64")
    if problem.attention not in (None, "given") and not problem.attention_grad:
        problem = problem.but(problem.name, attention="given")  # the map depends on the input, but passes no gradient
    operands = problem.operands()
    if "attention" in operands:
        operands["attention"] = (operands["attention"].detach() + 0.1).requires_grad_(problem.attention_grad)
    names = list(operands)
    gradcheck(
        lambda *x: problem.loss(dict(zip(names, x, strict=True)), backend), tuple(operands.values()), fast_mode=True
    )


@pytest.mark.parametrize("problem", [p for p in SCORES if p.b * p.c < 1000], ids=str)
def test_gradcheck_scores(problem, backend, best_dtype):
    if best_dtype != torch.float64:
        pytest.skip("finite differences need float64")
    problem = small(problem)
    operands = problem.scores()
    if "attention" in operands:
        operands["attention"] = (operands["attention"].detach() + 0.1).requires_grad_()
    names = list(operands)
    gradcheck(
        lambda *x: problem.score_loss(dict(zip(names, x, strict=True)), backend),
        tuple(operands.values()),
        fast_mode=True,
    )


@pytest.mark.parametrize("problem", [p for p in ATTENDED if p.attention in ("gap", "cam", "given")], ids=str)
def test_attention_passes_no_gradient_unless_asked(problem, backend, device, best_dtype):
    operands = problem.operands(best_dtype, device)
    plain = loss_and_gradients(problem.loss(operands, backend), operands)
    if problem.attention == "given":
        assert not plain["attention"].any()
        return
    fixed = mk.attention_map(
        operands["input"].detach(), problem.attention, problem.activation,
        weight=operands["weight"].detach(), target=problem.target().to(device),
    )  # fmt: skip
    options = problem.options(backend, device) | dict(attention=fixed)
    target = problem.target().to(device)
    loss = mk.dense_multimix_cross_entropy(
        operands["input"], target.to(best_dtype) if problem.soft else target, operands["weight"],
        operands["bias"], **options,
    )  # fmt: skip
    given = loss_and_gradients(loss, operands)
    for name, value in plain.items():
        assert torch.equal(value, given[name]), name
    through = loss_and_gradients(problem.but("", attention_grad=True).loss(operands, backend), operands)
    if problem.spatial:  # otherwise the attention is one, whatever the input
        assert not torch.allclose(through["input"], plain["input"])


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float32, torch.bfloat16)], ids=str)
def test_operands_of_other_dtypes(dtypes, backend, device):
    """Attention and probabilities may have any floating-point dtype, whatever that of the scores."""
    first, second = dtypes
    problem = DENSE.but("", attention="given", soft=True)
    operands = problem.scores(first, device)
    a = operands["attention"].detach().to(second)
    target = problem.target().to(device, second)
    options = problem.options(backend, device)
    actual = mk.mixed_cross_entropy(operands["scores"], target, attention=a.requires_grad_(), **options)
    grad_attention, grad_scores = torch.autograd.grad(actual, (a, operands["scores"]))
    assert grad_attention.dtype == second
    assert grad_scores.dtype == first
    exact = {"scores": operands["scores"].detach().double(), "attention": a.detach().double()}
    plain = {"scores": operands["scores"].detach(), "attention": a.detach().float()}
    lam = problem.lam(backend, first, device)
    assert_as_accurate(actual, problem.plain_loss(plain, lam), problem.plain_loss(exact, lam))


@pytest.mark.parametrize("spatial", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
def test_shapes(spatial, backend, device):
    x = torch.randn(4, 3, *spatial, device=device)
    target = torch.tensor([0, 1, 2, 0], device=device)
    weight = torch.randn(3, 3, device=device)
    options = dict(n=5, seed=1, backend=backend)
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (5, *spatial))):
        dense = mk.dense_multimix_cross_entropy(x, target, weight, reduction=reduction, **options)
        scores = mk.mixed_cross_entropy(x, target, reduction=reduction, **options)
        assert dense.shape == scores.shape == shape
        assert dense.is_contiguous() or reduction == "none"
    assert mk.sample_dirichlet(5, 4, spatial=spatial, seed=1, device=device, backend=backend).shape == (5, 4, *spatial)


def test_reductions_agree(backend, device, best_dtype):
    problem = DENSE.but("", reduction="none", ignored=1)
    operands = problem.operands(best_dtype, device)
    rows = problem.loss(operands, backend)
    exact = 1e-12 if best_dtype == torch.float64 else 1e-6
    assert_close(problem.loss(operands, backend, reduction="mean"), rows.mean(), exact)
    assert_close(problem.loss(operands, backend, reduction="sum"), rows.sum(), exact)


def test_convolution_weight(backend, device):
    """The weight of a 1x1 convolution is taken, and its gradient has its shape."""
    problem = DENSE.but("", attention="cam", attention_grad=True)
    operands = problem.operands(torch.float32, device)
    expected = loss_and_gradients(problem.loss(operands, backend), operands)
    operands["weight"] = operands["weight"].detach()[:, :, None, None].requires_grad_()
    actual = loss_and_gradients(problem.loss(operands, backend), operands)
    assert actual["weight"].shape == (problem.c, problem.d, 1, 1)
    for name, value in actual.items():
        assert torch.equal(value.reshape(expected[name].shape), expected[name]), name


def test_plain_is_dense_without_locations(backend, device, best_dtype):
    operands = PLAIN.operands(best_dtype, device)
    expected = loss_and_gradients(PLAIN.loss(operands, backend), operands)
    operands["input"] = operands["input"].detach()[:, :, None].requires_grad_()
    problem = DENSE.but("", spatial=(1,), attention="uniform")
    actual = loss_and_gradients(problem.loss(operands, backend), operands)
    for name, value in actual.items():
        assert_close(
            value.reshape(expected[name].shape), expected[name], 1e-12 if best_dtype == torch.float64 else 1e-5
        )


def test_oracle_is_cross_entropy_on_one_example(backend, device, best_dtype):
    """With m = 1 every mixture is an example: the loss of a row is F.cross_entropy of that example."""
    problem = PLAIN.but("", m=1, reduction="none", smoothing=0.1, n=200)
    operands = problem.operands(best_dtype, device)
    rows = problem.loss(operands, backend)
    clean = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(operands["input"], operands["weight"], operands["bias"]),
        problem.target().to(device), reduction="none", label_smoothing=0.1,
    )  # fmt: skip
    nearest = (rows[:, None] - clean).abs().min(1)
    assert nearest.values.max() <= (1e-12 if best_dtype == torch.float64 else 1e-5)
    assert len(nearest.indices.unique()) == problem.b


def test_attention_of_one_example_has_no_gradient(backend, device, best_dtype):
    """With m = 1 the weights are one and zero, whatever the attention."""
    problem = DENSE.but("", attention="given", m=1)
    operands = problem.scores(best_dtype, device)
    found = loss_and_gradients(problem.score_loss(operands, backend), operands)
    assert found["attention"].abs().max() <= 10 * torch.finfo(best_dtype).eps
    exact = loss_and_gradients(problem.plain_loss(operands, problem.lam(backend, best_dtype, device)), operands)
    assert_close(found["scores"], exact["scores"], 1e-12 if best_dtype == torch.float64 else 1e-5)


def test_default_seed_is_one_torch_draw(backend, device):
    operands = PLAIN.operands(torch.float32, device)
    torch.manual_seed(3)
    first = PLAIN.loss(operands, backend, seed=None)
    second = PLAIN.loss(operands, backend, seed=None)
    torch.manual_seed(3)
    assert torch.equal(first, PLAIN.loss(operands, backend, seed=None))
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    seed = torch.randint(2**63 - 1, (1,), device=device)
    assert torch.equal(first, PLAIN.loss(operands, backend, seed=seed))


def test_oracle_attention_is_normalised():
    """A check of the oracle itself: the mixed weights sum to one."""
    mu = oracle.attended(torch.rand(3, 4, 2), torch.rand(4, 2))
    assert torch.allclose(mu.sum(1), torch.ones(3, 2))
