"""What every backend is held to in the corners: masked classes, losses near zero, weights of zero, the smallest alpha.

`tests/test_corners.py` runs them for the backends that are available, `triton/interpreted.py` and `cuda/simulated.py`
for theirs. They provide the fixture `regime`: which kernels the mixed loss takes whatever the sizes, the first of them
"small" or None. Sizes are small, as threads may be simulated.
"""

import math
import os

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import ops
from multimix_kernels.backends import TABLE
from multimix_kernels.backends.contract import MEAN, NONE, SUM, Draw, LossOptions, Want

from ..support import exact
from ..support.bounds import RELATIVE, assert_as_accurate, assert_close
from ..support.oracle import probabilities

B, C, N = 7, 5, 11
BOTH = Want(True, True)
LOSSES = tuple(exact.LOSSES)
SIMULATED = "MULTIMIX_TESTED_BACKEND" in os.environ  # every thread: there the longer lists are slow tests
DTYPES = (torch.float32,) if SIMULATED else (torch.float32, torch.float64)
MASKS = ("-inf", "finfo.min")


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_of(device, m=B, n=N, low=0.5, high=2.0, seed=78):
    return Draw(torch.tensor([seed], device=device), None, n, m, low, high, 3)


def takes(backend, device, dtype):
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")


def weights(backend, device, draw, attention=None, dtype=torch.float32):
    """The backend's own weights (r, n, b), normalised in float64."""
    r = 1 if attention is None else len(attention)
    mu = ops.call(backend, "sample", B, r, dtype, attention, None, draw).double().cpu()
    return mu / mu.sum(-1, keepdim=True)


def once(name, regime):
    """Regimes differ in the mixed loss only."""
    if not name.startswith("mixed") and regime not in (None, "small"):
        pytest.skip("the same kernels in every regime")


def loss_of(backend, device, name, operand, target, options, draw, attention=None):
    """The loss, its gradients of the operand and of the attention, on the CPU."""
    arguments = (operand.to(device), target.to(device), options, BOTH._replace(attention=attention is not None))
    attention = None if attention is None else attention.to(device)
    return [x.cpu() for x in ops.call(backend, name, *arguments, attention, None, draw)]


def targets(kind, c=C, avoid=None):
    """Labels that agree or differ, or probabilities; class `avoid` has no target."""
    allowed = [k for k in range(c) if k != avoid]
    labels = torch.tensor([allowed[(3 * i) % len(allowed)] for i in range(B)])
    if kind == "probabilities":
        y = randn(B, c, seed=5).softmax(1)
        if avoid is not None:
            y[:, avoid] = 0
        return y / y.sum(1, keepdim=True)
    return labels if kind == "labels" else torch.full((B,), allowed[1])


def more(*values):
    """Parameters that are left to the slow tests where threads are simulated."""
    return [
        pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow if SIMULATED else ())
        for v in values
    ]


def masked_value(mask, dtype):
    return -math.inf if mask == "-inf" else torch.finfo(dtype).min


