"""MultiMixLoss: what stands in the place of nn.CrossEntropyLoss."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from .support.bounds import assert_close

B, D, C, N = 9, 6, 5, 40
OPTIONS = [
    {}, dict(n=7), dict(m=2), dict(alpha=0.3), dict(alpha=(0.1, 0.2)), dict(label_smoothing=0.2), dict(ignore_index=0),
    dict(reduction="sum"), dict(reduction="none"), dict(alpha=torch.linspace(0.3, 2, B), m=4),
]  # fmt: skip


def problem(device="cpu", dtype=torch.float32, spatial=()):
    """Input, classifier, and labels of which one is ignored."""
    g = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(*s, generator=g).to(device, dtype) for s in ((B, D, *spatial), (C, D), (C,)))
    labels = torch.randint(1, C, (B,), generator=g)
    labels[2] = -100
    return x, weight, bias, labels.to(device)


def with_seed(call):
    torch.manual_seed(4)
    return call()


def on(device, options):
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_training_loss_is_that_of_the_head(options, soft, backend, device, best_dtype):
    """To the last bit, where the backend mixes scores; loss and gradients."""
    x, weight, bias, labels = problem(device, best_dtype)
    options = {"n": N, "backend": backend, **on(device, options)}
    labels = torch.where(labels == -100, options.get("ignore_index", -100), labels)
    target = torch.rand(B, C, device=device, dtype=best_dtype).softmax(1) if soft else labels
    results = []
    for call in ("module", "function"):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        if call == "module":
            loss = with_seed(lambda: mk.MultiMixLoss(**options)(F.linear(*leaves), target))  # noqa: B023
        else:
            loss = with_seed(lambda: mk.multimix_cross_entropy(leaves[0], target, *leaves[1:], **options))  # noqa: B023
        results.append([loss.detach(), *torch.autograd.grad(loss.sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        if TABLE[backend].mixes_embeddings:
            assert_close(found, expected, 1e-12 if best_dtype == torch.float64 else 1e-6)
        else:
            assert torch.equal(found, expected)


@pytest.mark.parametrize("spatial", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_dense_scores(spatial, attended, reduction, backend, device):
    scores, _, _, labels = problem(device, spatial=spatial)
    scores = scores[:, :C].clone().requires_grad_()
    attention = torch.rand(B, *spatial, device=device, requires_grad=True) if attended else None
    criterion = mk.MultiMixLoss(n=N, backend=backend, reduction=reduction)
    found = with_seed(lambda: criterion(scores, labels, attention))
    expected = with_seed(
        lambda: mk.mixed_cross_entropy(scores, labels, attention=attention, n=N, backend=backend, reduction=reduction)
    )
    assert torch.equal(found, expected)
    assert found.shape == ((N, *spatial) if reduction == "none" else ())
    leaves = [scores, attention] if attended else [scores]
    for a, b in zip(*(torch.autograd.grad(loss.sum(), leaves) for loss in (found, expected)), strict=True):
        assert torch.equal(a, b)
        assert a.any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_eval_loss_is_plain_cross_entropy(reduction, soft):
    scores, _, _, labels = problem()
    target = torch.rand(B, C).softmax(1) if soft else labels
    criterion = mk.MultiMixLoss(label_smoothing=0.1, reduction=reduction).eval()
    expected = F.cross_entropy(scores[:, :C], target, label_smoothing=0.1, reduction=reduction)
    state = torch.get_rng_state()
    assert torch.equal(criterion(scores[:, :C], target), expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_eval_loss_of_dense_scores_is_of_their_mean():
    scores, _, _, labels = problem(spatial=(2, 3))
    criterion = mk.MultiMixLoss(ignore_index=2).eval()
    labels[labels == -100] = 2
    expected = F.cross_entropy(scores[:, :C].mean((2, 3)), labels, ignore_index=2)
    assert_close(criterion(scores[:, :C], labels, torch.rand(B, 2, 3)), expected, 1e-6)


def test_it_follows_the_model():
    model = nn.Sequential(nn.Linear(D, C))
    model.criterion = mk.MultiMixLoss(n=N)
    assert not model.eval().criterion.training
    assert model.train().criterion.training
    assert list(model.criterion.parameters()) == []
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def test_concentrations_move_with_the_module_and_are_not_saved():
    criterion = mk.MultiMixLoss(alpha=torch.linspace(0.3, 2, B))
    assert criterion.to("meta").alpha.device.type == "meta"
    assert criterion.state_dict() == {}


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_behave_alike(how):
    scores, _, _, labels = problem()
    criterion = mk.MultiMixLoss(n=N, m=3, alpha=0.7, label_smoothing=0.1, reduction="none")
    twin = how(criterion)
    assert torch.equal(*(with_seed(lambda: each(scores[:, :C], labels)) for each in (criterion, twin)))  # noqa: B023


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gives_a_float32_loss(dtype, backend, device):
    if not TABLE[backend].accepts(device, dtype):
        pytest.skip(f"{backend} does not take {dtype}")
    scores, _, _, labels = problem(device, dtype)
    assert mk.MultiMixLoss(n=N, backend=backend)(scores[:, :C], labels).dtype == torch.float32


def test_all_ignored_is_nan():
    scores, _, _, labels = problem()
    labels.fill_(-100)
    criterion = mk.MultiMixLoss(n=N)
    assert criterion(scores, labels).isnan()
    assert criterion.eval()(scores, labels).isnan()


def test_repr_names_the_options():
    text = repr(mk.MultiMixLoss(n=77, m=3, alpha=0.5))
    for part in ("MultiMixLoss", "n=77", "m=3", "alpha=0.5"):
        assert part in text


@pytest.mark.parametrize(("options", "argument"), [
    (dict(n=0), "n"), (dict(m=B + 1), "m"), (dict(alpha=0.0), "alpha"), (dict(label_smoothing=2), "label_smoothing"),
    (dict(backend="none such"), "backend"), (dict(reduction="what"), "reduction"),
    (dict(ignore_index=0.5), "ignore_index"),
], ids=str)  # fmt: skip
def test_bad_options_are_refused(options, argument):
    scores, _, _, labels = problem()
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        mk.MultiMixLoss(**options)(scores, labels)


def test_trains():
    """Steps on the mixed loss lower the clean loss."""
    torch.manual_seed(0)
    model = nn.Linear(D, C)
    model.criterion = mk.MultiMixLoss(n=200)
    x, target = torch.eye(C, D), torch.arange(C)
    before = model.eval().criterion(model(x), target).item()
    optimiser = torch.optim.SGD(model.train().parameters(), lr=1.0)
    for _ in range(50):
        optimiser.zero_grad()
        model.criterion(model(x), target).backward()
        optimiser.step()
    assert model.eval().criterion(model(x), target).item() < before / 2


def test_compiled():
    """One graph for each mode."""
    scores, _, _, labels = problem()
    criterion = mk.MultiMixLoss(n=N)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    leaf = scores.clone().requires_grad_()
    found = with_seed(lambda: compiled(leaf, labels))
    assert torch.equal(found, with_seed(lambda: criterion(scores, labels)))
    found.backward()
    assert leaf.grad.any()
    criterion.eval()
    assert torch.equal(compiled(scores, labels), F.cross_entropy(scores, labels))
