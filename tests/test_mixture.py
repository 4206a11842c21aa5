"""multimix and its Mixture: embeddings, targets, weights, and the loss of any head's logits."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from .support import oracle
from .support.bounds import assert_as_accurate, assert_close
from .support.cases import IGNORE, loss_and_gradients

B, D, C, N = 7, 5, 4, 9
LABELS = torch.tensor([0, 1, 2, 3, 0, IGNORE, 2])
SPATIALS = [(), (3,), (2, 3)]


def operands(spatial, dtype, device, attended):
    g = torch.Generator().manual_seed(1)
    found = {"input": torch.randn(B, D, *spatial, generator=g, dtype=torch.float64)}
    if attended:
        found["attention"] = torch.rand(B, *spatial, generator=g, dtype=torch.float64)
        found["attention"][0] = 0
    return {k: v.to(device, dtype).requires_grad_() for k, v in found.items()}


def mixture_of(x, backend, **options):
    return mk.multimix(x["input"], attention=x.get("attention"), **{"n": N, "seed": 3, "backend": backend} | options)


def exact_weights(x, mixture, m=None):
    """lambda (n, b, *spatial): the draw without attention."""
    spatial = x["input"].shape[2:]
    dtype = torch.float64 if x["input"].dtype == torch.float64 else torch.float32
    lam = mk.sample_dirichlet(
        N, B, m=m, spatial=tuple(spatial), seed=mixture.seed, dtype=dtype, device=x["input"].device,
        backend=mixture._backend,
    )  # fmt: skip
    return lam.double()


@pytest.mark.parametrize("spatial", SPATIALS, ids=str)
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("m", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_embeddings_and_gradients(spatial, attended, m, dtype, backend, device):
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")
    x = operands(spatial, dtype, device, attended)
    mixture = mixture_of(x, backend, m=m)
    assert mixture.embeddings.shape == (N, D, *spatial)
    assert mixture.embeddings.dtype == dtype
    lam = exact_weights(x, mixture, m)

    def plain(x):
        return oracle.mixed(oracle.attended(lam.to(x["input"].dtype), x.get("attention")), x["input"])

    exact = {k: v.detach().double().requires_grad_() for k, v in x.items()}
    found, same, truth = (
        loss_and_gradients(y, o) for y, o in ((mixture.embeddings, x), (plain(x), x), (plain(exact), exact))
    )
    for name, value in found.items():
        assert_as_accurate(value, same[name], truth[name], name)


@pytest.mark.parametrize("spatial", SPATIALS, ids=str)
@pytest.mark.parametrize("attended", [False, True])
def test_weights_made_the_embeddings(spatial, attended, backend, device, best_dtype):
    x = operands(spatial, best_dtype, device, attended)
    mixture = mixture_of(x, backend, m=4)
    mu = mixture.weights()
    assert mu.shape == (N, B, *spatial)
    assert mu.dtype == best_dtype
    assert not mu.requires_grad
    tight = 1e-12 if best_dtype == torch.float64 else 1e-6
    assert_close(mixture.embeddings, oracle.mixed(mu, x["input"]), tight)
    assert ((mu > 0).sum(1) <= 4).all()
    assert_close(mu.sum(1), torch.ones_like(mu[:, 0]), tight)
    assert_close(mu, oracle.attended(exact_weights(x, mixture, 4), x.get("attention")).to(best_dtype), tight)


@pytest.mark.parametrize("spatial", SPATIALS, ids=str)
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_targets(spatial, attended, soft, backend, device, best_dtype):
    x = operands(spatial, best_dtype, device, attended)
    mixture = mixture_of(x, backend)
    target = torch.rand(B, C, dtype=best_dtype).softmax(1).to(device) if soft else LABELS.to(device)
    found = mixture.targets(target, C)
    y = oracle.probabilities(target, C, 0.0, IGNORE, torch.float64)
    assert found.shape == (N, C, *spatial)
    assert not found.requires_grad
    assert found.dtype == (best_dtype if soft else torch.float32)
    expected = oracle.mixed(mixture.weights().double(), oracle.per_location(y, spatial))
    assert_close(found, expected, 1e-12 if found.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("spatial", SPATIALS, ids=str)
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("options", [
    {}, dict(reduction="sum"), dict(reduction="none"), dict(label_smoothing=0.1), dict(soft=True),
    dict(soft=True, label_smoothing=0.3, reduction="none"), dict(ignore_index=2),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy(spatial, attended, options, dtype, backend, device):
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")
    options = dict(options)
    soft = options.pop("soft", False)
    g = torch.Generator().manual_seed(2)
    ignore = options.get("ignore_index", IGNORE)
    target = torch.where(LABELS == IGNORE, ignore, LABELS).to(device)
    if soft:  # multiples of 1/64 are exact in every dtype
        counts = torch.rand(B, C, generator=g).multinomial(64, replacement=True, generator=g)
        target = (nn.functional.one_hot(counts, C).sum(1) / 64).to(device, dtype)
    x = operands(spatial, dtype, device, attended)
    mixture = mixture_of(x, backend)
    lam = exact_weights(x, mixture)

    def plain(leaves):
        dtype = leaves["logits"].dtype
        mu = oracle.attended(lam.to(dtype), leaves.get("attention"))
        y = oracle.probabilities(target, C, options.get("label_smoothing", 0.0), ignore, dtype)
        mixed = oracle.mixed(mu, oracle.per_location(y, spatial))
        return oracle.cross_entropy(leaves["logits"], mixed, options.get("reduction", "mean"))

    results = []
    for _ in range(6 if dtype == torch.bfloat16 else 1):  # where rounding is coarse, one scalar may be lucky
        logits = (3 * torch.randn(N, C, *spatial, generator=g)).to(device, dtype).requires_grad_()
        leaves = {"logits": logits} | {k: v for k, v in x.items() if k == "attention"}
        exact = {k: v.detach().double().requires_grad_() for k, v in leaves.items()}
        loss = mixture.cross_entropy(logits, target, **options)
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        losses = (loss, leaves), (plain(leaves), leaves), (plain(exact), exact)
        results.append([loss_and_gradients(*pair) for pair in losses])
    for name in results[0][0]:
        assert_as_accurate(*(torch.stack([draw[k][name] for draw in results]) for k in range(3)), name)


def test_any_head(backend, device, best_dtype):
    """A head that is not linear, in the general path; the oracle makes the same mixture."""
    torch.manual_seed(1)
    head = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C)).to(device, best_dtype)
    x = operands((), best_dtype, device, False)
    target = LABELS.clamp(min=0).to(device)
    mixture = mixture_of(x, backend)
    loss = mixture.cross_entropy(head(mixture.embeddings), target)
    mu = mixture.weights()
    exact = nn.functional.cross_entropy(head(mu @ x["input"]), mixture.targets(target, C).to(best_dtype))
    parameters = [x["input"], *head.parameters()]
    tight = 1e-6  # targets are float32
    assert_close(loss, exact, tight)
    for one, two in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(exact, parameters), strict=True):
        assert_close(one, two, tight)


def test_linear_head_equals_the_fused_loss(backend, device, best_dtype):
    x = operands((2, 3), best_dtype, device, True)
    weight = torch.randn(C, D, device=device, dtype=best_dtype, requires_grad=True)
    target = LABELS.clamp(min=0).to(device)
    leaves = x | {"weight": weight}
    mixture = mixture_of(x, backend)
    logits = torch.einsum("nd...,cd->nc...", mixture.embeddings, weight)
    one = loss_and_gradients(mixture.cross_entropy(logits, target), leaves)
    fused = mk.dense_multimix_cross_entropy(
        x["input"], target, weight, attention=x["attention"], attention_grad=True, n=N, seed=3, backend=backend
    )
    for name, value in loss_and_gradients(fused, leaves).items():
        assert_close(value, one[name], 1e-12 if best_dtype == torch.float64 else 1e-5, name)


@pytest.mark.parametrize("attended", [False, True])
def test_gradcheck(attended, backend, best_dtype):
    if best_dtype != torch.float64:
        pytest.skip("finite differences need float64")
    x = operands((2,), torch.float64, "cpu", attended)
    if attended:
        x["attention"] = (x["attention"].detach() + 0.1).requires_grad_()
    names = list(x)
    gradcheck(
        lambda *values: mixture_of(dict(zip(names, values, strict=True)), backend, n=3).embeddings,
        tuple(x.values()),
        fast_mode=True,
    )

    def loss(logits, *values):
        mixture = mixture_of(dict(zip(names, values, strict=True)), backend, n=3)
        return mixture.cross_entropy(logits, LABELS, reduction="none", label_smoothing=0.1)

    logits = torch.randn(3, C, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    gradcheck(loss, (logits, *x.values()), fast_mode=True)


def test_seed_names_the_mixture(backend, device):
    x = operands((), torch.float32, device, False)
    mixture = mk.multimix(x["input"], n=N, backend=backend)
    assert mixture.seed.shape == (1,)
    assert mixture.seed.dtype == torch.int64
    again = mk.multimix(x["input"], n=N, seed=mixture.seed, backend=backend)
    assert torch.equal(mixture.embeddings, again.embeddings)
    assert torch.equal(mixture.weights(), mixture.weights())
    other = mk.multimix(x["input"], n=N, backend=backend)
    assert not torch.equal(other.embeddings, mixture.embeddings)


def test_mixture_keeps_its_own_seed(backend, device):
    """Targets must be those of the embeddings, whatever becomes of the user's tensor."""
    seed = torch.tensor([3], device=device)
    mixture = mk.multimix(torch.randn(B, D, device=device), n=N, seed=seed, backend=backend)
    before = mixture.weights(), mixture.targets(LABELS.to(device), C)
    seed += 1
    assert torch.equal(mixture.weights(), before[0])
    assert torch.equal(mixture.targets(LABELS.to(device), C), before[1])


