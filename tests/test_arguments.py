"""Every bad argument of every public function is refused by an error that names it."""

import numpy as np
import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import arguments
from multimix_kernels.backends import TABLE as BACKENDS

B, D, C = 5, 4, 3
FAR = torch.device("meta")  # any other device than the operands'


def x(*spatial, dtype=torch.float32):
    return torch.randn(B, D, *spatial, dtype=dtype)


def y(value=0):
    return torch.full((B,), value)


def w(d=D):
    return torch.randn(C, d)


def plain(input=None, target=None, weight=None, bias=None, **options):
    fill = (v if v is not None else default for v, default in ((input, x()), (target, y()), (weight, w())))
    return mk.multimix_cross_entropy(*fill, bias, **{"n": 3} | options)


def dense(input=None, target=None, weight=None, bias=None, **options):
    fill = (v if v is not None else default for v, default in ((input, x(2)), (target, y()), (weight, w())))
    return mk.dense_multimix_cross_entropy(*fill, bias, **{"n": 3} | options)


def scores(scores=None, target=None, **options):
    return mk.mixed_cross_entropy(
        torch.randn(B, C, 2) if scores is None else scores, y() if target is None else target, **{"n": 3} | options
    )


def mix(input=None, **options):
    return mk.multimix(x(2) if input is None else input, **{"n": 3} | options)


def sample(n=3, b=B, **options):
    return mk.sample_dirichlet(n, b, **options)


def of_mixture(logits=None, target=None, **options):
    mixture = mk.multimix(x(2), n=3, seed=1)
    return mixture.cross_entropy(
        torch.randn(3, C, 2) if logits is None else logits, y() if target is None else target, **options
    )


def targets(target=None, num_classes=C, **options):
    return mk.multimix(x(2), n=3, seed=1).targets(y() if target is None else target, num_classes, **options)


def attend(input=None, kind="cam", activation="relu", weight=None, target=None):
    fill = (v if v is not None else default for v, default in ((input, x(2)), (weight, w()), (target, y())))
    input, weight, target = fill
    return mk.attention_map(input, kind, activation, weight=weight, target=target)


LINEAR = [plain, dense]
LOSSES = [plain, dense, scores]
WITH_TARGET = [*LOSSES, of_mixture]
DRAWING = [*LOSSES, mix, sample]

