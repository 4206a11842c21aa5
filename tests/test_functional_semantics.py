"""What the losses mean: identities, ignored examples, dead locations, strides, seeds, shards, autocast."""

import pytest
import torch
import torch.nn.functional as F

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from .support import oracle
from .support.bounds import assert_as_accurate, assert_close
from .support.cases import DENSE, IGNORE, PLAIN, loss_and_gradients

GIVEN = DENSE.but("given", attention="given", attention_grad=True)


def exactness(dtype):
    return 1e-12 if dtype == torch.float64 else 1e-5


# Identities of the mathematics.


@pytest.mark.parametrize("problem", [PLAIN, PLAIN.but("subset", m=3, reduction="none"), GIVEN], ids=str)
def test_mixing_scores_is_mixing_embeddings(problem, backend, device, best_dtype):
    operands = problem.operands(best_dtype, device)
    expected = loss_and_gradients(problem.loss(operands, backend), operands)
    x = operands["input"]
    scores = torch.einsum("bd...,cd->bc...", x, operands["weight"])
    scores = scores + operands["bias"].reshape(-1, *(1,) * len(problem.spatial))
    loss = mk.mixed_cross_entropy(
        scores, problem.target().to(device), attention=operands.get("attention"), **problem.options(backend, device)
    )
    actual = loss_and_gradients(loss, operands)
    for name, value in actual.items():
        assert_close(value, expected[name], exactness(best_dtype), name)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_shifting_the_scores_of_an_example_changes_nothing(size, backend, device, best_dtype):
    operands = GIVEN.scores(best_dtype, device)
    expected = loss_and_gradients(GIVEN.score_loss(operands, backend), operands)
    shift = size * torch.randn(GIVEN.b, 1, *GIVEN.spatial, generator=torch.Generator().manual_seed(1))
    shifted = operands | {"scores": (operands["scores"].detach() + shift.to(operands["scores"])).requires_grad_()}
    actual = loss_and_gradients(GIVEN.score_loss(shifted, backend), shifted)
    for name, value in actual.items():
        assert_close(value, expected[name], exactness(best_dtype) * max(10, size), name)


