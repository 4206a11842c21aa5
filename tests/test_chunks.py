"""multimix_head_cross_entropy: the loss and gradients of the unchunked call, at the memory of a chunk."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import multimix_kernels as mk

from .support.bounds import assert_close

B, D, C, N = 9, 6, 5, 23
REDUCTIONS = ["mean", "sum", "none"]
OPTIONS = [
    {}, dict(m=3), dict(alpha=0.3), dict(alpha="per example"), dict(label_smoothing=0.2), dict(row_offset=2**32 - 5),
    dict(soft=True), dict(soft=True, label_smoothing=0.1),
]  # fmt: skip


class Problem:
    """A head that is not linear, its input, target and options."""

    def __init__(self, device="cpu", dtype=torch.float64, spatial=(), attended=False, ignored=0, soft=False, **options):
        g = torch.Generator().manual_seed(1)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64).to(device, dtype).requires_grad_()

        self.input, self.first, self.second = draw(B, D, *spatial), draw(7, D), draw(C, 7)
        self.attention = draw(B, *spatial).detach().abs().requires_grad_() if attended else None
        labels = torch.randint(C, (B,), generator=g)
        labels[:ignored] = -100
        soft_labels = torch.rand(B, C, generator=g, dtype=torch.float64).softmax(1).to(dtype)
        self.target = (soft_labels if soft else labels).to(device)
        if options.get("alpha") == "per example":
            options["alpha"] = torch.linspace(0.3, 2, B, device=device)
        self.options = {"n": N, "seed": 7} | options

    def head(self, z):
        """Each row and location by itself."""
        return F.linear(F.linear(z.movedim(1, -1), self.first).tanh(), self.second).movedim(-1, 1)

    def chunked(self, chunk, **options):
        return mk.multimix_head_cross_entropy(
            self.head, self.input, self.target, attention=self.attention, chunk=chunk, **self.options, **options
        )

    def unchunked(self, **options):
        loss = {k: v for k, v in (self.options | options).items() if k in ("label_smoothing", "reduction")}
        mix = {k: v for k, v in (self.options | options).items() if k not in loss}
        mixture = mk.multimix(self.input, attention=self.attention, **mix)
        return mixture.cross_entropy(self.head(mixture.embeddings), self.target, **loss)

    def gradients(self, loss):
        leaves = [self.input, self.first, self.second, *([self.attention] if self.attention is not None else [])]
        upstream = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype, device=loss.device).reshape(loss.shape)
        return [loss.detach(), *torch.autograd.grad(loss, leaves, upstream)]


def near(dtype):
    """Sums over rows are in another order."""
    return 1e-12 if dtype == torch.float64 else 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("chunk", [1, 5, N])
def test_equals_the_unchunked_call(options, reduction, chunk, backend, device, best_dtype):
    problem = Problem(device, best_dtype, **options)
    found = problem.gradients(problem.chunked(chunk, reduction=reduction, backend=backend))
    expected = problem.gradients(problem.unchunked(reduction=reduction, backend=backend))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b, near(best_dtype))


@pytest.mark.parametrize("spatial", [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dense(spatial, attended, reduction, backend, device, best_dtype):
    problem = Problem(device, best_dtype, spatial, attended)
    loss = problem.chunked(4, reduction=reduction, backend=backend)
    assert loss.shape == ((N, *spatial) if reduction == "none" else ())
    expected = problem.gradients(problem.unchunked(reduction=reduction, backend=backend))
    for a, b in zip(problem.gradients(loss), expected, strict=True):
        assert_close(a, b, near(best_dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_are_the_same_in_low_precision(dtype):
    problem = Problem(dtype=dtype)
    found, expected = problem.chunked(5, reduction="none"), problem.unchunked(reduction="none")
    assert found.dtype == torch.float32
    # A matrix product may round otherwise with fewer rows: one unit of the logits' dtype.
    assert_close(found, expected.double(), 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [0, 2, B - 1])
@pytest.mark.parametrize("m", [None, 3])
def test_a_linear_head_gives_the_loss_of_one(reduction, ignored, m, backend, device, best_dtype):
    """Ignored examples are in no mixture."""
    problem = Problem(device, best_dtype, ignored=ignored, m=m, reduction=reduction, backend=backend)
    weight = problem.first[:C].detach().requires_grad_()

    def linear(z):
        return F.linear(z, weight)

    loss = mk.multimix_head_cross_entropy(linear, problem.input, problem.target, chunk=4, **problem.options)
    exact = mk.multimix_cross_entropy(problem.input, problem.target, weight, **problem.options)
    assert_close(loss, exact, near(best_dtype))
    leaves = [problem.input, weight]
    for a, b in zip(*(torch.autograd.grad(x.sum(), leaves) for x in (loss, exact)), strict=True):
        assert_close(a, b, near(best_dtype))


@pytest.mark.parametrize("chunk", [4, N])
def test_all_ignored(chunk, backend, device):
    problem = Problem(device, torch.float32, ignored=B, backend=backend)
    assert problem.chunked(chunk).isnan()
    found = problem.gradients(problem.chunked(chunk, reduction="sum"))
    assert not any(x.any() for x in found)


def test_default_chunk_counts_locations():
    sizes = []
    x, target = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])

    def head(z):
        sizes.append(len(z))
        return z

    mk.multimix_head_cross_entropy(head, x, target, n=130)
    assert sizes == [64, 64, 2]
    sizes.clear()
    mk.multimix_head_cross_entropy(head, x[:, :, 0, 0], target, n=5000)
    assert sizes == [4096, 904]


def test_dropout_is_the_same_in_both_passes():
    """The head's outputs, in the order of the calls: the backward visits the chunks from the last to the first."""
    outputs, drop = [], nn.Dropout(0.5)
    problem = Problem()

    def head(z):
        outputs.append(drop(problem.head(z)))
        return outputs[-1]

    torch.manual_seed(3)
    loss = mk.multimix_head_cross_entropy(head, problem.input, problem.target, chunk=5, **problem.options)
    count = len(outputs)
    assert count == 5
    loss.backward()
    assert len(outputs) == 2 * count
    for forward, again in zip(outputs[:count], reversed(outputs[count:]), strict=True):
        assert torch.equal(forward, again)
    assert not torch.equal(outputs[0], outputs[1])