# (argument, error, value): the argument is passed by this name, and the message must begin with it.
DRAW = [
    ("n", ValueError, 0), ("n", ValueError, -1), ("n", TypeError, 2.0), ("n", TypeError, None), ("n", TypeError, True),
    ("n", ValueError, 10**20), ("n", TypeError, np.float32(2)), ("n", TypeError, np.ones(2, int)),
    ("n", TypeError, torch.tensor(2.0)), ("n", TypeError, torch.tensor([2])), ("n", TypeError, torch.tensor(True)),
    ("n", TypeError, torch.tensor(2, device=FAR)), ("m", TypeError, torch.tensor(2.0)), ("m", ValueError, np.int64(0)),
    ("m", ValueError, 0), ("m", ValueError, B + 1), ("m", ValueError, -1), ("m", TypeError, 2.0), ("m", TypeError, "2"),
    ("alpha", ValueError, 0.0), ("alpha", ValueError, 0.0099), ("alpha", ValueError, 1000.1),
    ("alpha", ValueError, -1.0), ("alpha", ValueError, float("nan")), ("alpha", ValueError, float("inf")),
    ("alpha", ValueError, (2.0, 0.5)), ("alpha", ValueError, (0.001, 1.0)), ("alpha", ValueError, (1.0, 1001.0)),
    ("alpha", TypeError, (1.0,)), ("alpha", TypeError, (1.0, 2.0, 3.0)), ("alpha", TypeError, "one"),
    ("alpha", ValueError, torch.full((B,), 0.0099999)), ("alpha", ValueError, torch.full((B,), 1000.001)),
    ("alpha", ValueError, np.float32(0.009)), ("alpha", TypeError, np.ones(B)), ("alpha", TypeError, np.bool_(True)),
    ("alpha", TypeError, None), ("alpha", TypeError, True), ("alpha", TypeError, ("a", "b")),
    ("alpha", ValueError, torch.ones(B + 1)), ("alpha", ValueError, torch.ones(B, 1)),
    ("alpha", ValueError, torch.full((B,), 0.001)), ("alpha", ValueError, torch.full((B,), torch.nan)),
    ("alpha", ValueError, torch.ones(B).requires_grad_()), ("alpha", ValueError, torch.ones(B, device=FAR)),
    ("alpha", TypeError, torch.ones(B, dtype=torch.complex64)), ("alpha", TypeError, torch.ones(B, dtype=torch.bool)),
    ("seed", TypeError, 1.0), ("seed", TypeError, "1"), ("seed", TypeError, True),
    ("seed", ValueError, 2**64), ("seed", ValueError, -(2**63) - 1),
    ("seed", TypeError, torch.tensor([1.0])), ("seed", TypeError, torch.tensor([1], dtype=torch.int32)),
    ("seed", ValueError, torch.tensor([1, 2])), ("seed", ValueError, torch.tensor([1], device=FAR)),
    ("seed", ValueError, torch.zeros(0, dtype=torch.int64)),
    ("generator", TypeError, 5), ("row_offset", ValueError, -1), ("row_offset", ValueError, 2**63 - 3),
    ("row_offset", TypeError, 0.0), ("row_offset", TypeError, None),
    ("backend", ValueError, "fast"), ("backend", ValueError, 3),
]  # fmt: skip
LOSS = [
    ("label_smoothing", ValueError, -0.1), ("label_smoothing", ValueError, 1.1),
    ("label_smoothing", ValueError, float("nan")), ("label_smoothing", ValueError, "0.1"),
    ("label_smoothing", ValueError, None), ("reduction", ValueError, "average"), ("reduction", ValueError, None),
    ("reduction", ValueError, 1), ("reduction", ValueError, ["mean"]), ("ignore_index", TypeError, 0.5),
    ("ignore_index", TypeError, None), ("ignore_index", ValueError, 2**63), ("ignore_index", ValueError, -(2**63) - 1),
    ("label_smoothing", ValueError, np.float32(1.5)), ("label_smoothing", ValueError, True),
]  # fmt: skip
TARGET = [
    ("target", TypeError, [0] * B), ("target", ValueError, y()[:-1]), ("target", ValueError, y(C)),
    ("target", ValueError, y(-1)), ("target", TypeError, y().bool()), ("target", TypeError, y().float()),
    ("target", TypeError, np.zeros(B, int)), ("target", TypeError, torch.ones(B, C).to(torch.float8_e4m3fn)),
    ("target", ValueError, y(C).int()),
    ("target", TypeError, torch.ones(B, C).long()), ("target", TypeError, torch.ones(B, C).bool()),
    ("target", ValueError, torch.ones(B, C + 1)), ("target", ValueError, torch.ones(B + 1, C)),
    ("target", ValueError, torch.ones(B, C).requires_grad_()), ("target", ValueError, y().to(FAR)),
    ("target", TypeError, torch.tensor(1.0)), ("target", TypeError, torch.ones(B, C, 1)),
    ("target", ValueError, torch.tensor(1)),
]  # fmt: skip
CLASSIFIER = [
    ("weight", TypeError, "weight"), ("weight", ValueError, w(D + 1)), ("weight", ValueError, w()[0]),
    ("weight", ValueError, torch.randn(C, D, 3, 3)), ("weight", ValueError, torch.randn(0, D)),
    ("weight", TypeError, w().double()), ("weight", TypeError, w().bfloat16()), ("weight", ValueError, w().to(FAR)),
    ("bias", TypeError, 0.0), ("bias", ValueError, torch.zeros(C + 1)), ("bias", ValueError, torch.zeros(C, 1)),
    ("bias", TypeError, torch.zeros(C).double()), ("bias", ValueError, torch.zeros(C, device=FAR)),
]  # fmt: skip
ATTENTION = [
    ("attention", ValueError, torch.ones(B, 3)), ("attention", ValueError, torch.ones(B)),
    ("attention", ValueError, torch.ones(B, 1)), ("attention", TypeError, torch.ones(B, 2).long()),
    ("attention", ValueError, -torch.ones(B, 2)), ("attention", ValueError, torch.full((B, 2), torch.nan)),
    ("attention", ValueError, torch.full((B, 2), torch.inf)), ("attention", ValueError, torch.ones(B, 2, device=FAR)),
]  # fmt: skip
INPUT = [
    (TypeError, 5), (TypeError, [[1.0]]), (TypeError, torch.ones(B, D).long()),
    (TypeError, torch.ones(B, D, dtype=torch.complex64)), (ValueError, torch.ones(B)),
    (ValueError, torch.ones(0, D)), (ValueError, torch.ones(B, 0)), (ValueError, torch.tensor(1.0)),
]  # fmt: skip

