"""MultiMixHead: an nn.Linear that also computes the loss."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

import multimix_kernels as mk

from .support.bounds import assert_close

B, D, C = 6, 5, 4


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    return torch.randn(B, D, generator=g), torch.tensor([0, 1, 2, 3, 0, -100])


@pytest.fixture
def maps():
    g = torch.Generator().manual_seed(1)
    return torch.randn(B, D, 2, 3, generator=g), torch.tensor([0, 1, 2, 3, 0, -100])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dense", [True, False])
def test_state_dict_is_that_of_linear(bias, dense):
    head, linear = mk.MultiMixHead(D, C, bias, dense=dense), nn.Linear(D, C, bias)
    assert list(head.state_dict()) == list(linear.state_dict())
    head.load_state_dict(linear.state_dict())
    for name, value in linear.state_dict().items():
        assert torch.equal(head.state_dict()[name], value)
    linear.load_state_dict(mk.MultiMixHead(D, C, bias, dense=dense).state_dict())
    assert isinstance(head, nn.Linear)


def test_initialised_like_linear():
    torch.manual_seed(1)
    head = mk.MultiMixHead(D, C)
    torch.manual_seed(1)
    linear = nn.Linear(D, C)
    assert torch.equal(head.weight, linear.weight)
    assert torch.equal(head.bias, linear.bias)
    assert mk.MultiMixHead(D, C, dtype=torch.float64).weight.dtype == torch.float64
    assert mk.MultiMixHead(D, C, device="meta").weight.device.type == "meta"


def test_without_a_target_it_is_linear(batch):
    head = mk.MultiMixHead(D, C)
    expected = F.linear(batch[0], head.weight, head.bias)
    for mode in (True, False):
        assert torch.equal(head.train(mode)(batch[0]), expected)


def test_dense_logits_are_of_the_mean(maps):
    head = mk.MultiMixHead(D, C, dense=True)
    expected = F.linear(maps[0].mean((2, 3)), head.weight, head.bias)
    for mode in (True, False):
        assert torch.allclose(head.train(mode)(maps[0]), expected, atol=1e-6)
    assert torch.equal(head(maps[0][:, :, 0, 0]), F.linear(maps[0][:, :, 0, 0], head.weight, head.bias))


@pytest.mark.parametrize("options", [
    {}, dict(n=7), dict(m=2), dict(alpha=0.3), dict(alpha=(0.1, 0.2)), dict(label_smoothing=0.2), dict(ignore_index=0),
], ids=str)  # fmt: skip
def test_training_loss(options, batch, backend, device):
    head = mk.MultiMixHead(D, C, backend=backend, **options).to(device)
    x, target = (t.to(device) for t in batch)
    target = torch.where(target == -100, options.get("ignore_index", -100), target)
    torch.manual_seed(2)
    found = head(x, target)
    torch.manual_seed(2)
    expected = mk.multimix_cross_entropy(x, target, head.weight, head.bias, backend=backend, **options)
    assert torch.equal(found, expected)
    found.backward()
    assert head.weight.grad.any()
    assert head.bias.grad.any()


@pytest.mark.parametrize("options", [
    {}, dict(attention="cam"), dict(attention="uniform"), dict(attention_activation="softmax"),
    dict(attention_grad=True), dict(n=7, m=2, alpha=0.3),
], ids=str)  # fmt: skip
def test_dense_training_loss(options, maps, backend, device):
    head = mk.MultiMixHead(D, C, dense=True, backend=backend, **{"n": 50, **options}).to(device)
    x, target = (t.to(device) for t in maps)
    x.requires_grad_()
    torch.manual_seed(2)
    found = head(x, target)
    torch.manual_seed(2)
    expected = mk.dense_multimix_cross_entropy(
        x, target, head.weight, head.bias, backend=backend, **{"n": 50, **options}
    )
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, x)[0], torch.autograd.grad(expected, x)[0])


@pytest.mark.parametrize("dense", [True, False])
def test_eval_loss_is_plain_cross_entropy(dense, maps):
    head = mk.MultiMixHead(D, C, dense=dense, label_smoothing=0.1).eval()
    x, target = maps[0] if dense else maps[0][:, :, 0, 0], maps[1]
    expected = F.cross_entropy(head(x), target, label_smoothing=0.1)
    state = torch.get_rng_state()
    assert torch.equal(head(x, target), expected)
    assert torch.equal(torch.get_rng_state(), state)
    soft = torch.rand(B, C).softmax(1)
    assert torch.equal(head(x, soft), F.cross_entropy(head(x), soft, label_smoothing=0.1))


def test_trains():
    """Steps on the mixed loss lower the clean loss."""
    torch.manual_seed(0)
    head = mk.MultiMixHead(D, C, n=200)
    x, target = torch.eye(C, D), torch.arange(C)
    before = head.eval()(x, target).item()
    optimiser = torch.optim.SGD(head.train().parameters(), lr=1.0)
    for _ in range(50):
        optimiser.zero_grad()
        head(x, target).backward()
        optimiser.step()
    assert head.eval()(x, target).item() < before / 2


def test_repr_says_what_differs():
    text = repr(mk.MultiMixHead(D, C, bias=False, dense=True, n=77))
    for part in ("MultiMixHead", f"in_features={D}", f"out_features={C}", "bias=False", "dense=True", "n=77"):
        assert part in text


@pytest.mark.parametrize("how", ["copy", "pickle", "save"])
def test_copies_behave_alike(how, batch):
    head = mk.MultiMixHead(D, C, n=9, m=3, alpha=0.7, label_smoothing=0.1)
    if how == "copy":
        twin = copy.deepcopy(head)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(head))
    else:
        buffer = io.BytesIO()
        torch.save(head, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    results = []
    for module in (head, twin):
        torch.manual_seed(1)
        results.append(module(*batch))
    assert torch.equal(*results)
    with torch.no_grad():
        twin.weight.zero_()
    assert head.weight.any()


@pytest.mark.parametrize(("options", "argument"), [
    (dict(n=0), "n"), (dict(n=2.0), "n"), (dict(m=0), "m"), (dict(m="2"), "m"), (dict(alpha=0.0), "alpha"),
    (dict(alpha=-1), "alpha"), (dict(alpha=torch.zeros(B)), "alpha"), (dict(alpha=torch.ones(B, 2)), "alpha"),
    (dict(label_smoothing=2), "label_smoothing"), (dict(backend="none such"), "backend"),
    (dict(attention="nope"), "attention"), (dict(dense=True, attention=None), "attention"),
    (dict(attention_activation="what"), "attention_activation"), (dict(ignore_index=0.5), "ignore_index"),
    (dict(ignore_index=2**63), "ignore_index"),
], ids=str)  # fmt: skip
def test_bad_options_are_refused_at_construction(options, argument):
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}: expected"):
        mk.MultiMixHead(D, C, **options)


def test_numbers_of_numpy_and_torch(batch):
    given = mk.MultiMixHead(
        D, C, n=np.int64(9), m=torch.tensor(3), alpha=np.float32(0.5), label_smoothing=np.float64(0.25)
    )
    plain = mk.MultiMixHead(D, C, n=9, m=3, alpha=0.5, label_smoothing=0.25)
    plain.load_state_dict(given.state_dict())
    results = []
    for head in (given, plain):
        torch.manual_seed(1)
        results.append(head(*batch))
    assert torch.equal(*results)


@pytest.mark.parametrize("convert", ["half", "bfloat16", "float", "double"])
@pytest.mark.parametrize("bound", [0.01, 1000.0])
def test_alpha_at_a_bound_in_every_dtype(bound, convert, batch, backend):
    """The buffer is rounded with the parameters."""
    head = getattr(mk.MultiMixHead(D, C, n=9, alpha=torch.full((B,), bound), backend=backend), convert)()
    assert head.alpha.dtype == head.weight.dtype
    assert head(batch[0].to(head.weight.dtype), batch[1]).isfinite()


def test_last_batch_smaller_than_m(batch):
    x, target = batch[0][:3], batch[1][:3]
    with pytest.raises(ValueError, match=r"^m: .*\[1, 3\].*got 4.*drop_last=True.*clamp_m=True"):
        mk.MultiMixHead(D, C, m=4)(x, target)
    head = mk.MultiMixHead(D, C, n=9, m=4, clamp_m=True)
    for inputs, labels, m in ((*batch, 4), (x, target, None), (*batch, 4)):
        torch.manual_seed(1)
        found = head(inputs, labels)
        torch.manual_seed(1)
        assert torch.equal(found, mk.multimix_cross_entropy(inputs, labels, head.weight, head.bias, n=9, m=m))
    maps = torch.randn(3, D, 2)
    assert mk.MultiMixHead(D, C, m=4, dense=True, clamp_m=True)(maps, target).isfinite()
    assert mk.MultiMixHead(D, C, clamp_m=True)(x, target).isfinite()


def test_feature_maps_need_a_dense_head(maps):
    head = mk.MultiMixHead(D, C)
    for mode in (True, False):
        head.train(mode)
        for arguments in (maps, maps[:1], (maps[0].movedim(1, -1), maps[1])):
            with pytest.raises(ValueError, match=r"^input: expected shape .*, got \(.*MultiMixHead\(dense=True\)"):
                head(*arguments)
        last = maps[0].movedim(1, -1)
        assert torch.equal(head(last), F.linear(last, head.weight, head.bias))  # what nn.Linear takes
    for wrong in (maps[0][:, :-1], maps[0][0, 0, 0]):
        with pytest.raises(ValueError, match=rf"^input: expected shape \(b, {D}, \*spatial\), got"):
            mk.MultiMixHead(D, C, dense=True)(wrong, maps[1])


def test_labels_of_int32(batch):
    head = mk.MultiMixHead(D, C, n=9)
    for mode in (True, False):
        results = []
        for target in (batch[1], batch[1].int()):
            torch.manual_seed(1)
            results.append(head.train(mode)(batch[0], target))
        assert torch.equal(*results)


def test_gradient_is_that_of_the_function(batch, backend, device):
    head = mk.MultiMixHead(D, C, backend=backend).to(device)
    x, target = (t.to(device) for t in batch)
    torch.manual_seed(1)
    head(x, target).backward()
    torch.manual_seed(1)
    weight = head.weight.detach().clone().requires_grad_()
    mk.multimix_cross_entropy(x, target, weight, head.bias.detach(), backend=backend).backward()
    assert_close(head.weight.grad, weight.grad, 1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_shares_the_parameters_with_a_live_optimiser(bias, batch):
    linear = nn.Linear(D, C, bias)
    optimiser = torch.optim.SGD(linear.parameters(), lr=1.0, momentum=0.9)
    linear(batch[0]).sum().backward()
    optimiser.step()
    head = mk.MultiMixHead.from_linear(linear, n=20)
    assert head.weight is linear.weight
    assert head.bias is linear.bias
    assert [p for p in head.parameters()] == [p for p in linear.parameters()]
    before, state = linear.weight.detach().clone(), len(optimiser.state)
    optimiser.zero_grad()
    head(*batch).backward()
    optimiser.step()
    assert not torch.equal(linear.weight, before)
    assert len(optimiser.state) == state
    assert torch.equal(head(batch[0]), linear(batch[0]))


def test_from_linear_takes_options_mode_dtype_and_draws_nothing():
    linear = nn.Linear(D, C, dtype=torch.float64).eval()
    linear.weight.requires_grad_(False)
    state = torch.get_rng_state()
    head = mk.MultiMixHead.from_linear(linear, dense=True, n=7, m=2, attention="cam", alpha=torch.ones(B))
    assert torch.equal(torch.get_rng_state(), state)
    assert (head.dense, head.mix_options["n"], head.attention_options["attention"]) == (True, 7, "cam")
    assert not head.training
    assert head.weight.dtype == torch.float64
    assert not head.weight.requires_grad
    assert head.alpha.device.type == "cpu"
    assert mk.MultiMixHead.from_linear(nn.Linear(D, C)).training
    assert mk.MultiMixHead.from_linear(head).weight is linear.weight


def test_from_linear_in_the_place_of_a_layer(batch):
    model = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, C))
    expected, names = model(batch[0]), list(model.state_dict())
    model[2] = mk.MultiMixHead.from_linear(model[2])
    assert torch.equal(model(batch[0]), expected)
    assert list(model.state_dict()) == names


def computed(name):
    linear = nn.Linear(D, C)
    if name == "pruned":
        prune.l1_unstructured(linear, "weight", amount=2)
    elif name == "bias":
        parametrize.register_parametrization(linear, "bias", nn.Tanh())
    elif name == "lazy":
        return nn.LazyLinear(C)
    elif name == "subclass":
        return type("Cosine", (nn.Linear,), {"forward": lambda self, x: F.linear(x, F.normalize(self.weight))})(D, C)
    elif name == "convolution":
        return nn.Conv1d(D, C, 1)
    else:
        nn.utils.parametrizations.weight_norm(linear)
    return linear


@pytest.mark.parametrize("name", ["weight norm", "bias", "pruned", "lazy", "subclass", "convolution"])
def test_from_linear_refuses_what_it_cannot_share(name):
    with pytest.raises(TypeError, match=r"^linear: expected"):
        mk.MultiMixHead.from_linear(computed(name))
