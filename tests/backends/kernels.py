"""Tests of every operator and option of a GPU backend that runs on the CPU here, against the reference.

`triton/interpreted.py` and `cuda/simulated.py` import them, each in a process of its own for which
MULTIMIX_TESTED_BACKEND is set, and provide the fixture `regime`: which kernels the mixed loss takes whatever the sizes.
Sizes are small, as every thread is simulated.
"""

import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels.backends.contract import MEAN, NONE, SUM
from multimix_kernels.ops import OPERATORS

from ..support import plain
from ..support import stream as independent
from ..support.bounds import assert_as_accurate, assert_same_weights

EXPECTED = json.loads((Path(__file__).parent / "reference" / "weight_stream_v2.json").read_text())["cases"]
NAME = os.environ["MULTIMIX_TESTED_BACKEND"]
operators, reference = (SimpleNamespace(**OPERATORS[name]) for name in (NAME, "reference"))
FAR = 2**40 + 2**32 - 9  # rows whose low word overflows


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_of(n, b, m=None, alpha=None, low=0.5, high=2.0, offset=FAR, seed=77):
    return torch.tensor([seed]), alpha, n, b if m is None else m, low, high, offset


def attention_of(r, b):
    """With an example that takes no part, and a location without any attention."""
    a = randn(r, b, seed=3).abs()
    a[:, 0] = 0
    if r > 1:
        a[-1] = 0
    return a.float()


def targets(b, c, dtype, soft=False, ignored=0):
    if soft:
        return (randn(b, c, seed=5).softmax(1)).to(dtype), None
    y = torch.randint(c, (b,), generator=torch.Generator().manual_seed(5))
    y[1 : 1 + ignored] = -100
    return y, y == -100 if ignored else None


def compare(name, arguments, dtype):
    """An operator against float64, by its plain evaluation in the dtype of its operands."""
    wide = [
        x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype == dtype else x
        for x in arguments
    ]
    actual = getattr(operators, name)(*arguments)
    exact = getattr(reference, name)(*wide)
    near = getattr(reference, name)(*arguments) if dtype == torch.float32 else plain.evaluate(NAME, name, arguments)
    if isinstance(actual, torch.Tensor):
        actual, exact = (actual,), (exact,)
    if isinstance(near, torch.Tensor):
        near = (near,)
    for k, (x, y, z) in enumerate(zip(actual, exact, near, strict=True)):
        assert x.shape == y.shape == z.shape
        if x.numel():
            assert not x.isnan().any(), f"{name}: output {k}"
            assert_as_accurate(x, z, y, f"{name}, output {k}")


@pytest.mark.parametrize("case", EXPECTED, ids=lambda c: f"b{c['b']}-{c['alpha_is']}-m{c['m']}-seed{c['seed']}")
def test_weight_stream(case):
    alpha = case["alpha"]
    if case["alpha_is"] == "per_example":
        alpha = torch.tensor(alpha, dtype=torch.float64)
    elif case["alpha_is"] == "range":
        alpha = tuple(alpha)
    if case["location"] > 3:
        pytest.skip("each location is drawn: slow here")
    found = mk.sample_dirichlet(
        case["n"], case["b"], m=case["m"], alpha=alpha, spatial=(case["location"] + 1,), seed=case["seed"],
        row_offset=case["row_offset"], backend=NAME,
    )[..., -1]  # fmt: skip
    assert_same_weights(found, torch.tensor(case["weights"], dtype=torch.float64))