def test_huge_scores_do_not_overflow(backend, device):
    """exp of these is infinite; the loss is not."""
    operands = PLAIN.scores(torch.float32, device)
    scores = (operands["scores"].detach() * 3000).requires_grad_()
    found = loss_and_gradients(PLAIN.score_loss({"scores": scores}, backend), {"scores": scores})
    assert all(x.isfinite().all() for x in found.values())
    exact = {"scores": scores.detach().double().requires_grad_()}
    exact = loss_and_gradients(PLAIN.plain_loss(exact, PLAIN.lam(backend, torch.float32, device)), exact)
    assert_close(found["loss"], exact["loss"], 1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_target_half_of_the_gradient_is_a_gram_matrix_times_targets(soft, backend, device, best_dtype):
    """d loss / d s = M^T Q - (M^T M) Y, summed over rows."""
    problem = PLAIN.but("", reduction="sum", soft=soft)
    operands = problem.scores(best_dtype, device)
    found = torch.autograd.grad(problem.score_loss(operands, backend), operands["scores"])[0]
    mu = problem.lam(backend, best_dtype, device).to(best_dtype)
    y = oracle.probabilities(problem.target().to(device), problem.c, 0.0, IGNORE, best_dtype)
    q = torch.softmax(mu @ operands["scores"].detach(), 1)
    assert_close(found, mu.T @ q - (mu.T @ mu) @ y, exactness(best_dtype))
    assert_close(found.sum(1) + 1, torch.ones_like(found[:, 0]), exactness(best_dtype))  # no row moves by a shift


def test_gradients_of_a_row_sum_to_zero_over_classes(backend, device, best_dtype):
    operands = GIVEN.scores(best_dtype, device)
    found = loss_and_gradients(GIVEN.score_loss(operands, backend), operands)["scores"]
    assert found.sum(1).abs().max() <= exactness(best_dtype) * found.abs().max()


@pytest.mark.parametrize("scale", [0.25, 1e-12, 1e12])
def test_attention_has_no_scale(scale, backend, device, best_dtype):
    """Weights are normalised at each location, so a factor cancels, and divides the gradient."""
    operands = GIVEN.scores(best_dtype, device)
    expected = loss_and_gradients(GIVEN.score_loss(operands, backend), operands)
    scaled = operands | {"attention": (operands["attention"].detach() * scale).requires_grad_()}
    actual = loss_and_gradients(GIVEN.score_loss(scaled, backend), scaled)
    actual["attention"] *= scale
    for name, value in actual.items():
        assert_close(value, expected[name], exactness(best_dtype), name)
    along = (actual["attention"] * operands["attention"].detach()).sum(0)  # Euler: nothing changes along the ray
    assert along.abs().max() <= exactness(best_dtype)


def test_order_of_locations_only_names_the_draws(backend, device, best_dtype):
    """(2, 3) locations are the same six locations as (6,)."""
    operands = GIVEN.scores(best_dtype, device)
    expected = GIVEN.score_loss(operands, backend, reduction="none")
    flat = {"scores": operands["scores"].flatten(2), "attention": operands["attention"].flatten(1)}
    assert torch.equal(GIVEN.score_loss(flat, backend, reduction="none"), expected.flatten(1))


# Ignored examples.


@pytest.mark.parametrize("problem", [PLAIN, PLAIN.but("subset", m=3), DENSE, DENSE.but("subset", m=2)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_examples_do_not_matter(problem, smoothing, backend, device, best_dtype):
    problem = problem.but("", ignored=2, smoothing=smoothing)
    operands = problem.operands(best_dtype, device)
    expected = loss_and_gradients(problem.loss(operands, backend), operands)
    assert not expected["input"][1:3].any()
    assert expected["input"][3:].any()
    other = operands | {"input": operands["input"].detach().clone()}
    other["input"][1:3] = 5
    other["input"].requires_grad_()
    actual = loss_and_gradients(problem.loss(other, backend), other)
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


def test_ignored_equals_dropped_at_the_end(backend, device, best_dtype):
    """Draws are named by example: ignoring the last examples is as if they were not in the batch."""
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).to(device, best_dtype)
    target = torch.tensor([0, 1, 2, 3, 0, 1, IGNORE, IGNORE, IGNORE], device=device)
    for m in (None, 3):
        options = dict(n=30, m=m, seed=1, reduction="none", backend=backend)
        whole = mk.mixed_cross_entropy(x, target, **options)
        part = mk.mixed_cross_entropy(x[:6], target[:6], **options)
        assert_close(whole, part, exactness(best_dtype))


@pytest.mark.parametrize("problem", [PLAIN, DENSE, GIVEN, PLAIN.but("subset", m=3)], ids=str)
@pytest.mark.parametrize("kind", ["linear", "scores"])
def test_every_example_ignored(problem, kind, backend, device):
    make, evaluate = {"linear": (problem.operands, problem.loss), "scores": (problem.scores, problem.score_loss)}[kind]
    operands = make(torch.float32, device)
    problem = problem.but("", ignored=problem.b)
    evaluate = problem.loss if kind == "linear" else problem.score_loss
    target = problem.target()
    target[:] = IGNORE
    object.__setattr__(problem, "target", lambda: target)
    assert evaluate(operands, backend, reduction="mean").isnan()
    for reduction in ("mean", "sum", "none"):
        loss = evaluate(operands, backend, reduction=reduction)
        if reduction != "mean":
            assert not loss.any()
        for gradient in torch.autograd.grad(loss.sum(), list(operands.values())):
            assert not gradient.any()


def test_mean_divides_by_all_rows(backend, device, best_dtype):
    """Every row mixes the examples that are left, so there is no row to leave out."""
    problem = PLAIN.but("", ignored=4)
    operands = problem.operands(best_dtype, device)
    total = problem.loss(operands, backend, reduction="sum")
    assert_close(problem.loss(operands, backend), total / problem.n, exactness(best_dtype))


@pytest.mark.parametrize("ignore_index", [0, 2, -1, 255])
def test_any_index_can_be_ignored(ignore_index, backend, device):
    x = torch.randn(5, 4, device=device)
    target = torch.tensor([1, 3, 1, 3, 1], device=device)
    expected = target.clone()
    target[2], expected[2] = ignore_index, IGNORE
    options = dict(n=9, seed=1, label_smoothing=0.1, backend=backend)
    found = mk.mixed_cross_entropy(x, target, ignore_index=ignore_index, **options)
    assert torch.equal(found, mk.mixed_cross_entropy(x, expected, **options))
    weight = torch.randn(4, 4, device=device)
    assert torch.equal(
        mk.multimix_cross_entropy(x, target, weight, ignore_index=ignore_index, **options),
        mk.multimix_cross_entropy(x, expected, weight, **options),
    )


# Dead locations.


def test_dead_location_uses_uniform_attention(backend, device, best_dtype):
    problem = GIVEN.but("", reduction="none")
    operands = problem.scores(best_dtype, device)
    dead = operands["attention"].detach().clone()
    dead[:, 0, 1] = 0
    operands["attention"] = dead.requires_grad_()
    rows = problem.score_loss(operands, backend)
    uniform = problem.score_loss({"scores": operands["scores"]}, backend)
    assert_close(rows[:, 0, 1], uniform[:, 0, 1], exactness(best_dtype))
    assert (rows[:, 0, 0] != uniform[:, 0, 0]).any()
    gradient = torch.autograd.grad(rows.sum(), dead)[0]
    assert not gradient[:, 0, 1].any()
    assert gradient[:, 0, 0].any()
    assert gradient.isfinite().all()


def test_subset_without_attention_is_uniform_over_the_subset(backend, device, best_dtype):
    """Half of the examples have attention; some rows of two choose none of these."""
    problem = GIVEN.but("", m=2, n=60, reduction="none", spatial=(1,))
    operands = problem.scores(best_dtype, device)
    attention = operands["attention"].detach().clone()
    attention[: problem.b // 2 + 1] = 0
    lam = problem.lam(backend, best_dtype, device)
    without = ~((lam > 0) & (attention > 0)).any(1)
    assert without.any()
    assert not without.all()
    operands["attention"] = attention.requires_grad_()
    rows = problem.score_loss(operands, backend)
    exact = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
    truth = problem.plain_loss(exact, lam)
    plain = problem.plain_loss(operands, lam)
    assert_as_accurate(rows, plain, truth)
    uniform = problem.score_loss({"scores": operands["scores"]}, backend)
    assert_close(rows[without], uniform[without], exactness(best_dtype))
    names = ("scores", "attention")
    found, same, expected = (
        torch.autograd.grad(x.sum(), [o[k] for k in names])
        for x, o in ((rows, operands), (plain, operands), (truth, exact))
    )
    for one, two, three in zip(found, same, expected, strict=True):
        assert_as_accurate(one, two, three)


def test_all_maps_dead(backend, device, best_dtype):
    """ReLU attention of nothing but negative activations: everything is uniform."""
    x = torch.rand(4, 3, 5, device=device, dtype=best_dtype)
    weight = -torch.rand(3, 3, device=device, dtype=best_dtype)
    target = torch.tensor([0, 1, 2, 0], device=device)
    options = dict(n=7, seed=1, backend=backend)
    found = mk.dense_multimix_cross_entropy(x, target, weight, attention="cam", **options)
    assert_close(
        found, mk.dense_multimix_cross_entropy(x, target, weight, attention="uniform", **options), exactness(best_dtype)
    )


# Layouts.


def layouts(x):
    yield "transposed", x.movedim(0, -1).contiguous().movedim(-1, 0)
    yield "sliced", torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
    yield "offset", torch.cat([torch.full_like(x[:1], torch.nan), x])[1:]
    if x.dim() == 4:
        yield "channels last", x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("problem", [PLAIN, GIVEN, GIVEN.but("none", reduction="none"), DENSE], ids=str)
def test_strides_do_not_matter(problem, backend, device):
    for make, evaluate in ((problem.operands, problem.loss), (problem.scores, problem.score_loss)):
        operands = make(torch.float32, device)
        expected = loss_and_gradients(evaluate(operands, backend), operands)
        for name, x in operands.items():
            for layout, y in layouts(x.detach()):
                changed = operands | {name: y.requires_grad_()}
                actual = loss_and_gradients(evaluate(changed, backend), changed)
                for key, value in actual.items():
                    assert_close(value, expected[key], 1e-5, f"{layout} {name}: {key}")


def test_expanded_operands(backend, device):
    one = torch.randn(1, 4, 1, device=device)
    x = one.expand(5, 4, 6).detach().requires_grad_()
    attention = torch.rand(5, 1, device=device).expand(5, 6)
    target, row = torch.tensor([0, 1, 2, 3, 0], device=device), torch.rand(1, 4, device=device).softmax(1)
    for y in (target, row.expand(5, 4)):
        options = dict(n=7, seed=1, backend=backend)
        loss = mk.mixed_cross_entropy(x, y, attention=attention, **options)
        whole = x.detach().contiguous().requires_grad_()
        expected = mk.mixed_cross_entropy(whole, y.contiguous(), attention=attention.contiguous(), **options)
        assert_close(loss, expected, 1e-6)
        assert_close(torch.autograd.grad(loss, x)[0], torch.autograd.grad(expected, whole)[0], 1e-5)


# Rows and seeds.


@pytest.mark.parametrize("problem", [PLAIN, PLAIN.but("far", row_offset=2**32 - 3, m=3), GIVEN], ids=str)
def test_shards_add_up(problem, backend, device, best_dtype):
    """Rows in two calls: losses and gradients of the sum add up."""
    problem = problem.but("", reduction="sum")
    for make, name in ((problem.operands, "loss"), (problem.scores, "score_loss")):
        operands = make(best_dtype, device)
        whole = loss_and_gradients(getattr(problem, name)(operands, backend), operands)
        first, second = (
            problem.but("", n=stop - start, row_offset=problem.row_offset + start) for start, stop in ((0, 4), (4, 11))
        )
        parts = getattr(first, name)(operands, backend) + getattr(second, name)(operands, backend)
        for key, value in loss_and_gradients(parts, operands).items():
            assert_close(value, whole[key], exactness(best_dtype), key)


def test_seeds_and_generators(backend, device):
    operands = PLAIN.operands(torch.float32, device)

    def loss(**options):
        return PLAIN.loss(operands, backend, **({"seed": None} | options))

    by_int, by_tensor = loss(seed=7), loss(seed=torch.tensor([7], device=device))
    assert torch.equal(by_int, by_tensor)
    assert torch.equal(by_int, loss(seed=torch.tensor(7, device=device)))
    assert not torch.equal(by_int, loss(seed=8))
    state = torch.get_rng_state()
    g = torch.Generator(device).manual_seed(5)
    first, second = loss(generator=g), loss(generator=g)
    assert not torch.equal(first, second)
    assert torch.equal(first, loss(generator=g.manual_seed(5)))
    loss(seed=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("problem", [PLAIN.but("", b=65, n=700, c=33), GIVEN.but("", b=40, n=300, c=70)])
def test_bitwise_equal_from_run_to_run(problem, backend, device):
    torch.use_deterministic_algorithms(False)
    results = []
    for _ in range(2):
        operands = problem.operands(torch.float32, device)
        results.append(loss_and_gradients(problem.loss(operands, backend), operands))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


@pytest.mark.parametrize("problem", [PLAIN.but("", b=65, n=700, c=33), GIVEN.but("", b=40, n=300, c=70)])
def test_number_of_threads_does_not_matter(problem, backend, device):
    if TABLE[backend].devices != ("cpu",):
        pytest.skip("promised of the kernels for the CPU")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            operands = problem.scores(torch.float32, device)
            results.append(loss_and_gradients(problem.score_loss(operands, backend), operands))
    finally:
        torch.set_num_threads(before)
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
        assert torch.equal(value, results[2][name]), name


# Autocast.


@pytest.mark.parametrize("problem", [PLAIN, PLAIN.but("none", reduction="none"), GIVEN], ids=str)
@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
def test_autocast_does_not_reach_into_the_loss(problem, inside, backend, device):
    """Scores in float32 are mixed in float32: the operators do their own rounding, autocast or not."""
    operands = problem.scores(torch.float32, device)
    expected = loss_and_gradients(problem.score_loss(operands, backend), operands)
    with torch.autocast(device.type, torch.bfloat16):
        loss = problem.score_loss(operands, backend)
        if inside:
            actual = loss_and_gradients(loss, operands)
    if not inside:
        actual = loss_and_gradients(loss, operands)
    assert loss.dtype == torch.float32
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("problem", [PLAIN.but("wide", b=20, d=40), GIVEN], ids=str)
def test_autocast_of_a_linear_head(problem, backend, device):
    """Matrix products in bfloat16; loss and gradients as accurate as plain PyTorch's under autocast."""
    pooled = []
    for draw in range(8):
        case = problem.but("", seed=draw)
        operands = case.operands(torch.float32, device)
        lam = case.lam(backend, torch.float32, device)
        with torch.autocast(device.type, torch.bfloat16):
            losses = case.loss(operands, backend), case.plain_loss(operands, lam)
        assert losses[0].dtype == torch.float32
        exact = {k: v.detach().double().requires_grad_() for k, v in operands.items()}
        pairs = (losses[0], operands), (losses[1], operands), (case.plain_loss(exact, lam), exact)
        pooled.append([loss_and_gradients(*pair) for pair in pairs])
    for name in pooled[0][0]:
        assert_as_accurate(*(torch.stack([draw[k][name].float() for draw in pooled]) for k in range(3)), name)


def test_autocast_takes_a_float32_classifier_for_bfloat16_features(backend, device):
    x = torch.randn(6, 4, device=device).bfloat16()
    weight = torch.randn(3, 4, device=device, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0, 1, 2], device=device)
    with torch.autocast(device.type, torch.bfloat16):
        loss = mk.multimix_cross_entropy(x, target, weight, n=50, seed=1, backend=backend)
    loss.backward()
    assert loss.dtype == weight.grad.dtype == torch.float32
    clean = F.cross_entropy(F.linear(x.float(), weight), target)
    assert 0.1 < loss / clean < 10
