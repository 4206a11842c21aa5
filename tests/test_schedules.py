"""Numbers that change from step to step: alpha and label_smoothing as Tensors on the CPU, and as floats.

As a Tensor a number gives the bits that it gives as a float, in eager mode, in compiled graphs and in all others; and
torch.compile compiles a float that changes twice, a Tensor once.
"""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import multimix_kernels as mk
from multimix_kernels import ops

from .support.cases import loss_and_gradients

pytestmark = pytest.mark.usefixtures("fresh_compiler")
VALUES = ((0.7, 0.1), (0.3, 0.2), (1.1, 0.0), (2.5, 0.35), (0.05, 1.0))  # of alpha and label_smoothing
TARGET = torch.tensor([0, 1, 2, 4, -100, 1])


def number(x, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype)


KINDS = {
    "float": lambda alpha, smoothing: dict(alpha=alpha, label_smoothing=smoothing),
    "range": lambda alpha, smoothing: dict(alpha=(alpha, 2 * alpha)),
    "int": lambda alpha, smoothing: dict(alpha=1 + int(10 * smoothing)),
    "tensor": lambda alpha, smoothing: dict(alpha=number(alpha), label_smoothing=number(smoothing)),
    "range of tensors": lambda alpha, smoothing: dict(alpha=(number(alpha), number(2 * alpha))),
    "one of each": lambda alpha, smoothing: dict(alpha=(alpha, number(4.0 + alpha)), label_smoothing=smoothing),
    "smoothing": lambda alpha, smoothing: dict(label_smoothing=number(smoothing)),
    "float32": lambda alpha, smoothing: dict(alpha=number(alpha, torch.float32)),
    "integers": lambda alpha, smoothing: dict(alpha=number(1 + int(10 * smoothing), torch.int64)),
}


def as_floats(options):
    return {
        name: tuple(map(float, value)) if isinstance(value, tuple) else float(value) for name, value in options.items()
    }


@pytest.fixture
def scores(device):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()


def loss(scores, backend, target=None, **options):
    target = TARGET.to(scores.device) if target is None else target
    return mk.mixed_cross_entropy(scores, target, n=7, seed=5, backend=backend, **options)


def equal(one, two, x):
    one, two = loss_and_gradients(one, {"x": x}), loss_and_gradients(two, {"x": x})
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_twice_at_most(kind, reduction, scores, backend):
    """The first float is a constant of its graph; the second one's graph is for all. The same bits everywhere."""
    counter, counts = CompileCounterWithBackend("aot_eager"), []
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for values in VALUES:
        options = KINDS[kind](*values) | dict(reduction=reduction)
        floats = as_floats(KINDS[kind](*values)) | dict(reduction=reduction)
        equal(loss(scores, backend, **options), loss(scores, backend, **floats), scores)
        equal(compiled(scores, backend, **options), loss(scores, backend, **floats), scores)
        counts.append(counter.frame_count)
    # Torch traces a graph twice that has a float64 number for an input.
    first = 1 if any(isinstance(x, (float, int, tuple)) for x in KINDS[kind](*VALUES[0]).values()) else 0
    assert len(set(counts[first:])) == 1


def test_operators_that_read_numbers_stay_out_of_cuda_graphs():
    for operators in ops.SCHEDULED.values():
        assert all(torch.Tag.cudagraph_unsafe in operator.tags for operator in operators.values())
    for operators in ops.OPERATORS.values():
        assert all(torch.Tag.cudagraph_unsafe not in operator.tags for operator in operators.values())


def test_floats_that_do_not_change_are_constants(scores, backend):
    """No tensor on the CPU is in the graph, which CUDA graphs would be split at."""
    graphs = []

    def engine(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: loss(x, backend, alpha=0.7, label_smoothing=0.1), fullgraph=True, backend=engine)
    compiled(scores), compiled(scores)
    (graph,) = graphs
    code = graph.print_readable(print_output=False)
    assert "multimix" in code
    assert "scheduled" not in code