# ---- losses near zero, and offsets


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("gap", "offset"), [
    (0.0, 1e6), (10.0, 0.0), (1e4, 1e4),
    *more((0.0, 0.0), (3.0, 100.0), (10.0, -1e4), (30.0, 0.0), (1e4, 0.0), (1e6, 1e6)),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["one label", "labels", "probabilities"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_keeps_its_digits(name, kind, gap, offset, dtype, backend, device, regime):
    """The error is that of plain PyTorch without the offset, relative to the loss and not to the scores."""
    takes(backend, device, dtype)
    once(name, regime)
    draw, target = draw_of(device), targets(kind)
    y = probabilities(target, C, 0.0, -100, torch.float64)
    mu = weights(backend, device, draw, dtype=dtype)
    best = y if name == LOSSES[0] else exact.mixed(mu, y.expand(1, -1, -1))[0]
    x = (randn(*best.shape) + gap * torch.nn.functional.one_hot(best.argmax(-1), C) + offset).to(dtype)
    x = x + offset * torch.arange(len(x)).view(-1, 1).to(dtype)  # another one for each example
    rows, gradient = exact.LOSSES[name](mu, x[None], y)
    found, found_gradient, _ = loss_of(
        backend, device, name, x[None], target.to(dtype) if target.dim() == 2 else target,
        LossOptions(0.0, -100, NONE), draw,
    )  # fmt: skip
    near = (x.double() - x.double().amax(-1, keepdim=True)).to(dtype)[None].requires_grad_()
    logits = mu.to(dtype) @ near if name == LOSSES[0] else near
    plain = -(mu.to(dtype) @ y.to(dtype) * torch.log_softmax(logits, -1)).sum(-1)
    (plain_gradient,) = torch.autograd.grad(plain.sum(), near)
    assert (found >= 0).all()
    assert_as_accurate(found, plain, rows, "rows")
    found_gradient = loss_of(
        backend, device, name, x[None], target.to(dtype) if target.dim() == 2 else target,
        LossOptions(0.0, -100, SUM), draw,
    )[1]  # fmt: skip
    # The halves of a gradient, softmax and targets, may be summed apart: the error is relative to them.
    halves = mu.sum(1).max() if name == LOSSES[0] else mu.sum(-1).max()
    error, plain_error = ((g.double() - gradient).abs().max() for g in (found_gradient, plain_gradient))
    assert error <= 2 * plain_error + RELATIVE.get(dtype, 1e-6) * halves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("gap", [10.0, 1e3, 3e4])
def test_loss_of_low_precision_is_not_negative(gap, dtype, backend, device, regime):
    target = targets("one label")
    scores = (randn(B, C) + gap * torch.nn.functional.one_hot(target, C)).to(dtype)[None]
    rows, *_ = loss_of(backend, device, LOSSES[0], scores, target, LossOptions(0.0, -100), draw_of(device))
    exact_rows, _ = exact.mixed_loss(
        weights(backend, device, draw_of(device)), scores, probabilities(target, C, 0, -100, torch.float64)
    )
    assert (rows >= 0).all()
    assert (rows <= 1.5 * exact_rows.max() + torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("value", [-1e38, 1e38])
@pytest.mark.parametrize("name", LOSSES)
def test_scores_near_the_end_of_the_range(name, value, backend, device, regime):
    """Equal scores, whatever their value: no padding of a tile counts as a class."""
    once(name, regime)
    x = torch.full((1, B if name == LOSSES[0] else N, C), value)
    rows, *_ = loss_of(backend, device, name, x, targets("labels"), LossOptions(0.0, -100), draw_of(device))
    torch.testing.assert_close(rows, torch.full_like(rows, math.log(C)), rtol=2e-6, atol=0)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_attention_gradient_keeps_its_digits(offset, backend, device, regime):
    """Scores on a grid that the offset leaves alone: the same gradient with and without it."""
    scores = (4 * randn(1, B, C)).round() / 4
    found = [
        loss_of(
            backend, device, LOSSES[0], (scores + shift).float(), targets("labels"), LossOptions(0.1, -100, SUM),
            draw_of(device), torch.linspace(0.5, 2, B).view(1, B),
        )[2]
        for shift in (0.0, offset)
    ]  # fmt: skip
    assert_close(found[1], found[0].double(), 1e-5)


# ---- masked classes


@pytest.mark.parametrize("options", [
    dict(m=2), dict(attended=True, m=3), *more(dict(), dict(alpha=0.01), dict(attended=True)),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", LOSSES)
def test_class_that_is_masked_everywhere(name, mask, kind, options, backend, device, regime):
    """The loss and gradients of the other classes; none of its own. Weights of zero among the examples."""
    once(name, regime)
    low, high = (options["alpha"],) * 2 if "alpha" in options else (0.5, 2.0)
    draw = draw_of(device, options.get("m", B), low=low, high=high)
    attention = (randn(2, B, seed=3).clamp(min=0) + torch.eye(2, B)).float() if "attended" in options else None
    r = 1 if attention is None else 2
    x = 3 * randn(r, B if name == LOSSES[0] else N, C).float()
    x[..., 2] = masked_value(mask, torch.float32)
    y = targets(kind, avoid=2)
    kept = [0, 1, 3, 4]
    y_kept = y[:, kept].float() if y.dim() == 2 else y - (y > 2).long()
    full, small = (
        loss_of(backend, device, name, a, b, LossOptions(0.0, -100, SUM), draw, attention)
        for a, b in ((x, y.float() if y.dim() == 2 else y), (x[..., kept].contiguous(), y_kept))
    )
    assert_close(full[0], small[0].double(), 2e-6, "loss")
    assert not full[1][..., 2].any()
    assert_close(full[1][..., kept], small[1].double(), 2e-6, "gradient")
    if attention is not None:
        assert full[2].isfinite().all()
        assert_close(full[2], small[2].double(), 1e-5, "attention")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("mask", MASKS)
def test_class_that_is_masked_for_some(mask, kind, dtype, backend, device, regime):
    """It exists in rows that mix only examples that have it."""
    takes(backend, device, dtype)
    draw = draw_of(device, m=2)
    scores = 3 * randn(1, B, C).to(dtype)
    scores[0, 1:4, 2] = masked_value(mask, dtype)
    y = targets(kind, avoid=2).to(dtype) if kind == "probabilities" else targets(kind, avoid=2)
    mu = weights(backend, device, draw, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    masked_rows = (mu[0, :, 1:4] > 0).any(-1)
    assert masked_rows.any()
    assert not masked_rows.all()
    values = scores.double().masked_fill(scores == masked_value(mask, dtype), -math.inf)
    rows, gradient = exact.mixed_loss(mu, values, probabilities(y, C, 0.0, -100, torch.float64))
    found, *_ = loss_of(backend, device, LOSSES[0], scores, y, LossOptions(0.0, -100, NONE), draw)
    _, found_gradient, _ = loss_of(backend, device, LOSSES[0], scores, y, LossOptions(0.0, -100, SUM), draw)
    bound = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    assert_close(found, rows, bound, "rows")
    assert not found_gradient[0, 1:4, 2].any()
    assert_close(found_gradient, gradient, bound, "gradient")


@pytest.mark.parametrize(("dtype", "mask"), [
    (torch.float32, "-inf"), (torch.bfloat16, "-inf"), (torch.float16, "-inf"), (torch.float16, "finfo.min"),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("attended", [False, *more(True)])
def test_small_weights_of_masked_classes(attended, dtype, mask, backend, device, regime):
    """However small its weight, an example that lacks a class takes it away."""
    draw = draw_of(device, low=0.1, high=0.1, n=40)
    scores = 3 * randn(1, B, C).to(dtype)
    scores[0, 1, 2] = masked_value(mask, dtype)
    attention = torch.linspace(0.5, 2, B).view(1, B) if attended else None
    mu = weights(backend, device, draw, attention)
    assert ((mu[0, :, 1] > 0) & (mu[0, :, 1] < 1e-5)).any()
    y = targets("labels", avoid=2)
    values = scores.double()
    values[0, 1, 2] = -math.inf
    rows, gradient = exact.mixed_loss(mu, values, probabilities(y, C, 0.0, -100, torch.float64))
    found, *_ = loss_of(backend, device, LOSSES[0], scores, y, LossOptions(0.0, -100, NONE), draw, attention)
    _, found_gradient, _ = loss_of(backend, device, LOSSES[0], scores, y, LossOptions(0.0, -100, SUM), draw, attention)
    bound = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    assert_close(found, rows, bound, "rows")
    assert not found_gradient[0, 1, 2].any()
    assert_close(found_gradient, gradient, bound, "gradient")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("mask", MASKS)
def test_target_on_a_masked_class(mask, kind, smoothing, backend, device, regime):
    """It costs infinity, as in F.cross_entropy; the rows without it cost what they did. No gradient is NaN."""
    draw, target = draw_of(device, m=2), targets("labels", avoid=2)
    target[0] = 2
    scores = 3 * randn(1, B, C).float()
    scores[0, 1:4, 2] = masked_value(mask, torch.float32)
    y = probabilities(target, C, smoothing, -100, torch.float64)
    mu = weights(backend, device, draw)
    target = probabilities(target, C, 0.0, -100, torch.float32) if kind == "probabilities" else target
    values = scores.double().masked_fill(scores == masked_value(mask, torch.float32), -math.inf)
    rows, _ = exact.mixed_loss(mu, values, y)
    assert rows.isinf().any()
    assert not rows.isinf().all()
    found, *_ = loss_of(backend, device, LOSSES[0], scores, target, LossOptions(smoothing, -100, NONE), draw)
    assert (found[rows.isinf()] > 1e30).all()
    assert_close(found[rows.isfinite()], rows[rows.isfinite()], 2e-6)
    loss, gradient, _ = loss_of(backend, device, LOSSES[0], scores, target, LossOptions(smoothing, -100, MEAN), draw)
    assert loss > 1e30
    assert gradient.isfinite().all()
    if mask == "-inf":
        assert not gradient[0, 1:4, 2].any()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_masked_logits_of_any_head(kind, mask, backend, device):
    """In some rows, where the mixed target is zero or not."""
    draw, target = draw_of(device, m=2), targets("labels", avoid=2)
    target[0] = 2
    logits = 3 * randn(1, N, C).float()
    logits[0, ::2, 2] = masked_value(mask, torch.float32)
    y = probabilities(target, C, 0.0, -100, torch.float64)
    target = y.float() if kind == "probabilities" else target
    values = logits.double().masked_fill(logits == masked_value(mask, torch.float32), -math.inf)
    mu = weights(backend, device, draw)
    rows, gradient = exact.soft_loss(mu, values, y)
    found, *_ = loss_of(backend, device, LOSSES[1], logits, target, LossOptions(0.0, -100, NONE), draw)
    infinite = rows.isinf()
    assert infinite.any()
    assert not infinite.all()
    assert (found[infinite] > 1e30).all()
    assert_close(found[~infinite], rows[~infinite], 2e-6)
    _, found_gradient, _ = loss_of(backend, device, LOSSES[1], logits, target, LossOptions(0.0, -100, SUM), draw)
    assert found_gradient.isfinite().all()
    assert_close(found_gradient[~infinite], gradient[~infinite], 2e-6)


def test_bias_of_minus_infinity(backend, device):
    """A classifier with a class that is switched off, and few examples in each mixture."""
    z, w, target = randn(B, 4).float(), randn(3, 4, seed=2).float(), torch.arange(B) % 2
    bias = torch.tensor([0.3, -0.2, -math.inf])
    full, small = (
        mk.multimix_cross_entropy(
            z.to(device), target.to(device), w[:c].to(device), bias[:c].to(device), n=50, m=2, seed=3, backend=backend
        )
        for c in (3, 2)
    )
    torch.testing.assert_close(full, small, rtol=2e-6, atol=0)


# ---- weights of zero


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_example_that_is_not_drawn_may_hold_anything(bad, backend, device, regime):
    """The same bits, but for the last where it is a mask; and no gradient of its own."""
    draw, attention = draw_of(device, m=2, n=4), torch.linspace(0.5, 2, B).view(1, B)
    mu = weights(backend, device, draw)
    free = (mu == 0).all(1)[0]
    assert free.any()
    results = []
    for value in (0.0, bad):
        scores = randn(1, B, C).float()
        scores[:, free] = value
        for given in (None, attention):
            results.append(
                loss_of(backend, device, LOSSES[0], scores, targets("labels"), LossOptions(0.1, -100), draw, given)
                + [ops.call(backend, "mix", scores.to(device), None, None, draw).cpu()]
            )
        gradients = ops.call(
            backend, "mix_backward", randn(1, 4, C, seed=2).float().to(device), scores.to(device), BOTH,
            attention.to(device), None, draw,
        )  # fmt: skip
        results[-1] += [g.cpu() for g in gradients]
    # Tensor cores cut sums off relative to the largest exponent of a product, that of zero times a mask too.
    cut_off = 2.0**-21 if bad == -math.inf and SIMULATED else 0
    for clean, found in ((results[0], results[2]), (results[1], results[3])):
        for x, y in zip(clean, found, strict=True):
            assert torch.equal(x, y) or (x - y).abs().max() <= cut_off * x.abs().max().clamp(min=1)
        assert not found[1][:, free].any()


@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_of_an_example_that_is_not_drawn_may_be_nan(name, attended, backend, device, regime):
    """The same bits, and what has a weight makes its rows NaN and no other one."""
    once(name, regime)
    draw, attention = draw_of(device, m=2, n=4), torch.linspace(0.5, 2, B).view(1, B) if attended else None
    mu = weights(backend, device, draw)
    free = (mu == 0).all(1)[0]
    assert free.any()
    x = randn(1, B if name == LOSSES[0] else 4, C).float()
    results = []
    for value in (0.0, math.nan):
        y = targets("probabilities").float()
        y[free] = value
        results.append(loss_of(backend, device, name, x, y, LossOptions(0.1, -100), draw, attention))
    assert all(map(torch.equal, *results))
    y = targets("probabilities").float()
    y[0, 1] = math.nan
    rows, *_ = loss_of(backend, device, name, x, y, LossOptions(0.0, -100, NONE), draw, attention)
    assert torch.equal(rows.isnan(), mu[..., 0] > 0)


def test_probabilities_of_an_example_without_attention_may_be_nan(backend, device, regime):
    """All are drawn, and one counts for nothing."""
    attention = torch.linspace(0, 2, B).view(1, B)
    results = []
    for value in (0.0, math.nan):
        y = targets("probabilities").float()
        y[0] = value
        arguments = (randn(1, B, C).float(), y, LossOptions(0.1, -100, NONE), Want(True, False))
        found = ops.call(
            backend, LOSSES[0], *(x.to(device) for x in arguments[:2]), *arguments[2:], attention.to(device), None,
            draw_of(device),
        )  # fmt: skip
        results.append([x.cpu() for x in found[:1]])
    assert all(map(torch.equal, *results))


def test_nan_with_a_weight_reaches_its_rows(backend, device, regime):
    draw = draw_of(device, m=2)
    scores = randn(1, B, C).float()
    scores[0, 2, 1] = math.nan
    rows, *_ = loss_of(backend, device, LOSSES[0], scores, targets("labels"), LossOptions(0.0, -100, NONE), draw)
    drawn = weights(backend, device, draw)[..., 2] > 0
    assert drawn.any()
    assert not drawn.all()
    assert torch.equal(rows.isnan(), drawn)


@pytest.mark.parametrize("scale", [1, 10, 1000])
def test_attention_gradient_is_finite(scale, backend, device):
    """One example in each mixture, and softmax attention of features so large that most of it is zero."""
    torch.manual_seed(0)
    z, w = (scale * torch.randn(8, 8, 4, 4)).to(device).requires_grad_(), torch.randn(5, 8).to(device).requires_grad_()
    loss = mk.dense_multimix_cross_entropy(
        z, (torch.arange(8) % 5).to(device), w, n=20, m=1, attention_activation="softmax", attention_grad=True, seed=1,
        backend=backend,
    )  # fmt: skip
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()
    assert w.grad.isfinite().all()


# ---- the smallest concentration


def test_smallest_alpha_as_float32(backend, device):
    """The nearest float32 to 0.01 is below it, and is taken for it."""
    found = [
        mk.sample_dirichlet(20, B, alpha=alpha, seed=4, backend=backend, device=device)
        for alpha in (0.01, torch.full((B,), 0.01, device=device))
    ]
    assert torch.allclose(found[1].sum(1), torch.ones(20, device=device), rtol=1e-5)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_smallest_alpha_loses_no_row(backend, device, regime):
    draw, target = draw_of(device, low=0.01, high=0.01, n=40), targets("labels")
    scores = (3 * randn(1, B, C)).float()
    rows, *_ = loss_of(backend, device, LOSSES[0], scores, target, LossOptions(0.0, -100, NONE), draw)
    y = probabilities(target, C, 0.0, -100, torch.float64)
    expected, _ = exact.mixed_loss(weights(backend, device, draw), scores, y)
    assert_close(rows, expected, 1e-5)
