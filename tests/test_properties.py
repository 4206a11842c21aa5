"""Properties over shapes, dtypes, strides, options and sizes of values, against the independent oracle.

Examples are the same in every run; thousands of them are slow tests.
"""

import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from .support import oracle, stream
from .support.bounds import RELATIVE, assert_as_accurate, assert_same_weights
from .support.cases import IGNORE, loss_and_gradients
from .support.ranks import refusal
from .support.strategies import SPATIAL, alphas, anything, laid_out, layouts, many, problems
from .support.terms import sizes


def examples(fast: int, slow: int):
    """How many: the fast tests' number, and the slow tests'."""
    return pytest.mark.parametrize("number", [fast, pytest.param(slow, marks=pytest.mark.slow)])


def dtypes_of(backend, device):
    return [d for d in (torch.float32, torch.float64) if TABLE[backend].accepts(device, d)]


def assert_accurate(found, plain, exact, size):
    """The rule of `bounds`, relative to the size of the terms that are added up."""
    for name, value in found.items():
        relative = RELATIVE.get(plain[name].dtype, 1e-6)
        error, same = ((x.detach().double() - exact[name]).abs().max().item() for x in (value, plain[name]))
        allowed = 2 * same + relative * max(exact[name].abs().max().item(), size[name])
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


@examples(120, 2500)
def test_losses(number, backend, device):
    """Losses and gradients of the linear heads and of scores, from operands of any layout and size."""

    @many(number)
    @given(problems(), st.sampled_from(dtypes_of(backend, device)), layouts(), st.sampled_from([1e-3, 1.0, 10.0]))
    def holds(problem, dtype, layout, size):
        scores = problem.name == "scores"
        operands = (problem.scores if scores else problem.operands)(dtype, device)
        scaled = "scores" if scores else "weight"
        operands[scaled] = operands[scaled].detach() * size
        operands = {name: laid_out(x, layout) for name, x in operands.items()}
        loss = (problem.score_loss if scores else problem.loss)(operands, backend)
        lam = problem.lam(backend, dtype, device)
        exact = {name: x.detach().double().requires_grad_() for name, x in operands.items()}
        a = exact.get("attention")
        if problem.attention is not None and a is None:
            a = oracle.attention(
                exact["input"], problem.attention, problem.activation, exact["weight"], problem.target()
            )
        assert_accurate(*(
            loss_and_gradients(value, leaves)
            for value, leaves in (
                (loss, operands), (problem.plain_loss(operands, lam), operands), (problem.plain_loss(exact, lam), exact)
            )
        ), sizes(problem, exact, lam.cpu(), a))  # fmt: skip

    holds()


@examples(60, 1500)
def test_mixtures(number, backend, device):
    """Embeddings, targets, and the loss of logits."""

    @many(number)
    @given(problems(["scores"]), st.sampled_from(dtypes_of(backend, device)), layouts())
    def holds(problem, dtype, layout):
        operands = problem.operands(dtype, device)
        operands.pop("weight"), operands.pop("bias", None)
        operands = {name: laid_out(x, layout) for name, x in operands.items()}
        target = problem.target().to(device)
        target = target.to(dtype) if problem.soft else target
        options = problem.options(backend, device)
        losses = dict(label_smoothing=options.pop("label_smoothing"), reduction=options.pop("reduction"))
        mixture = mk.multimix(operands["input"], attention=operands.get("attention"), **options)
        every = problem.but("", soft=True)  # multimix knows no targets, and leaves nobody out
        lam = every.lam(backend, dtype, device)
        g = torch.Generator().manual_seed(1)
        logits = 3 * torch.randn(problem.n, problem.c, *problem.spatial, generator=g, dtype=torch.float64)
        logits = laid_out(logits.to(device, dtype), layout)
        loss = mixture.cross_entropy(logits, target, **losses)

        def plain(dtype, smoothing=problem.smoothing):
            leaves = {name: x.detach().to(dtype).requires_grad_() for name, x in operands.items()}
            leaf = logits.detach().to(dtype).requires_grad_()
            attention = {name: x for name, x in leaves.items() if name == "attention"}

            def mu():
                return oracle.attended(lam.to(dtype), leaves.get("attention"))

            y = oracle.probabilities(target, problem.c, smoothing, IGNORE, dtype)
            mixed = oracle.mixed(mu(), oracle.per_location(y, problem.spatial))
            loss = oracle.cross_entropy(leaf, mixed, problem.reduction)
            embeddings = loss_and_gradients(oracle.mixed(mu(), leaves["input"]), leaves)
            return embeddings, loss_and_gradients(loss, {"logits": leaf} | attention), mixed.detach()

        one, two = plain(dtype), plain(torch.float64)
        z, a = operands["input"].detach().abs().max().item(), operands.get("attention")
        smallest = 1.0 if a is None else a.detach()[a.detach() > 0].min().item() if a.any() else 1.0
        # Embeddings are sums of weights times values, gradients of attention sums of weights over attention.
        size = {"loss": z, "input": 1.5 * problem.n, "attention": problem.n * problem.d * z / smallest}
        assert_accurate(loss_and_gradients(mixture.embeddings, operands), one[0], two[0], size)
        attention = {name: x for name, x in operands.items() if name == "attention"}
        rows = {"mean": 1, "sum": problem.n * lam[0, 0].numel(), "none": 1}[problem.reduction]
        size = {"loss": rows * 2 * logits.detach().abs().max().item(), "logits": 1.5}
        size["attention"] = problem.n * size["loss"] / smallest
        assert_accurate(loss_and_gradients(loss, {"logits": logits} | attention), one[1], two[1], size)
        exact = plain(torch.float64, smoothing=0.0)[2]
        found = mixture.targets(target, problem.c)
        assert_as_accurate(found, plain(found.dtype, smoothing=0.0)[2], exact)

    holds()