def test_the_seed_is_drawn_once():
    problem = Problem()
    options = problem.options | {"seed": None}
    for chunk in (3, N):
        torch.manual_seed(5)
        loss = mk.multimix_head_cross_entropy(problem.head, problem.input, problem.target, chunk=chunk, **options)
        first = loss.detach() if chunk == 3 else first  # noqa: F821
    assert_close(loss, first)


def test_retained_graph_gives_the_same_gradients_again():
    problem = Problem()
    loss = problem.chunked(5)
    first = torch.autograd.grad(loss, [problem.input, problem.first], retain_graph=True)
    second = torch.autograd.grad(loss, [problem.input, problem.first])
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_without_gradients_the_head_is_called_once():
    problem, calls = Problem(), []

    def head(z):
        calls.append(len(z))
        return problem.head(z)

    with torch.no_grad():
        loss = mk.multimix_head_cross_entropy(head, problem.input, problem.target, chunk=10, **problem.options)
    assert calls == [10, 10, 3]
    assert not loss.requires_grad
    assert_close(loss, problem.unchunked())


class Peak(TorchDispatchMode):
    """The most bytes of tensors that operators made and that lived at one time."""

    def __init__(self):
        super().__init__()
        self.views, self.now, self.most, self.largest = {}, 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.watch(x)
        return out

    def watch(self, x):
        key, size = x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()
        self.views[key] = self.views.get(key, 0) + 1
        self.now += size if self.views[key] == 1 else 0
        self.most, self.largest = max(self.most, self.now), max(self.largest, size)
        weakref.finalize(x, self.forget, key, size)

    def forget(self, key, size):
        self.views[key] -= 1
        self.now -= size if self.views[key] == 0 else 0