TABLE = (
    [(f, *row) for f in DRAWING for row in DRAW]
    + [(f, *row) for f in WITH_TARGET for row in LOSS]
    + [(f, *row) for f in WITH_TARGET for row in TARGET]
    + [(f, *row) for f in LINEAR for row in CLASSIFIER]
    + [(f, *row) for f in (dense, scores, mix) for row in ATTENTION]
    + [(f, "input", *row) for f in (plain, dense, mix) for row in INPUT]
    + [(scores, "scores", *row) for row in INPUT]
    + [
        (plain, "input", ValueError, x(2)),
        (dense, "attention", ValueError, "gradcam"),
        (dense, "attention", TypeError, None),
        (dense, "attention", TypeError, np.ones((B, 2))),
        (dense, "attention_activation", ValueError, "gelu"),
        (scores, "attention", TypeError, "gap"),
        (mix, "attention", TypeError, "gap"),
        (sample, "b", ValueError, 0),
        (sample, "b", TypeError, 2.0),
        (sample, "b", ValueError, 2**63),
        (sample, "spatial", TypeError, 3),
        (sample, "spatial", TypeError, (2.0,)),
        (sample, "spatial", ValueError, (2, 0)),
        (sample, "spatial", ValueError, (2**13, 2**12)),
        (sample, "dtype", TypeError, torch.int64),
        (sample, "dtype", TypeError, "float32"),
        (of_mixture, "logits", TypeError, "logits"),
        (of_mixture, "logits", TypeError, torch.ones(3, C, 2).long()),
        (of_mixture, "logits", ValueError, torch.randn(4, C, 2)),
        (of_mixture, "logits", ValueError, torch.randn(3, C)),
        (of_mixture, "logits", ValueError, torch.randn(3, C, 3)),
        (of_mixture, "logits", ValueError, torch.randn(3, C, 2, device=FAR)),
        (targets, "target", ValueError, y(C)),
        (targets, "target", ValueError, y()[:-1]),
        (targets, "ignore_index", TypeError, 0.5),
        (targets, "ignore_index", ValueError, 2**63),
        (attend, "input", ValueError, torch.ones(0, D, 2)),
        (attend, "input", ValueError, torch.ones(B, D, 0)),
        (attend, "input", ValueError, torch.ones(B)),
        (attend, "input", TypeError, torch.ones(B, D).long()),
        (attend, "kind", ValueError, "gradcam"),
        (attend, "kind", ValueError, ["cam"]),
        (attend, "activation", ValueError, "gelu"),
        (attend, "weight", TypeError, "weight"),
        (attend, "weight", ValueError, w(D + 1)),
        (attend, "target", TypeError, [0] * B),
        (attend, "target", TypeError, y().bool()),
        (attend, "target", ValueError, y()[:-1]),
        (attend, "target", ValueError, torch.ones(B, C + 1)),
        (targets, "num_classes", TypeError, 2.5),
        (targets, "num_classes", TypeError, "3"),
        (targets, "num_classes", ValueError, 0),
        (targets, "num_classes", ValueError, -1),
    ]
)


def unusual():
    """Every tensor argument, as a Tensor that is no plain one."""
    tensors = [
        (plain, "input", x()), (plain, "weight", w()), (plain, "bias", torch.zeros(C)), (plain, "target", y()),
        (plain, "target", torch.ones(B, C)), (plain, "alpha", torch.ones(B)), (dense, "input", x(2)),
        (dense, "attention", torch.ones(B, 2)), (scores, "scores", torch.randn(B, C, 2)),
        (scores, "attention", torch.ones(B, 2)), (mix, "input", x(2)), (mix, "attention", torch.ones(B, 2)),
        (of_mixture, "logits", torch.randn(3, C, 2)), (of_mixture, "target", y()), (targets, "target", y()),
        (attend, "input", x(2)), (attend, "weight", w()), (attend, "target", y()), (sample, "alpha", torch.ones(B)),
    ]  # fmt: skip
    for function, name, value in tensors:
        yield function, name, value.to_sparse()
        yield function, name, torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])
        yield function, name, torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged)
        yield function, name, value.to(torch.float8_e4m3fn)
        yield function, name, value.numpy()


