"""The peers compute the loss that this library computes, given the same weights."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

import multimix_kernels as mk
from benchmarks.cases import ALPHA, Case, make_problem, our_loss
from benchmarks.speed import peers
from benchmarks.speed.checks import check

CASES = [
    Case("flat", "flat", 6, 5, 4),
    Case("dense", "dense", 6, 5, 4, (2, 3)),
    Case("scores", "scores", 6, 0, 4),
    Case("dense-scores", "dense scores", 6, 0, 4, (2, 3)),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def problem(request):
    return make_problem(request.param, 7, "full", torch.float64, torch.device("cpu"))


@pytest.mark.parametrize("name", ["paper", "scores", "linear-ce"])
def test_loss_and_gradients_equal_the_reference_backend(problem, name):
    case = problem.case
    missing = peers.missing_reason(name, problem.device, problem.z.dtype)
    if missing or not peers.all_peers()[name].fits(case, None):
        pytest.skip(missing or "the paper's order needs a head")
    drawn = mk.sample_dirichlet(
        7, case.b, alpha=ALPHA, spatial=case.spatial, seed=3, dtype=torch.float64, backend="reference"
    )
    drawn = drawn.reshape(7, case.b, case.r).permute(2, 0, 1)
    operands = problem.z, problem.target, problem.weight, problem.bias
    theirs = peers.all_peers()[name].loss(*operands, case, 7, drawn)
    ours = our_loss(problem, "reference", seed=3)
    torch.testing.assert_close(theirs, ours)
    gradients = (torch.autograd.grad(loss, problem.parameters) for loss in (theirs, ours))
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


def test_pairs_equal_the_reference_backend(problem):
    problem = replace(problem, m=2)
    case = problem.case
    drawn = mk.sample_dirichlet(
        7, case.b, m=2, alpha=ALPHA, spatial=case.spatial, seed=3, dtype=torch.float64, backend="reference"
    )
    share, chosen = drawn.reshape(7, case.b, case.r).permute(2, 0, 1).topk(2)
    operands = problem.z, problem.target, problem.weight, problem.bias
    theirs = peers.pairs_loss(*operands, case, 7, (chosen[..., 0], chosen[..., 1], share[..., 0]))
    ours = our_loss(problem, "reference", seed=3)
    torch.testing.assert_close(theirs, ours)
    gradients = (torch.autograd.grad(loss, problem.parameters) for loss in (theirs, ours))
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


def test_pairs_are_of_different_examples_uniform_with_even_shares(problem):
    b, n = problem.case.b, 6000
    first, second, share = peers.draw_pairs(problem.case, n, torch.float64, problem.device)
    assert first.shape == second.shape == share.shape == (problem.case.r, n)
    assert (first != second).all()
    counts = (first * b + second).flatten().bincount(minlength=b * b).reshape(b, b).double()
    expected = first.numel() / (b * (b - 1))
    # 30 ordered pairs in each of four cases: 6 standard deviations raise a false alarm once in 10^6 or so.
    off = (counts - expected)[~torch.eye(b, dtype=torch.bool)].abs().max()
    assert off < 6 * expected**0.5
    # A Beta(alpha, alpha) share has variance 1 / (4 (2 alpha + 1)); the mean over alpha in [0.5, 2] is log(2.5) / 12.
    assert share.mean().item() == pytest.approx(0.5, abs=0.02)
    assert share.var().item() == pytest.approx(math.log(2.5) / 12, rel=0.06)


@pytest.mark.parametrize("m", [2, 4])
def test_subsets_of_the_peers_have_m_examples(problem, m):
    weights = peers.draw(problem.case, 2000, torch.float64, problem.device, m)
    assert ((weights > 0).sum(-1) == m).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(problem.case.r, 2000, dtype=torch.float64))
    assert (weights.mean(1) - 1 / problem.case.b).abs().max() < 0.03


def test_draw_has_the_law_of_the_method(problem):
    weights = peers.draw(problem.case, 2000, torch.float64, problem.device)
    assert weights.shape == (problem.case.r, 2000, problem.case.b)
    torch.testing.assert_close(weights.sum(-1), torch.ones(problem.case.r, 2000, dtype=torch.float64))
    assert (weights.mean(1) - 1 / problem.case.b).abs().max() < 0.02


@pytest.mark.parametrize("mode", ["forward", "full"])
@pytest.mark.parametrize("name", ["paper", "scores", "scores-presampled", "pairs", "reference"])
def test_steps_return_loss_and_gradients(problem, name, mode):
    problem = make_problem(problem.case, 7, mode, torch.float32, problem.device, m=2)
    loss, *gradients = peers.all_peers()[name].prepare(problem)()
    assert torch.isfinite(loss)
    assert [g.shape for g in gradients] == ([x.shape for x in problem.parameters] if mode == "full" else [])


def test_check_passes(backend, device, problem):
    for dtype, m in itertools.product((torch.float32, torch.bfloat16), (None, 2)):
        result = check(make_problem(problem.case, 300, "full", dtype, device, m), backend)
        assert result.passed, result.failures
        assert result.expects(result.loss, result.rows, dtype)
        assert not result.expects(2 * result.loss, result.rows, dtype)


def test_the_same_numbers_for_every_n():
    first, second = (make_problem(CASES[0], n, "full", torch.float32, torch.device("cpu")) for n in (1, 1000))
    assert all(torch.equal(x, y) for x, y in zip(first.parameters, second.parameters, strict=True))