@pytest.mark.parametrize("m", [None, 3])
def test_mixture_keeps_its_own_attention_and_alpha(m, backend, device):
    """The same for these: what the caller does to them later changes nothing, and gradients still flow."""
    attention = torch.rand(B, 2, device=device)
    alpha = torch.full((B,), 0.5, dtype=torch.float64, device=device)
    leaf = attention.clone().requires_grad_()
    found = []
    for change in (False, True):
        given = leaf * 1
        mixture = mk.multimix(
            torch.ones(B, D, 2, device=device), attention=given, alpha=alpha, m=m, n=N, seed=3, backend=backend
        )
        if change:
            with torch.no_grad():
                given.mul_(torch.arange(1, B + 1, device=device)[:, None])
                alpha.fill_(5.0)
        logits = torch.randn(N, C, 2, generator=torch.Generator().manual_seed(1)).to(device)
        loss = mixture.cross_entropy(logits, LABELS.to(device))
        (grad,) = torch.autograd.grad(loss, leaf)
        assert grad.any()
        found.append((mixture.weights(), mixture.targets(LABELS.to(device), C), loss.detach(), grad))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("ignore_index", [-1, 2, 99])
def test_targets_leave_out_ignored_examples(ignore_index, backend, device, best_dtype):
    target = torch.tensor([0, 1, 2, 3, ignore_index, 2, ignore_index], device=device)
    mixture = mk.multimix(torch.randn(B, D, device=device, dtype=best_dtype), n=N, seed=3, backend=backend)
    found = mixture.targets(target, C, ignore_index=ignore_index)
    y = oracle.probabilities(target, C, 0.0, ignore_index, torch.float64)
    assert_close(found, mixture.weights().double() @ y, 1e-6)
    logits = torch.randn(N, C, device=device, dtype=best_dtype)
    loss = mixture.cross_entropy(logits, target, ignore_index=ignore_index)
    assert_close(loss, -(found.to(best_dtype) * logits.log_softmax(1)).sum(1).mean(), 1e-6)
    if ignore_index >= C or ignore_index < 0:
        with pytest.raises(ValueError, match=r"^target: .*ignore_index=-100, got"):
            mixture.targets(target, C)