def peak(call):
    with Peak() as mode:
        call().backward()
    return mode.most, mode.largest


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_memory_is_that_of_a_chunk(name):
    if not mk.available_backends()[name]:
        pytest.skip(f"{name} is not available")
    hidden, chunk = 256, 64
    head = nn.Sequential(nn.Linear(D, hidden), nn.ReLU(), nn.Linear(hidden, C))
    x, target = torch.randn(B, D, requires_grad=True), torch.arange(B) % C

    def chunked(n):
        return mk.multimix_head_cross_entropy(head, x, target, n=n, chunk=chunk, seed=1, backend=name)

    def unchunked(n):
        mixture = mk.multimix(x, n=n, seed=1, backend=name)
        return mixture.cross_entropy(head(mixture.embeddings), target)

    few, many, whole = (
        peak(lambda: chunked(2 * chunk)),
        peak(lambda: chunked(20 * chunk)),
        peak(lambda: unchunked(20 * chunk)),
    )
    assert many[1] == few[1]  # the largest tensor
    assert many[0] < 1.2 * few[0]
    assert whole[0] > 5 * many[0]


@pytest.mark.parametrize(("options", "argument"), [
    (dict(chunk=0), "chunk"), (dict(chunk=1.5), "chunk"), (dict(chunk=True), "chunk"), (dict(n=0), "n"),
    (dict(m=B + 1), "m"), (dict(alpha=0.0), "alpha"), (dict(reduction="what"), "reduction"),
    (dict(label_smoothing=2), "label_smoothing"), (dict(ignore_index=0.5), "ignore_index"),
    (dict(backend="none such"), "backend"), (dict(head=3), "head"), (dict(input=[1.0]), "input"),
    (dict(target=[1] * B), "target"), (dict(target=torch.zeros(B - 1, dtype=torch.int64)), "target"),
    (dict(target=torch.zeros(B)), "target"), (dict(target=torch.zeros(B, C, dtype=torch.int64)), "target"),
    (dict(target=torch.full((B,), C)), "target"), (dict(target=torch.zeros(B - 1, C)), "target"),
    (dict(target=torch.zeros(B, C + 1)), "target"), (dict(attention=torch.ones(B, 3)), "attention"),
    (dict(head=lambda z: z[:-1]), "logits"), (dict(row_offset=-1), "row_offset"),
], ids=str)  # fmt: skip
def test_bad_arguments_are_refused(options, argument):
    options = dict(head=nn.Linear(D, C), input=torch.randn(B, D), target=torch.zeros(B, dtype=torch.int64)) | options
    with pytest.raises((ValueError, TypeError), match=rf"^{argument}\b"):
        mk.multimix_head_cross_entropy(**options)


def test_compiled():
    problem = Problem()
    compiled = torch.compile(lambda: problem.chunked(5), fullgraph=True, backend="aot_eager")
    for found, expected in zip(problem.gradients(compiled()), problem.gradients(problem.chunked(5)), strict=True):
        assert_close(found, expected)


def test_autocast_holds_in_both_passes():
    problem, dtypes = Problem(dtype=torch.float32), []

    def head(z):
        logits = problem.head(z)
        dtypes.append(logits.dtype)
        return logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mk.multimix_head_cross_entropy(head, problem.input, problem.target, chunk=12, **problem.options)
    loss.backward()
    assert loss.dtype == torch.float32
    assert dtypes == [torch.bfloat16] * 4


def test_batch_normalisation_sees_each_chunk_in_both_passes():
    """As the docstring says."""
    norm, problem = nn.BatchNorm1d(D), Problem(dtype=torch.float32)
    head = nn.Sequential(norm, nn.Linear(D, C))
    mk.multimix_head_cross_entropy(head, problem.input, problem.target, n=20, chunk=5).backward()
    assert norm.num_batches_tracked == 8