def identify(value):
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype)[6:]}{tuple(value.shape)}"
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("function", "argument", "error", "value"), TABLE, ids=identify)
def test_bad_argument(function, argument, error, value):
    with pytest.raises(error, match=rf"^{argument}: ") as caught:
        function(**{argument: value})
    assert len(str(caught.value)) > len(argument) + 10


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_unusual_tensors():
    for function, argument, value in unusual():
        with pytest.raises(TypeError, match=rf"^{argument}: expected"):
            function(**{argument: value})


@pytest.mark.parametrize("function", DRAWING)
def test_seed_and_generator_exclude_each_other(function):
    with pytest.raises(ValueError, match=r"^generator: .*seed"):
        function(seed=1, generator=torch.Generator())


@pytest.mark.parametrize("function", [plain, dense, scores, mix, sample])
def test_edges_of_what_is_accepted(function):
    alphas = (0.01, 1000.0, 1, (0.01, 1000), [0.5, 2.0], torch.ones(B), torch.tensor(0.7), torch.ones(B).long())
    for alpha in alphas:
        function(alpha=alpha)
    for seed in (0, -1, 2**64 - 1, -(2**63), torch.tensor(3), torch.tensor([[3]])):
        function(seed=seed)
    for m in (1, B, None):
        function(m=m)
    function(row_offset=2**63 - 1 - 3)
    function(n=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("bound", [0.01, 1000.0])
def test_bounds_of_alpha_in_every_dtype(bound, dtype, backend, device):
    """0.01 in float32 is less than 0.01; both mean the bound, to every backend."""
    options = dict(seed=3, device=device, backend=backend)
    alpha = torch.full((B,), bound, dtype=dtype, device=device)
    exact = dtype not in (torch.bfloat16, torch.float16)
    for same in (alpha, alpha.float(), alpha.double()):
        found = sample(alpha=same, **options)
        if exact:
            assert torch.equal(found, sample(alpha=torch.full((B,), bound, dtype=torch.float64), **options))
    found = sample(alpha=alpha[0].cpu(), **options)
    if exact:
        assert torch.equal(found, sample(alpha=bound, **options))
    for number in (np.float32(bound), torch.tensor(bound).item(), (np.float32(bound), np.float64(bound))):
        assert torch.equal(sample(alpha=number, **options), sample(alpha=bound, **options))


NUMBERS = [np.int64, np.int32, np.uint8, np.array, torch.tensor, lambda v: torch.tensor(v, dtype=torch.int32)]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("function", DRAWING)
def test_integers_of_numpy_and_torch(function, number):
    found = []
    for as_given in (number, int):
        torch.manual_seed(1)  # of the operands
        result = function(n=as_given(4), m=as_given(2), row_offset=as_given(3), seed=7)
        found.append(result.embeddings if isinstance(result, mk.Mixture) else result)
    assert torch.equal(*found)


@pytest.mark.parametrize("number", NUMBERS[:-1])
def test_seed_of_numpy_and_torch(number):
    assert torch.equal(sample(seed=number(7)), sample(seed=7))


@pytest.mark.parametrize("number", [np.float64, np.float32, np.float16, torch.tensor])
def test_floats_of_numpy_and_torch(number):
    given = dict(alpha=number(0.75), label_smoothing=number(0.25), ignore_index=np.int64(-1), seed=1)
    plain_numbers = dict(alpha=0.75, label_smoothing=0.25, ignore_index=-1, seed=1)
    operands = dict(input=x(), weight=w(), target=torch.tensor([0, 1, 2, -1, 0]))
    assert torch.equal(plain(**operands, **given), plain(**operands, **plain_numbers))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_labels_of_every_integer_dtype(dtype, backend, device):
    """Converted to int64, with the index that is ignored where the dtype holds it."""
    ignore_index = 200 if dtype == torch.uint8 else -100
    target = torch.tensor([0, 1, 2, ignore_index, 0], device=device)
    z, maps, weight = (t.to(device) for t in (x(), x(2), w()))
    options = dict(n=3, seed=1, ignore_index=ignore_index, backend=backend)
    mixture = mk.multimix(z, n=3, seed=1, backend=backend)
    for call in (
        lambda t: mk.multimix_cross_entropy(z, t, weight, **options),
        lambda t: mk.dense_multimix_cross_entropy(maps, t, weight, attention="cam", **options),
        lambda t: mk.mixed_cross_entropy(z, t.clamp(max=3), **options),
        lambda t: mixture.cross_entropy(torch.ones(3, C, device=device), t, ignore_index=ignore_index),
        lambda t: mixture.targets(t, C, ignore_index=ignore_index),
        lambda t: mk.attention_map(maps, "cam", weight=weight, target=t),
    ):
        assert torch.equal(call(target.to(dtype)), call(target))


def test_meta_propagates_shapes():
    """As of any operator of torch; no value is read."""
    meta = dict(device=FAR)
    z, t, weight = torch.empty(B, D, 2, requires_grad=True, **meta), y().to(FAR), torch.empty(C, D, **meta)
    loss = mk.dense_multimix_cross_entropy(z, t, weight, n=3)
    assert loss.device == FAR
    assert loss.shape == ()
    assert torch.autograd.grad(loss, z)[0].shape == z.shape
    assert mk.mixed_cross_entropy(z, t, n=3, reduction="none").shape == (3, 2)
    mixture = mk.multimix(z, n=3)
    assert mixture.embeddings.shape == (3, D, 2)
    assert mixture.weights().shape == (3, B, 2)
    assert mixture.targets(t, C).shape == (3, C, 2)
    assert mk.sample_dirichlet(3, B, **meta).shape == (3, B)
    with pytest.raises(TypeError, match=r"^weight: expected dtype"):
        dense(z, t, weight.double())


def test_classifier_and_labels_are_checked_once(monkeypatch, backend):
    counts = {"check_target": 0, "check_classifier": 0, "check_attention": 0}

    def counting(name, check):
        def counted(*args):
            counts[name] += 1
            return check(*args)

        return counted

    for name in counts:
        monkeypatch.setattr(arguments, name, counting(name, getattr(arguments, name)))
    device = (BACKENDS[backend].devices or ("cpu",))[0]
    operands = [t.to(device) for t in (x(2), y(), w())]
    mk.dense_multimix_cross_entropy(*operands, attention=torch.ones(B, 2, device=device), n=3, backend=backend)
    assert counts == {"check_target": 1, "check_classifier": 1, "check_attention": 1}


def test_backend_for_other_devices_is_refused():
    for name, found in mk.available_backends().items():
        if found and "cpu" not in found.devices and "any" not in found.devices:
            with pytest.raises(ValueError, match="backend"):
                scores(backend=name)


def test_message_names_the_value_and_what_is_accepted():
    with pytest.raises(ValueError, match=r"\[1, 5\].*got 9"):
        plain(m=9)
    with pytest.raises(ValueError, match=r"drop_last=True.*clamp_m=True"):
        plain(m=9)
    with pytest.raises(ValueError, match=r"\[0\.01, 1000\.0\].*got 0\.001"):
        plain(alpha=0.001)
    with pytest.raises(ValueError, match=r"\[0, 3\).*got 7"):
        plain(target=y(7))
    with pytest.raises(ValueError, match=r"4 columns.*got 6"):
        plain(weight=w(6))


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_sample_takes_every_name_of_a_device(device):
    """A device with its index is the device without."""
    for options in (dict(seed=torch.tensor([1])), dict(alpha=torch.ones(B)), dict(generator=torch.Generator()), {}):
        assert sample(device=device, **options).shape == (3, B)


def test_sample_uses_the_default_device():
    with torch.device("cpu"):
        assert sample().device.type == "cpu"


def test_refused_calls_draw_no_seed():
    """An error leaves the generator as it was."""
    operands = x(), y(), w()
    state = torch.get_rng_state()
    for options in (dict(m=9), dict(reduction="what"), dict(alpha=0.0), dict(label_smoothing=2), dict(n=0)):
        with pytest.raises(ValueError, match="expected"):
            mk.multimix_cross_entropy(*operands, **{"n": 3} | options)
    assert torch.equal(torch.get_rng_state(), state)


def test_any_ignored_index_is_in_range():
    for ignore_index in (-100, -1, C, 99):
        target = torch.tensor([0, 1, C - 1, ignore_index, 0])
        for function in LOSSES:
            assert function(target=target, ignore_index=ignore_index).isfinite()