def test_every_example_ignored(backend, device):
    mixture = mixture_of(operands((), torch.float32, device, False), backend)
    logits = torch.randn(N, C, device=device, requires_grad=True)
    target = torch.full((B,), IGNORE, device=device)
    assert mixture.cross_entropy(logits, target).isnan()
    loss = mixture.cross_entropy(logits, target, reduction="sum", label_smoothing=0.1)
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()
    assert not mixture.targets(target, C).any()


def test_logits_of_another_dtype_and_layout(backend, device):
    """A head may compute in another precision than the embeddings; its logits may be strided."""
    x = operands((2, 3), torch.float32, device, True)
    mixture = mixture_of(x, backend)
    logits = torch.randn(N, C, 2, 3, device=device)
    target = LABELS.to(device)
    expected = mixture.cross_entropy(logits, target, reduction="none")
    last = logits.to(memory_format=torch.channels_last)
    assert_close(mixture.cross_entropy(last, target, reduction="none"), expected, 1e-6)
    low = mixture.cross_entropy(logits.bfloat16(), target, reduction="none")
    assert low.dtype == torch.float32
    wide = mixture.cross_entropy(logits.bfloat16().float(), target, reduction="none")
    # Weights may be rounded too, as operands of products.
    assert_close(low, wide, torch.finfo(torch.bfloat16).eps)