@pytest.mark.parametrize("options", [
    dict(), dict(alpha=(3.0, 1000.0)), dict(alpha=0.31), dict(alpha=(0.01, 0.3)), dict(alpha=(4.0, 4.0)),
], ids=str)  # fmt: skip
def test_many_weights(options):
    n, b = 256, 65
    found = mk.sample_dirichlet(n, b, seed=5, backend=NAME, **options)
    exact = mk.sample_dirichlet(n, b, seed=5, backend="reference", dtype=torch.float64, **options)
    assert_same_weights(found, exact, rows=math.ceil(1e-5 * n * b))


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.011), (0.03, 0.05), (4.0, 5.0), (900.0, 1000.0)])
def test_concentrations_of_examples(low, high):
    """No number in float32: at the smallest alpha each digit of the slack that is lost is a hundred of the weight's."""
    alpha = torch.linspace(low, high, 33, dtype=torch.float64)
    found, exact = (
        mk.sample_dirichlet(64, 33, alpha=alpha, seed=5, backend=name, dtype=dtype)
        for name, dtype in ((NAME, torch.float32), ("reference", torch.float64))
    )
    assert_same_weights(found, exact)


@pytest.mark.parametrize("b", [8, 9])
def test_weights_in_float16(b):
    """Small weights are rounded and no more, though as operands of products they may be held above zero."""
    for m in (None, b // 2):
        found, exact = (
            mk.sample_dirichlet(64, b, m=m, seed=5, alpha=0.05, backend=name, dtype=dtype).double()
            for name, dtype in ((NAME, torch.float16), ("reference", torch.float64))
        )
        assert ((found - exact).abs() <= 2**-11 * exact * (1 + 2**-6) + 2**-25).all()


def test_tiny_gammas():
    """One of row 441598's is so small that a difference of logarithms overflows where they are in fixed point."""
    found, exact = (
        mk.sample_dirichlet(1, 4, alpha=0.01, seed=1, row_offset=441598, backend=NAME),
        mk.sample_dirichlet(1, 4, alpha=0.01, seed=1, row_offset=441598, backend="reference", dtype=torch.float64),
    )
    assert_same_weights(found, exact)


def test_subsets_attention_and_ignored_examples():
    for m, alpha in ((5, None), (1, None), (33, torch.linspace(0.05, 3, 33, dtype=torch.float64))):
        ignored = torch.arange(33) % 4 == 1
        arguments = (33, 3, torch.float32, attention_of(3, 33), ignored, *draw_of(9, 33, m, alpha))
        assert_same_weights(
            operators.sample(*arguments).mT, reference.sample(*arguments[:2], torch.float64, *arguments[3:]).mT
        )


@pytest.mark.parametrize("ignored", [None, 3], ids=str)
@pytest.mark.parametrize("b", [2, 5, 33, 129])
def test_subsets(b, ignored):
    """Few examples and nearly all, on both sides of half of the candidates, among all and where every third is ignored.

    Exactly those that the stream names.
    """
    left_out = None if ignored is None else torch.arange(b) % ignored == 1
    count = b if left_out is None else b - int(left_out.sum())
    for m in sorted({1, count // 2, count // 2 + 1, count - 1, count} & set(range(1, b))):
        arguments = (b, 2, torch.float32, None, left_out, *draw_of(35, b, m))
        found, exact = (
            f.sample(*arguments[:2], dtype, *arguments[3:])
            for f, dtype in ((operators, torch.float32), (reference, torch.float64))
        )
        assert torch.equal(found > 0, exact > 0), m
        assert_same_weights(found.permute(1, 2, 0), exact.permute(1, 2, 0))


def test_every_example_ignored():
    y = torch.full((4,), -100)
    s = randn(1, 4, 3).float()
    for reduction in (MEAN, SUM, NONE):
        for wanted in (False, True):
            tail = (attention_of(1, 4), torch.ones(4, dtype=torch.bool), *draw_of(5, 4))
            loss, grad, _ = operators.mixed_cross_entropy(s, y, 0.1, -100, reduction, True, wanted, *tail)
            assert loss.isnan().all() if reduction == MEAN else not loss.any()
            assert not grad.any()


@pytest.mark.parametrize("options", [
    dict(), dict(soft=True, smoothing=0.1, reduction=NONE), dict(ignored=2, m=3, smoothing=0.1, reduction=SUM),
    dict(r=3, attended=True), dict(b=33, c=20, n=67, smoothing=0.2, alpha=0.05), dict(c=1), dict(b=1), dict(n=1),
    dict(dtype=torch.bfloat16), dict(dtype=torch.bfloat16, soft=True, r=2, attended=True, reduction=SUM),
], ids=str)  # fmt: skip
def test_mixed_cross_entropy(options, regime):
    o = (
        dict(
            b=7,
            c=5,
            r=1,
            n=11,
            m=None,
            soft=False,
            smoothing=0.0,
            ignored=0,
            attended=False,
            reduction=MEAN,
            alpha=0,
            dtype=torch.float32,
        )
        | options
    )
    b, c, r, n, dtype = (o[k] for k in ("b", "c", "r", "n", "dtype"))
    y, ignored = targets(b, c, dtype, o["soft"], o["ignored"])
    scores = (3 * randn(r, b, c)).to(dtype)
    attention = attention_of(r, b) if o["attended"] else None
    draw = draw_of(n, b, o["m"], low=o["alpha"] or 0.5, high=o["alpha"] or 2.0)
    tail = (o["attended"], attention, ignored, *draw)
    compare("mixed_cross_entropy", (scores, y, o["smoothing"], -100, o["reduction"], True, *tail), dtype)
    upstream = 1e3 * randn(r, n, seed=9).float()
    compare("mixed_cross_entropy_backward", (upstream, scores, y, o["smoothing"], -100, True, *tail), dtype)


def test_half_precision(regime):
    """Row gradients beyond the range of float16 too."""
    y, _ = targets(7, 5, torch.float16)
    scores, upstream = (3 * randn(1, 7, 5)).half(), 1e6 * randn(1, 11, seed=9).float()
    compare("mixed_cross_entropy", (scores, y, 0.1, -100, SUM, True, False, None, None, *draw_of(11, 7)), torch.float16)
    tail = (scores, y, 0.1, -100, True, False, None, None, *draw_of(11, 7))
    compare("mixed_cross_entropy_backward", (upstream, *tail), torch.float16)


def test_mixed_cross_entropy_of_many_examples_and_classes():
    """More than one tile in every direction."""
    scores, (y, _) = 3 * randn(1, 150, 70).float(), targets(150, 70, torch.float32)
    tail = (SUM, True, False, None, None, *draw_of(130, 150))
    compare("mixed_cross_entropy", (scores, y, 0.1, -100, *tail), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("soft", "c"), [(False, 70), (True, 70), (False, 1)])
def test_soft_cross_entropy(soft, c, dtype):
    b, r, n = 17, 2, 21
    logits = (3 * randn(r, n, c)).to(dtype)
    y, _ = targets(b, c, dtype, soft, 0 if soft else 2)
    tail = (True, True, attention_of(r, b), None, *draw_of(n, b))
    for reduction in (NONE, MEAN):
        compare("soft_cross_entropy", (logits, y, 0.1, -100, reduction, *tail), dtype)
    upstream = 1e3 * randn(r, n, seed=9).float()
    compare("soft_cross_entropy_backward", (upstream, logits, y, 0.1, -100, *tail), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mix(dtype):
    b, r, n, d = 33, 2, 21, 70
    values, attention = randn(r, b, d).to(dtype), attention_of(r, b)
    for m in (b, 5):
        compare("mix", (values, attention, None, *draw_of(n, b, m)), dtype)
    compare(
        "mix_backward", (randn(r, n, d, seed=2).to(dtype), values, True, True, attention, None, *draw_of(n, b)), dtype
    )


def test_strides():
    """Operands in any layout give the same bits."""
    y, _ = targets(7, 5, torch.float32)
    scores = randn(7, 5, 3).float().permute(2, 0, 1)
    logits = randn(11, 5, 3).float().permute(2, 0, 1)
    for name, x in (("mixed_cross_entropy", scores), ("soft_cross_entropy", logits)):
        tail = (y, 0.0, -100, MEAN, True, True, attention_of(3, 14)[:, ::2], None, *draw_of(11, 7))
        for one, other in zip(
            getattr(operators, name)(x, *tail), getattr(operators, name)(x.contiguous(), *tail), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("split", [1, 4])
def test_shards_equal_the_whole(split, regime):
    scores, target = randn(6, 5).float(), torch.tensor([0, 1, 2, 3, 4, 0])
    options = dict(seed=3, reduction="none", backend=NAME)
    whole = mk.mixed_cross_entropy(scores, target, n=9, row_offset=FAR, **options)
    shards = [
        mk.mixed_cross_entropy(scores, target, n=count, row_offset=FAR + first, **options)
        for first, count in ((0, split), (split, 9 - split))
    ]
    assert torch.allclose(torch.cat(shards), whole, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 5, 2**40])
def test_label_out_of_range_makes_the_loss_nan(label, regime):
    y = torch.tensor([0, label, 2])
    for name, x in (("mixed_cross_entropy", randn(1, 3, 5).float()), ("soft_cross_entropy", randn(1, 4, 5).float())):
        loss, *_ = getattr(operators, name)(x, y, 0.0, -100, MEAN, True, False, None, None, *draw_of(4, 3))
        assert loss.isnan()


def test_nan_and_infinity_reach_the_loss(regime):
    for bad in (float("nan"), float("inf")):
        scores = randn(4, 30).float()
        scores[1, 7] = bad
        assert mk.mixed_cross_entropy(scores, torch.zeros(4, dtype=torch.int64), n=8, seed=0, backend=NAME).isnan()


def test_seed_is_read_from_memory():
    seed = torch.tensor([5])
    first = mk.sample_dirichlet(4, 3, seed=seed, backend=NAME)
    seed.fill_(5 - 2**63)
    assert not torch.equal(first, mk.sample_dirichlet(4, 3, seed=seed, backend=NAME))


def test_tiny_attention_does_not_vanish():
    attention = torch.full((6, 2), 1e-44)
    attention[0] = 1.0
    found, exact = (
        mk.multimix(torch.randn(6, 3, 2), attention=attention, n=60, m=2, alpha=0.5, seed=1, backend=name).weights()
        for name in (NAME, "reference")
    )
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-30)


def test_ignored_examples_may_hold_anything(regime):
    """The same bits, and no gradient: NaN there reaches no sum."""
    y, ignored = targets(7, 5, torch.float32, ignored=2)
    attention = attention_of(1, 7) if regime == "large" else None
    tail = (y, 0.1, -100, MEAN, True, attention is not None, attention, ignored, *draw_of(11, 7))
    scores = randn(1, 7, 5).float()
    clean = operators.mixed_cross_entropy(scores, *tail)
    mixed = operators.mix(scores, attention, ignored, *draw_of(11, 7))
    scores[:, ignored] = float("nan")
    for one, other in zip(operators.mixed_cross_entropy(scores, *tail), clean, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(operators.mix(scores, attention, ignored, *draw_of(11, 7)), mixed)


def test_compiled_without_graph_breaks():
    def step(x, target, weight):
        mixture = mk.multimix(x, n=4, seed=2, backend=NAME)
        other = mixture.cross_entropy(mixture.embeddings @ weight.T, target)
        return other + mk.multimix_cross_entropy(x, target, weight, n=8, seed=1, backend=NAME)

    x, weight = randn(5, 4).float(), randn(3, 4).float().requires_grad_()
    target = torch.tensor([0, 1, 2, 0, 1])
    torch._dynamo.reset()
    losses = [f(x, target, weight) for f in (step, torch.compile(step, fullgraph=True, backend="aot_eager"))]
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in losses]
    assert torch.equal(*gradients)


def test_outputs_have_the_shapes_of_the_fakes():
    assert OPERATORS[NAME].keys() == OPERATORS["reference"].keys()
    y, _ = targets(5, 4, torch.float32)
    for wanted in itertools.product((False, True), repeat=2):
        tail = (attention_of(2, 5), None, *draw_of(6, 5))
        arguments = (randn(2, 5, 4).float(), y, 0.0, -100, MEAN, *wanted, *tail)
        for one, other in zip(
            OPERATORS[NAME]["mixed_cross_entropy"](*arguments),
            reference.mixed_cross_entropy(*arguments),
            strict=True,
        ):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_independent_weights():
    exact = torch.from_numpy(independent.weights(9, 12, 10, m=4, alpha=(0.5, 2.0), row_offset=FAR))
    found = mk.sample_dirichlet(12, 10, m=4, spatial=(1,), row_offset=FAR, seed=9, backend=NAME)
    assert_same_weights(found, exact)


@pytest.mark.parametrize("masked", [1, 260])
@pytest.mark.parametrize("soft", [False, True])
def test_masked_classes_cost_nothing(soft, masked, regime):
    """Classes whose scores are all -inf, and whose targets are zero: one, or tiles of nothing else."""
    y = torch.tensor([0, 3, 1, 2, 0])
    hot = torch.nn.functional.one_hot(y, 4).float()
    scores = randn(1, 5, 4).float()
    wide = torch.cat((torch.full((1, 5, masked), -torch.inf), scores), 2)
    targets = (hot, torch.cat((torch.zeros(5, masked), hot), 1)) if soft else (y, y + masked)
    for name in ("mixed_cross_entropy", "soft_cross_entropy"):
        tail = (0.0, -100, MEAN, True, False, None, None, *draw_of(5, 5))
        one, other = (getattr(operators, name)(*x, *tail) for x in zip((scores, wide), targets, strict=True))
        assert torch.allclose(one[0], other[0], rtol=1e-6)
        assert torch.allclose(one[1], other[1][..., masked:], atol=1e-6)
        assert not other[1][..., :masked].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_masked_class_of_an_example_without_weight(soft, dtype):
    """The mixed targets are zero there."""
    attention, y = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0]]), torch.tensor([0, 3, 1, 2, 0])
    logits = randn(1, 6, 5).to(dtype)
    logits[..., 3] = -torch.inf
    y = torch.nn.functional.one_hot(y, 5).to(dtype) if soft else y
    arguments = (logits, y, 0.0, -100, SUM, True, False, attention, None, *draw_of(6, 5))
    found, expected = (f.soft_cross_entropy(*arguments) for f in (operators, reference))
    eps = torch.finfo(dtype).eps
    assert torch.allclose(found[0], expected[0].float(), rtol=2 * eps if dtype != torch.float32 else 1e-6)
    assert torch.allclose(found[1], expected[1].float(), atol=2 * eps)


def test_attention_gradient_where_weights_overflow():
    """Gammas of examples without attention are e^88 times those of the others, whose gradients are finite."""
    attention = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0]])
    tail = (torch.arange(8) % 3, 0.0, -100, SUM, False, True, attention, None, *draw_of(400, 8, low=0.02, high=0.02))
    found, expected = (f.mixed_cross_entropy(randn(1, 8, 3).float(), *tail)[2] for f in (operators, reference))
    assert torch.allclose(found[:, :2], expected[:, :2].float(), rtol=1e-4)


def test_negative_targets(regime):
    """What is not a probability is not looked at."""
    target = randn(7, 5, seed=4).float()
    assert (target.sum(1) < 0).any()
    tail = (target, 0.1, -100, SUM, True, True, attention_of(1, 7), None, *draw_of(11, 7))
    compare("mixed_cross_entropy", (3 * randn(1, 7, 5).float(), *tail), torch.float32)
