"""Mixtures of few examples on the CPU, which have kernels of their own: every operator and option against float64."""

import itertools

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import ops
from multimix_kernels.backends.contract import MEAN, NONE, SUM, Draw, LossOptions, Want
from tests.support.bounds import assert_as_accurate, assert_same_weights

pytestmark = pytest.mark.skipif(not mk.available_backends()["cpu"], reason=str(mk.available_backends()["cpu"].reason))

# b, c, r, n, m: up to the widest mixture of few (32) and one more; vectors of 4 to 16 lanes, and columns beyond them.
SIZES = [(5, 2, 1, 21, 2), (33, 10, 3, 40, 1), (33, 17, 1, 200, 4), (128, 100, 2, 129, 2), (64, 49, 1, 300, 32),
         (66, 7, 2, 50, 33), (40, 1, 1, 9, 3)]  # fmt: skip


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(name, *arguments):
    """The results of the CPU, of the reference in the same precision, and of the reference in float64."""
    wide = [x.double() if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x for x in arguments]
    found = [
        ops.call("cpu", name, *arguments),
        ops.call("reference", name, *arguments),
        ops.call("reference", name, *wide),
    ]
    return zip(*([x] if isinstance(x, torch.Tensor) else x for x in found), strict=True)


def draw_of(n, m, alpha=None, low=0.5, high=2.0):
    return Draw(torch.tensor([7]), alpha, n, m, low, high, 2**32 - 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("b", "c", "r", "n", "m"), SIZES)
@pytest.mark.parametrize(
    "variant", ["plain", "soft", "attention", "attention, soft", "ignored", "per example", "small alpha"]
)
def test_every_operator(b, c, r, n, m, variant, dtype):
    attention = ignored = None
    target = torch.randint(c, (b,), generator=torch.Generator().manual_seed(2))
    draw = draw_of(n, m)
    if "soft" in variant:
        target = randn(b, c, seed=5).softmax(1).to(dtype)
    if "attention" in variant:
        attention = randn(r, b, seed=3).relu().to(dtype)
    if variant == "ignored":
        target[::3] = -100
        ignored = target == -100
    if variant == "per example":
        draw = draw_of(n, m, torch.linspace(0.4, 3, b, dtype=torch.float64))
    if variant == "small alpha":
        draw = draw_of(n, m, low=0.02, high=0.1)
    scores, logits, upstream = ((k * randn(r, x, c, seed=k)).to(dtype) for k, x in ((3, b), (2, n), (1, n)))
    tail = (attention, ignored, draw)
    want = Want(True, attention is not None)
    checked = list(both("mix", scores, *tail)) + list(both("mix_backward", upstream, scores, want, *tail))
    for name, operand in (("mixed_cross_entropy", scores), ("soft_cross_entropy", logits)):
        for smoothing, reduction in ((0.0, MEAN), (0.1, SUM), (0.1, NONE)):
            options = LossOptions(smoothing, -100, reduction)
            checked += both(name, operand, target, options, want, *tail)
        checked += both(f"{name}_backward", upstream[..., 0], operand, target, LossOptions(0.1, -100), want, *tail)
    for k, (found, near, exact) in enumerate(checked):
        if found.numel():
            assert_as_accurate(found, near, exact, f"result {k}")


@pytest.mark.parametrize("c", [5, 16, 40])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_masked_classes(c, soft):
    """A class that no example has, and one that every third lacks; no target is there."""
    b, r, n = 30, 2, 70
    scores = randn(r, b, c, seed=3)
    scores[..., 0] = -torch.inf
    scores[:, ::3, c - 1] = -torch.inf
    attention = randn(r, b, seed=4).abs()  # of an example with a mask and no attention it has no derivative
    target = torch.randint(1, c - 1, (b,), generator=torch.Generator().manual_seed(2))
    if soft:
        target = randn(b, c, seed=5).softmax(1)
        target[:, [0, c - 1]] = 0
    operands = [x.float() if x.is_floating_point() else x for x in (scores, target, attention)]
    options, want = LossOptions(0.0, -100, MEAN), Want(True, True)
    for m in (2, 5):
        scores, target, attention = operands
        results = both("mixed_cross_entropy", scores, target, options, want, attention, None, draw_of(n, m))
        for k, (found, near, exact) in enumerate(results):
            assert_as_accurate(found, near, exact, f"m {m}, result {k}")
        _, gradient, _ = ops.call(
            "cpu", "mixed_cross_entropy", scores, target, options, want, attention, None, draw_of(n, m)
        )
        assert (gradient[scores.isinf()] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("c", [3, 16, 21])
def test_layouts_of_locations(c, dtype):
    """Channels first, where locations are neighbours, or locations first: the same bits."""
    b, r = 20, 39  # two whole vectors of locations and more
    x = randn(b, c, r).to(dtype)
    x[3, :, 17] += 1000  # an offset that is taken away
    x[5, 1] = -torch.inf
    target = torch.randint(2, c, (b,), generator=torch.Generator().manual_seed(2))
    neighbours = x.permute(2, 0, 1)
    options, want = LossOptions(0.0, -100, NONE if c == 3 else MEAN), Want(c != 3, False)
    results = [
        ops.call("cpu", "mixed_cross_entropy", scores, target, options, want, None, None, draw_of(17, 2))
        for scores in (neighbours, neighbours.contiguous())
    ]
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("m", [1, 2, 4, 16, 32])
def test_weights(m):
    for alpha, attention in itertools.product(((0.5, 2.0), 0.05, 30.0), (None, randn(2, 70, seed=3).relu().float())):
        low, high = alpha if isinstance(alpha, tuple) else (alpha, alpha)
        draw = draw_of(500, m, low=low, high=high)
        found = ops.call("cpu", "sample", 70, 2, torch.float32, attention, None, draw)
        exact = ops.call("reference", "sample", 70, 2, torch.float64, attention, None, draw)
        assert_same_weights(found.mT, exact.mT, rows=1)
        assert ((found > 0).sum(-1) <= m).all()


def test_same_bits_with_any_number_of_threads():
    scores = randn(90, 11, 3).float().requires_grad_()
    target = torch.randint(11, (90,), generator=torch.Generator().manual_seed(2))

    def results():
        loss = mk.mixed_cross_entropy(scores, target, n=20_000, m=3, seed=5, backend="cpu")
        mixed = mk.multimix(scores, n=3000, m=3, seed=5, backend="cpu").embeddings
        return loss, *torch.autograd.grad(loss, scores), *torch.autograd.grad(mixed.square().sum(), scores)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results()
        for count in (2, 3):
            torch.set_num_threads(count)
            for a, b in zip(one, results(), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_long_sums_do_not_drift():
    """Equal terms, a hundred thousand to an example: chains of sums are kept short."""
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = mk.mixed_cross_entropy(scores, torch.zeros(4, dtype=torch.long), n=400_000, m=1, seed=5, backend="cpu")
    (gradient,) = torch.autograd.grad(loss, scores)
    weights = mk.sample_dirichlet(400_000, 4, m=1, seed=5, backend="cpu").double().mean(0)
    exact = weights.unsqueeze(1) * torch.tensor([[-1.0, 1.0]]) * torch.sigmoid(torch.tensor(-1.0, dtype=torch.float64))
    assert ((gradient.double() - exact).abs() <= 2e-6 * exact.abs()).all()
