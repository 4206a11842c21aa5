"""torch.compile(fullgraph=True) equals eager for the same seed, bit for bit, with static and dynamic shapes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import multimix_kernels as mk

from .support.bounds import assert_close
from .support.cases import DENSE, IGNORE, PLAIN, loss_and_gradients

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def target_for(x, c=5):
    target = torch.arange(len(x), device=x.device) % c
    target[1] = IGNORE
    return target


def equal(eager, compiled, leaves):
    one, two = loss_and_gradients(eager, leaves), loss_and_gradients(compiled, leaves)
    for name, value in one.items():
        if name == "bias":  # the sum over rows is PyTorch's own, in an order that compiling may change
            assert_close(two[name], value, 1e-6, name)
        else:
            assert torch.equal(value, two[name]), name


def both(function, leaves, *arguments, dynamic=None, engine="aot_eager", **options):
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=engine)
    equal(function(*leaves.values(), *arguments, **options), compiled(*leaves.values(), *arguments, **options), leaves)
    return compiled


def leaves_of(device, b=6, d=4, c=5, spatial=()):
    g = torch.Generator().manual_seed(b)
    return {
        "input": torch.randn(b, d, *spatial, generator=g).to(device).requires_grad_(),
        "weight": torch.randn(c, d, generator=g).to(device).requires_grad_(),
        "bias": torch.randn(c, generator=g).to(device).requires_grad_(),
    }


LOSSES = {
    "plain": (mk.multimix_cross_entropy, (), {}),
    "subset none": (mk.multimix_cross_entropy, (), dict(m=3, reduction="none", alpha=0.7)),
    "smoothing sum": (mk.multimix_cross_entropy, (), dict(label_smoothing=0.1, reduction="sum", row_offset=2**33)),
    "gap": (mk.dense_multimix_cross_entropy, (2, 3), {}),
    "cam softmax grad": (
        mk.dense_multimix_cross_entropy, (3,),
        dict(attention="cam", attention_activation="softmax", attention_grad=True),
    ),
    "gap grad none": (mk.dense_multimix_cross_entropy, (2, 2), dict(attention_grad=True, reduction="none")),
    "uniform": (mk.dense_multimix_cross_entropy, (2,), dict(attention="uniform")),
}  # fmt: skip


def linear(function, **fixed):
    def call(x, weight, bias, seed):
        # Reordered because the losses take the target second.
        return function(x, target_for(x), weight, bias, n=7, seed=seed, **fixed)

    return call


def seed_of(device):
    return torch.tensor([11], device=device)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, backend, device):
    function, spatial, options = LOSSES[name]
    both(linear(function, backend=backend, **options), leaves_of(device, spatial=spatial), seed_of(device))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_with_dynamic_shapes(name, backend, device):
    """One graph for every batch size."""
    function, spatial, options = LOSSES[name]
    call = linear(function, backend=backend, **options)
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for b in (6, 9, 14):
        leaves = leaves_of(device, b=b, spatial=spatial)
        equal(call(*leaves.values(), seed_of(device)), compiled(*leaves.values(), seed_of(device)), leaves)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("attended", [False, True])
def test_mixed_cross_entropy(soft, attended, backend, device):
    problem = (DENSE if attended else PLAIN).but("", attention="given" if attended else None, soft=soft, ignored=1)
    leaves = problem.scores(torch.float32, device)
    target = problem.target().to(device)
    target = target.float() if soft else target

    def call(scores, attention, target, seed):
        return mk.mixed_cross_entropy(scores, target, attention=attention, n=5, seed=seed, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    arguments = leaves["scores"], leaves.get("attention"), target, seed_of(device)
    equal(call(*arguments), compiled(*arguments), leaves)


def test_marked_dynamic(backend, device):
    """The batch is dynamic and must stay so: no guard fixes it."""
    x = torch.randn(6, 5, device=device, requires_grad=True)
    torch._dynamo.mark_dynamic(x, 0)

    def call(x, seed):
        return mk.mixed_cross_entropy(x, target_for(x), n=5, m=3, seed=seed, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    equal(call(x, seed_of(device)), compiled(x, seed_of(device)), {"x": x})


@pytest.mark.parametrize(("name", "values"), [
    ("n", (5, 9, 30)), ("m", (2, 3, 5)), ("row_offset", (3, 8, 2**40)), ("seed", (1, 2, 2**40, 2**63 - 1)),
    ("seed", (2**64 - 1, 2**63, -1, -(2**63), 0)),
    ("alpha", (0.7, 1.1, 2.5)), ("label_smoothing", (0.1, 0.2, 0.35)), ("ignore_index", (-1, -2, 3)),
    ("alpha", ((0.5, 1.0), (0.25, 2.0), (0.3, 0.4))),
], ids=str)  # fmt: skip
def test_options_that_change_between_calls(name, values, backend, device):
    x = torch.randn(6, 5, device=device, requires_grad=True)
    target = torch.tensor([0, 1, 2, 4, 0, 1], device=device)

    def call(x, value):
        options = {"seed": 5, "n": 7} | {name: value}
        return mk.mixed_cross_entropy(x, target, backend=backend, **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for value in values:
        equal(call(x, value), compiled(x, value), {"x": x})


def test_concentrations_recompile_nothing(backend, device):
    x = torch.randn(6, 5, device=device, requires_grad=True)

    def call(x, alpha):
        return mk.mixed_cross_entropy(x, target_for(x), n=5, alpha=alpha, seed=3, backend=backend)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for value in (0.5, 0.7, 1.1, 1.3):
        alpha = torch.full((6,), value, device=device)
        equal(call(x, alpha), compiled(x, alpha), {"x": x})
    assert counter.frame_count == 1


def test_seed_tensor_is_read_at_run_time(backend, device):
    """The value behind the tensor is no constant of the graph."""
    x = torch.randn(6, 5, device=device, requires_grad=True)

    def call(x, seed):
        return mk.mixed_cross_entropy(x, target_for(x), n=5, seed=seed, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    seed, found = seed_of(device), []
    for _ in range(3):
        equal(call(x, seed), compiled(x, seed), {"x": x})
        found.append(compiled(x, seed).item())
        seed += 1
    assert len(set(found)) == 3


def test_drawn_seed_differs_from_call_to_call(backend, device):
    x = torch.randn(6, 5, device=device, requires_grad=True)

    def call(x):
        return mk.mixed_cross_entropy(x, target_for(x), n=5, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(first, compiled(x))
    torch.manual_seed(1)
    assert torch.equal(first, call(x))  # this engine draws with the eager generator


def test_sample_dirichlet(backend, device):
    def call(seed, alpha):
        return mk.sample_dirichlet(
            5, len(alpha), m=3, alpha=alpha, spatial=(2,), seed=seed, device=device, backend=backend
        )

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for b in (6, 8):
        alpha = torch.linspace(0.5, 2, b, device=device)
        assert torch.equal(call(seed_of(device), alpha), compiled(seed_of(device), alpha))


def test_attention_map(device):
    z = torch.randn(4, 3, 2, 2, requires_grad=True)
    for kind, activation in (("gap", "relu"), ("cam", "softmax")):

        def call(z, weight, target):
            return mk.attention_map(z, kind, activation, weight=weight, target=target)  # noqa: B023

        weight, target = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 4, 2, -100])
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        equal(call(z, weight, target), compiled(z, weight, target), {"z": z, "weight": weight})


def test_mixture(backend, device):
    """Mixing, a head that is not linear, and its loss, in one graph."""
    x = torch.randn(6, 4, 3, device=device, requires_grad=True)
    head = torch.nn.Conv1d(4, 5, 1).to(device)

    def call(x, attention, seed):
        mixture = mk.multimix(x, attention=attention, n=7, seed=seed, backend=backend)
        loss = mixture.cross_entropy(head(torch.relu(mixture.embeddings)), target_for(x), reduction="none")
        return loss.sum() + mixture.weights()[:, 0].sum() + mixture.targets(target_for(x), 5)[:, 1].sum()

    attention = torch.rand(6, 3, device=device, requires_grad=True)
    both(call, {"x": x, "attention": attention}, seed_of(device))


def test_mixture_leaves_the_graph(backend, device):
    """Made inside, used outside."""
    x = torch.randn(6, 4, device=device, requires_grad=True)

    def call(x, seed):
        return mk.multimix(x, n=7, seed=seed, backend=backend)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(x, seed_of(device))
    eager = call(x, seed_of(device))
    assert torch.equal(eager.weights(), compiled.weights())
    assert torch.equal(eager.seed, compiled.seed)
    equal(eager.embeddings, compiled.embeddings, {"x": x})


@pytest.mark.parametrize("dense", [False, True])
def test_module(dense, backend, device):
    head = mk.MultiMixHead(4, 5, dense=dense, n=7, backend=backend).to(device)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    for b in (6, 8):
        x = torch.randn(b, 4, *(2, 3) * dense, device=device, requires_grad=True)
        results = []
        for module in (head, compiled):
            torch.manual_seed(3)
            results.append(module(x, target_for(x)))
        equal(*results, {"input": x, "weight": head.weight, "bias": head.bias})
        head.eval()
        equal(head(x, target_for(x)), compiled(x, target_for(x)), {"input": x, "weight": head.weight})
        head.train()


def test_autocast_inside_the_graph(backend, device):
    leaves = leaves_of(device)

    def call(x, weight, bias, seed):
        with torch.autocast(device.type, torch.bfloat16):
            return mk.multimix_cross_entropy(x, target_for(x), weight, bias, n=7, seed=seed, backend=backend)

    both(call, leaves, seed_of(device))


def test_errors_in_the_graph_name_the_argument(backend, device):
    x = torch.randn(6, 5, device=device)
    compiled = torch.compile(mk.mixed_cross_entropy, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"reduction"):
        compiled(x, target_for(x), reduction="max", backend=backend)
    with pytest.raises(Exception, match=r"\bm\b: expected"):
        compiled(x, target_for(x), m=9, backend=backend)


@pytest.mark.parametrize("label", [5, -7])
def test_label_out_of_range_in_the_graph(label, backend, device):
    """No value is read while compiling. The operator says that something is wrong: an error, or a loss of NaN."""
    x = torch.randn(6, 5, device=device)
    target = target_for(x)
    target[2] = label
    compiled = torch.compile(mk.mixed_cross_entropy, fullgraph=True, backend="aot_eager")
    try:
        found = compiled(x, target, n=4, seed=1, backend=backend)
    except RuntimeError as refused:
        found = str(refused)
    assert "target: expected classes in [0, 5)" in found if isinstance(found, str) else found.isnan()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_inductor(name, dynamic, backend, device):
    """Generated code for what surrounds the operators; it may fuse and round that otherwise, not the operators."""
    function, spatial, options = LOSSES[name]
    call = linear(function, backend=backend, **options)
    compiled = torch.compile(call, fullgraph=True, dynamic=dynamic)
    leaves = leaves_of(device, spatial=spatial)
    one = loss_and_gradients(call(*leaves.values(), seed_of(device)), leaves)
    two = loss_and_gradients(compiled(*leaves.values(), seed_of(device)), leaves)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_inductor_is_bitwise_equal_for_scores(backend, device):
    """Nothing surrounds the operator here."""
    x = torch.randn(6, 5, device=device, requires_grad=True)

    def call(x, seed):
        return mk.mixed_cross_entropy(x, target_for(x), n=5, seed=seed, backend=backend)

    both(call, {"x": x}, seed_of(device), engine="inductor")


def test_errors_of_a_compiled_call_say_what_is_wrong():
    """Dynamo wraps them; the sentence is there."""
    scores, target = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    call = torch.compile(
        lambda n: mk.mixed_cross_entropy(scores, target, n=n, seed=1), dynamic=True, backend="eager", fullgraph=True
    )
    call(5), call(9)
    with pytest.raises(Exception, match="n: expected at least 1 interpolated example, got 0"):
        call(0)
    drawn = torch.compile(
        lambda: mk.mixed_cross_entropy(scores, target, n=5, generator=torch.default_generator),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(Exception, match="generator: cannot be used inside a compiled graph; draw the seed outside"):
        drawn()
