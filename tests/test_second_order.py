"""Derivatives of gradients: against autograd through the float64 oracle, in use, and where they end."""

import pytest
import torch
from torch.autograd import grad, gradgradcheck
from torch.autograd.functional import hessian
from torch.utils.checkpoint import checkpoint

import multimix_kernels as mk
from multimix_kernels import second_order
from multimix_kernels.backends import TABLE

from .support.bounds import assert_as_accurate, assert_close
from .support.cases import ATTENDED, DENSE, DIFFERENTIABLE, LINEAR, PLAIN, SCORES, upstream_of


def second_derivatives(loss, operands):
    """Of a function of the loss that is not linear, along one direction; zeros where none flows."""
    weighted = (loss * upstream_of(loss)).sum()
    leaves = list(operands.values())
    gradients = grad(weighted + weighted**2, leaves, create_graph=True, allow_unused=True)
    g = torch.Generator().manual_seed(8)
    scalar = 0.0
    for gradient in gradients:
        if gradient is not None:
            direction = torch.randn(gradient.shape, generator=g, dtype=torch.float64)
            scalar = scalar + (gradient * direction.to(gradient)).sum()
    found = grad(scalar, leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(operands, found, strict=True))


def compare(problem, kind, backend, device, dtype):
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")
    make, evaluate = {"linear": (problem.operands, problem.loss), "scores": (problem.scores, problem.score_loss)}[kind]
    operands = make(dtype, device)
    lam = problem.lam(backend, dtype, device)
    actual = second_derivatives(evaluate(operands, backend), operands)
    plain = second_derivatives(problem.plain_loss(operands, lam), operands)
    wide = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    exact = second_derivatives(problem.plain_loss(wide, lam), wide)
    for name in operands:
        assert actual[name].dtype == dtype
        assert_as_accurate(actual[name], plain[name], exact[name], name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("problem", LINEAR + ATTENDED + DIFFERENTIABLE, ids=str)
def test_linear_head(problem, backend, device, dtype):
    compare(problem, "linear", backend, device, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("problem", SCORES, ids=str)
def test_scores(problem, backend, device, dtype):
    compare(problem, "scores", backend, device, dtype)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("options", [dict(), dict(m=2), dict(attended=True), dict(attended=True, m=2)], ids=str)
def test_any_head(options, reduction, backend, device, best_dtype):
    """Mixed embeddings through a head that is not linear: both operators, one after the other, against finite ones."""
    if best_dtype != torch.float64:
        pytest.skip("finite differences need float64")
    g = torch.Generator().manual_seed(2)
    x, w, a = (torch.rand(*shape, generator=g, dtype=torch.float64) for shape in ((4, 3, 2), (3, 3), (4, 2)))
    a[1] = 0
    target = torch.tensor([0, 2, 1, 1])
    leaves = [x.requires_grad_(), w.requires_grad_()]
    if "attended" in options:
        leaves.append((a + 0.2).requires_grad_())

    def loss(x, w, a=None):
        mixture = mk.multimix(x, attention=a, n=5, m=options.get("m"), seed=1, backend=backend)
        logits = torch.einsum("ndr,dc->ncr", torch.tanh(mixture.embeddings), w)
        return mixture.cross_entropy(logits, target, label_smoothing=0.1, reduction=reduction)

    assert gradgradcheck(loss, leaves)


@pytest.mark.parametrize("wanted", ["scores", "attention"])
def test_one_operand_alone(wanted, backend, device, best_dtype):
    problem = DENSE.but("", attention="given")
    operands = {k: v.detach() for k, v in problem.scores(best_dtype, device).items()}
    lam = problem.lam(backend, best_dtype, device)

    def found(evaluate, dtype):
        leaves = {k: v.to(dtype).clone().requires_grad_(k == wanted) for k, v in operands.items()}
        return second_derivatives(evaluate(leaves), {wanted: leaves[wanted]})[wanted]

    assert_as_accurate(
        found(lambda x: problem.score_loss(x, backend), best_dtype),
        found(lambda x: problem.plain_loss(x, lam), best_dtype),
        found(lambda x: problem.plain_loss(x, lam), torch.float64),
    )


def test_rows_without_attention_are_constants(backend, device, best_dtype):
    """Some rows have no attention, and some examples have none in rows that do."""
    problem = DENSE.but("", attention="given", m=2, n=40, soft=True)
    operands = problem.scores(best_dtype, device)
    with torch.no_grad():
        operands["attention"][:4] = 0
    lam = problem.lam(backend, best_dtype, device)
    found = second_derivatives(problem.score_loss(operands, backend), operands)
    plain = second_derivatives(problem.plain_loss(operands, lam), operands)
    wide = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    exact = second_derivatives(problem.plain_loss(wide, lam), wide)
    for name in operands:
        assert_as_accurate(found[name], plain[name], exact[name], name)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("kind", ["linear", "soft"])
def test_parts_of_rows_add_up(kind, reduction, backend, device, best_dtype, monkeypatch):
    """One row at a time, and all at once."""

    def loss(operands):
        mixture = mk.multimix(operands["input"], n=11, seed=2, backend=backend)
        if kind == "soft":
            logits = mixture.embeddings @ operands["weight"].T
            return mixture.cross_entropy(logits, problem.target().to(device), reduction=reduction)
        return problem.loss(operands, backend)

    problem = PLAIN.but("", reduction=reduction)
    operands = problem.operands(best_dtype, device)
    names = [name for name in operands if kind == "linear" or name != "bias"]
    operands = {name: operands[name] for name in names}
    whole = second_derivatives(loss(operands), operands)
    monkeypatch.setattr(second_order, "_PART_BYTES", 1)
    parts = second_derivatives(loss(operands), operands)
    for name in operands:
        assert_close(parts[name], whole[name].double(), 1e-12 if best_dtype == torch.float64 else 2e-6, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_masked_classes(dtype, backend, device):
    """The second derivatives of the other classes."""
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    wide = torch.cat((scores, torch.full((5, 1), -torch.inf, device=device, dtype=dtype)), 1)
    target = torch.tensor([0, 1, 2, 3, 0], device=device)
    results = []
    for x in (scores, wide):
        x = x.clone().requires_grad_()
        attention = torch.tensor([0.0, 1, 2, 0.5, 1], device=device, requires_grad=True)
        loss = mk.mixed_cross_entropy(x, target, attention=attention, n=20, m=3, seed=1, backend=backend)
        results.append(second_derivatives(loss, {"attention": attention, "scores": x}))
    assert not results[1]["scores"][:, 4].any()
    assert results[1]["attention"].isfinite().all()

    # The directions beside the attention's are others where there are more classes: compare with a penalty.
    found = []
    for x in (scores, wide):
        x = x.clone().requires_grad_()
        loss = mk.mixed_cross_entropy(x, target, n=20, m=3, seed=1, backend=backend)
        (gradient,) = grad(loss, x, create_graph=True)
        found.append(grad(gradient[:, :4].float().square().sum(), x)[0][:, :4])
    # First derivatives in bfloat16 may be rounded otherwise where there are more classes, by 2^-8 at most.
    rounding = {} if dtype == torch.float32 else dict(atol=2**-8 * found[0].abs().max().item(), rtol=0)
    torch.testing.assert_close(found[1], found[0], **dict(rtol=1e-5, atol=1e-7) | rounding)


def test_hessian(backend, device, best_dtype):
    """Through torch.autograd.functional, which was zero where gradients counted as constants."""
    operands = PLAIN.scores(best_dtype, device)
    lam = PLAIN.lam(backend, best_dtype, device)
    found = hessian(lambda x: PLAIN.score_loss({"scores": x}, backend), operands["scores"].detach())
    expected = hessian(lambda x: PLAIN.plain_loss({"scores": x}, lam), operands["scores"].detach().double())
    assert found.any()
    assert_close(found, expected, 1e-10 if best_dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("problem", [PLAIN, DENSE.but("dense", attention="cam", attention_grad=True)], ids=str)
def test_inner_step(problem, backend, device, best_dtype):
    """A step of gradient descent inside the graph, as in MAML: the outer gradient, against the oracle's."""

    def outer(loss, operands):
        gradients = grad(loss(operands), list(operands.values()), create_graph=True)
        stepped = {k: x - 0.3 * g for (k, x), g in zip(operands.items(), gradients, strict=True)}
        return grad(loss(stepped), list(operands.values()))

    operands = problem.operands(best_dtype, device)
    lam = problem.lam(backend, best_dtype, device)
    wide = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    found = outer(lambda x: problem.loss(x, backend), operands)
    plain = outer(lambda x: problem.plain_loss(x, lam), operands)
    exact = outer(lambda x: problem.plain_loss(x, lam), wide)
    for x, y, z, name in zip(found, plain, exact, operands, strict=True):
        assert_as_accurate(x, y, z, name)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_gradient_penalty_by_backward(backend, device, best_dtype):
    """.backward(create_graph=True), and a second .backward through the gradients that it left."""
    operands = PLAIN.operands(best_dtype, device)
    lam = PLAIN.lam(backend, best_dtype, device)
    wide = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    PLAIN.loss(operands, backend).backward(create_graph=True)
    PLAIN.plain_loss(wide, lam).backward(create_graph=True)
    for leaves in (operands, wide):
        x = leaves["input"]
        first, x.grad = x.grad, None
        first.square().sum().backward()
    assert_close(operands["input"].grad, wide["input"].grad, 1e-10 if best_dtype == torch.float64 else 1e-5)
    for x in (*operands.values(), *wide.values()):
        x.grad = None  # they hold their graphs


def test_through_checkpointing(backend, device, best_dtype):
    operands = PLAIN.scores(best_dtype, device)
    expected = second_derivatives(PLAIN.score_loss(operands, backend), operands)
    loss = checkpoint(lambda x: PLAIN.score_loss({"scores": x}, backend), operands["scores"], use_reentrant=False)
    found = second_derivatives(loss, operands)
    assert torch.equal(found["scores"], expected["scores"])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_third_derivatives_are_refused(reduction, backend, device):
    problem = DENSE.but("", attention="given", attention_grad=True, reduction=reduction)
    operands = problem.operands(torch.float32, device)
    (first,) = grad(problem.loss(operands, backend).sum(), operands["input"], create_graph=True)
    for x in operands.values():
        (second,) = grad(first.sum(), x, create_graph=True)
        for y in operands.values():
            with pytest.raises(RuntimeError, match="third derivatives"):
                grad(second.square().sum(), y, retain_graph=True)
    with pytest.raises(RuntimeError, match="third derivatives"):
        second.square().sum().backward()


def test_compiled_graphs_refuse(backend, device):
    """torch says so by itself, in .backward(); its grad takes the gradients of any compiled graph for constants."""
    x = torch.randn(4, 3, device=device, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0], device=device)
    loss = torch.compile(mk.mixed_cross_entropy, fullgraph=True, backend="aot_eager")(
        x, target, n=5, seed=1, backend=backend
    )
    (gradient,) = grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        (loss + gradient.square().sum()).backward()


def test_what_may_be_changed_between_forward_and_backward(backend, device):
    """The next seed may be set; operands and targets are saved, as by losses of torch."""
    x, target = torch.randn(4, 3, device=device, requires_grad=True), torch.tensor([0, 1, 2, 0], device=device)
    seed = torch.tensor([3], device=device)
    expected = grad(mk.mixed_cross_entropy(x, target, n=5, seed=3, backend=backend), x)[0]
    loss = mk.mixed_cross_entropy(x, target, n=5, seed=seed, backend=backend)
    seed += 1
    assert torch.equal(grad(loss, x, retain_graph=True)[0], expected)
    with pytest.raises(RuntimeError, match=r"seed.*modified in place"):
        grad(loss, x, create_graph=True)
    scores = x * 1
    loss = mk.mixed_cross_entropy(scores, target, n=5, seed=3, backend=backend)
    scores.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        grad(loss, x)