@examples(60, 1500)
def test_weights(number, backend, device):
    """The stream's weights, evaluated in NumPy apart from the library."""

    @many(number)
    @given(st.data(), st.integers(0, 2**64 - 1), st.integers(1, 12), st.integers(1, 9), st.sampled_from(SPATIAL))
    def holds(data, seed, n, b, spatial):
        m = data.draw(st.one_of(st.none(), st.integers(1, b)))
        row_offset = data.draw(st.sampled_from([0, 1, 2**32 - 3, 2**62]))
        alpha = data.draw(alphas())
        alpha = np.linspace(0.3, 3.0, b) if alpha == "per example" else alpha
        r = int(np.prod(spatial))
        attention = data.draw(
            st.none() | st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=b * r, max_size=b * r)
        )
        options = dict(
            m=m, alpha=torch.tensor(alpha, device=device) if isinstance(alpha, np.ndarray) else alpha, seed=seed,
            row_offset=row_offset, backend=backend,
        )  # fmt: skip
        if attention is None:
            found = mk.sample_dirichlet(n, b, spatial=spatial, device=device, **options)
        else:
            attention = torch.tensor(attention).reshape(b, *spatial)
            x = torch.ones(b, 1, *spatial, device=device)
            found = mk.multimix(x, attention=attention.to(device), n=n, **options).weights()
            attention = attention.reshape(b, r).numpy()
        exact = stream.weights(seed, n, b, m=m, alpha=alpha, r=r, row_offset=row_offset, attention=attention)
        assert_same_weights(found, torch.from_numpy(exact).reshape(found.shape))

    holds()


@examples(100, 1500)
def test_low_precision_is_the_loss_of_the_rounded_operands(number, backend, device):
    """In bfloat16 and float16: what the same operands give in float32, to two roundings of the dtype."""

    @many(number)
    @given(problems(["scores"]), st.sampled_from([torch.bfloat16, torch.float16]), layouts())
    def holds(problem, dtype, layout):
        operands = {name: laid_out(x, layout) for name, x in problem.scores(dtype, device).items()}
        wide = {name: x.detach().float().requires_grad_() for name, x in operands.items()}
        found = loss_and_gradients(problem.score_loss(operands, backend), operands)
        exact = loss_and_gradients(problem.score_loss(wide, backend), wide)
        size = sizes(problem, wide, problem.lam(backend, torch.float32, device).cpu(), wide.get("attention"))
        assume(max(size.values()) < torch.finfo(dtype).max)  # where float16 holds the gradients
        for name, value in found.items():
            assert value.dtype == (torch.float32 if name == "loss" else dtype)
            error = (value.float() - exact[name]).abs().max()
            largest = max(exact[name].abs().max(), size[name])
            assert error <= 2 * torch.finfo(dtype).eps * largest, f"{name}: error {error:.3g} of {largest:.3g}"

    holds()


FUNCTIONS = {
    mk.multimix_cross_entropy: lambda: dict(input=torch.ones(4, 3), target=torch.arange(4), weight=torch.ones(5, 3)),
    mk.dense_multimix_cross_entropy: lambda: dict(
        input=torch.ones(4, 3, 2), target=torch.arange(4), weight=torch.ones(5, 3)
    ),
    mk.mixed_cross_entropy: lambda: dict(scores=torch.ones(4, 5), target=torch.arange(4)),
    mk.multimix: lambda: dict(input=torch.ones(4, 3)),
    mk.sample_dirichlet: lambda: dict(n=3, b=4),
    mk.attention_map: lambda: dict(input=torch.ones(4, 3, 2)),
    mk.MultiMixHead: lambda: dict(in_features=3, out_features=5),
}
# Flags take what Python takes for true and false; the others are those of torch.
NOT_OURS = ("device", "dtype", "in_features", "out_features", "dense", "attention_grad", "clamp_m")
OPTIONS = [
    (function, name)
    for function in FUNCTIONS
    for name in inspect.signature(function).parameters
    if name not in NOT_OURS and not (function is mk.MultiMixHead and name == "bias")
]


@pytest.mark.filterwarnings("ignore")
@examples(400, 4000)
def test_any_argument_is_taken_or_refused_by_name(number):
    """Never another kind of error, and no message that does not say which argument it is about."""

    @many(number)
    @given(st.sampled_from(OPTIONS), anything())
    def holds(option, value):
        function, name = option
        assume(name not in ("n", "b") or not isinstance(value, int) or not 100 < value < 2**63)  # right, and long
        arguments = {"n": 3} | FUNCTIONS[function]() | {name: value}
        if function is mk.attention_map:
            arguments.pop("n")
        text = refusal(lambda: function(**arguments))
        known = [*inspect.signature(function).parameters]
        assert not text or re.match(rf"(Type|Value)Error: ({'|'.join(known)}): ", text), f"{name}={value!r}: {text}"

    holds()