@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_mixture(kind, device, backend):
    """Mixing, its loss and its weights, also after they have left the graph."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).to(device).requires_grad_()

    def call(x, alpha, smoothing, weight):
        mixture = mk.multimix(x, n=7, alpha=alpha, seed=5, backend=backend)
        loss = mixture.cross_entropy(mixture.embeddings @ weight, TARGET.to(x.device), label_smoothing=smoothing)
        sampled = mk.sample_dirichlet(3, 4, alpha=alpha, seed=2, device=x.device, backend=backend)
        return mixture, loss, mixture.weights(), mixture.targets(TARGET.to(x.device), 5), sampled

    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)).to(device)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for alpha, smoothing in VALUES[:3]:
        given = [number(v) if kind == "tensor" else v for v in (alpha, smoothing)]
        left, one, *others = call(x, alpha, smoothing, weight)
        mixture, two, *found = compiled(x, *given, weight)
        if kind == "tensor":
            given[0].fill_(9.0)  # the caller's own
        equal(one, two, x)
        assert all(map(torch.equal, others, found))
        assert torch.equal(mixture.weights(), left.weights())


def test_dense_with_attention(device, backend):
    z, weight = torch.rand(6, 4, 2, 2, device=device, requires_grad=True), torch.rand(5, 4, device=device)

    def call(z, alpha):
        options = dict(attention_grad=True, reduction="none", n=4, seed=3, backend=backend)
        return mk.dense_multimix_cross_entropy(z, TARGET.to(z.device), weight, alpha=alpha, **options)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for alpha, _ in VALUES[:3]:
        one, two = (loss_and_gradients(f, {"z": z}) for f in (call(z, alpha), compiled(z, number(alpha))))
        assert torch.equal(one["loss"], two["loss"])
        torch.testing.assert_close(two["z"], one["z"], rtol=1e-6, atol=1e-7)  # the map is PyTorch's own


def test_checkpoint_in_a_graph(scores, backend):
    def call(x, alpha):
        return checkpoint(lambda x: loss(x, backend, alpha=alpha, reduction="none"), x, use_reentrant=False)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for alpha, _ in VALUES[:3]:
        equal(call(scores, alpha), compiled(scores, number(alpha)), scores)


@pytest.mark.parametrize("module", ["loss", "head"])
def test_modules_read_their_tensors_at_each_step(module, scores, backend):
    """Changed in place, alone or in a graph; moving the module leaves numbers on the CPU, where they are read."""
    options = dict(n=7, alpha=number(0.7), label_smoothing=number(0.1), backend=backend)
    if module == "loss":
        made, arguments = mk.MultiMixLoss(**options), (scores, TARGET.to(scores.device))
    else:
        made, arguments = mk.MultiMixHead(5, 5, **options), (scores, TARGET.to(scores.device))
    made = made.to(scores.device).half().float()
    assert made.alpha.dtype == torch.float64
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    found = []
    for alpha, smoothing in VALUES[:3]:
        made.alpha.fill_(alpha), made.loss_options["label_smoothing"].fill_(smoothing)
        for call in (made, compiled):
            torch.manual_seed(3)
            found.append(call(*arguments).item())
    assert found[::2] == found[1::2]
    assert len(set(found)) == 3
    made.eval()
    assert compiled(*arguments).item() == pytest.approx(made(*arguments).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["tensor", "range of tensors"])
def test_fake_tensors(kind, scores, backend):
    x = scores.detach()
    with FakeTensorMode() as mode:
        options = {
            name: tuple(map(mode.from_tensor, value)) if isinstance(value, tuple) else mode.from_tensor(value)
            for name, value in KINDS[kind](*VALUES[0]).items()
        }
        x = mode.from_tensor(x).requires_grad_()
        found = mk.mixed_cross_entropy(x, mode.from_tensor(TARGET), n=7, seed=5, backend=backend, **options)
        (gradient,) = torch.autograd.grad(found, x)
    assert found.shape == ()
    assert gradient.shape == scores.shape


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(tracing_mode, scores, backend):
    """A recorded graph reads the numbers that it is given, for second derivatives too."""

    def step(x, target, alpha, smoothing):
        x = x.detach().requires_grad_()
        value = loss(x, backend, target, alpha=alpha, label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        return value, gradient, torch.autograd.grad(gradient.square().sum(), x)[0]

    given = scores.detach(), TARGET.to(scores.device)
    graph = make_fx(step, tracing_mode=tracing_mode)(*given, number(0.5), number(0.3))
    for values in VALUES[:2]:
        for found, expected in zip(graph(*given, *map(number, values)), step(*given, *values), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export(scores, backend):
    class Step(torch.nn.Module):
        def forward(self, scores, alpha, smoothing):
            return loss(scores, backend, alpha=alpha, label_smoothing=smoothing)

    x = scores.detach()
    program = torch.export.export(Step(), (x, number(0.5), number(0.3))).module()
    for values in VALUES[:3]:
        assert torch.equal(program(x, *map(number, values)), Step()(x, *values))


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("alpha", 0.001, "alpha: expected a float or a .*, within .*, got 0.001"),
    ("alpha", float("nan"), "alpha: expected .*, got .nan, nan."),
    ("label_smoothing", 1.5, "label_smoothing: expected a float in .*, got 1.5"),
])  # fmt: skip
def test_values_are_checked_when_a_graph_runs(name, value, expected, scores, backend):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled(scores, backend, **{name: number(0.5)})
    with pytest.raises(ValueError, match=expected):
        compiled(scores, backend, **{name: number(value)})
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        loss(scores, backend, **{name: number(value)})


@pytest.mark.parametrize("name", ["alpha", "label_smoothing"])
def test_nothing_is_differentiated_by_them(name, scores, backend):
    with pytest.raises(ValueError, match=f"^{name}: must not require grad"):
        loss(scores, backend, **{name: number(0.5).requires_grad_()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_inductor(kind, scores, backend):
    """Generated code puts the numbers together."""
    compiled = torch.compile(loss, fullgraph=True)
    for values in VALUES[:3]:
        options = KINDS[kind](*values)
        equal(compiled(scores, backend, **options), loss(scores, backend, **as_floats(options)), scores)
