"""Attention maps against the oracle, their dead examples, their gradients, and their range."""

import pytest
import torch
from torch.autograd import gradcheck

import multimix_kernels as mk

from .support import oracle
from .support.bounds import assert_as_accurate, assert_close

B, D, C = 4, 5, 3


def operands(spatial=(2, 3), dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    z = torch.randn(B, D, *spatial, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.randn(C, D, generator=g, dtype=torch.float64).to(dtype)
    return z, weight, torch.tensor([0, 2, 1, 2]), torch.rand(B, C, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("kind", ["gap", "cam", "uniform"])
@pytest.mark.parametrize("spatial", [(), (1,), (6,), (2, 3), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_equals_oracle(kind, activation, spatial, soft):
    z, weight, labels, probabilities = operands(spatial)
    target = probabilities if soft else labels
    found = mk.attention_map(z, kind, activation, weight=weight, target=target)
    exact = oracle.attention(z if spatial else z.unsqueeze(2), kind, activation, weight, target)
    assert_close(found, exact.reshape(found.shape))
    assert found.shape == (B, *spatial)
    total = found.reshape(B, -1).sum(1)
    assert ((total - 1).abs() < 1e-12).logical_or(total == 0).all()


@pytest.mark.parametrize("shape", [(0, D, 2), (B, 0, 2), (B, D, 0)])
def test_empty_input_is_refused(shape):
    for kind in ("gap", "cam", "uniform"):
        with pytest.raises(ValueError, match=r"^input: expected no empty dimension"):
            mk.attention_map(torch.ones(shape), kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["gap", "cam"])
def test_low_precision(kind, dtype):
    z, weight, target, _ = operands(dtype=dtype)
    found = mk.attention_map(z, kind, "softmax", weight=weight, target=target)
    assert found.dtype == dtype
    plain = oracle.attention(z, kind, "softmax", weight, target)
    assert_as_accurate(found, plain, oracle.attention(z.double(), kind, "softmax", weight.double(), target))


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("kind", ["gap", "cam"])
def test_does_not_overflow_in_float16(kind, activation):
    """Sums over features and locations may exceed what float16 holds; the attention itself never does."""
    g = torch.Generator().manual_seed(1)
    z = (16 * torch.rand(2, 512, 7, 7, generator=g) * torch.rand(2, 1, 7, 7, generator=g)).half()
    weight, target = 4 * torch.rand(3, 512, generator=g).half(), torch.tensor([0, 2])
    found = mk.attention_map(z, kind, activation, weight=weight, target=target).double()
    exact = oracle.attention(z.double(), kind, activation, weight.double(), target)
    assert ((found.sum((1, 2)) - 1).abs() < 0.02).all()
    if activation == "relu":  # the softmax of scores this large is only as good as their rounding
        assert_close(found, exact, 0.01)


@pytest.mark.parametrize("kind", ["gap", "cam"])
def test_dead_example_is_zero_with_zero_gradient(kind):
    z, weight, target, _ = operands()
    z[1] = -z[1].abs() if kind == "cam" else 0
    weight = weight.abs()
    z.requires_grad_()
    found = mk.attention_map(z, kind, weight=weight, target=target)
    assert not found[1].any()
    assert found[0].any()
    gradient = torch.autograd.grad(found.square().sum(), z)[0]
    assert not gradient[1].any()
    assert gradient[0].any()


@pytest.mark.parametrize("activation", ["relu", "softmax"])
@pytest.mark.parametrize("kind", ["gap", "cam"])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(kind, activation, soft):
    z, weight, labels, probabilities = operands((2,))

    def evaluate(z, weight):
        return mk.attention_map(z, kind, activation, weight=weight, target=probabilities if soft else labels)

    gradcheck(evaluate, (z.requires_grad_(), weight.requires_grad_()))


def test_label_out_of_range_counts_as_class_zero():
    z, weight, target, _ = operands()
    ignored = torch.where(torch.arange(B) == 1, -100, target)
    first = torch.where(torch.arange(B) == 1, 0, target)
    assert torch.equal(
        mk.attention_map(z, "cam", weight=weight, target=ignored),
        mk.attention_map(z, "cam", weight=weight, target=first),
    )


def test_convolution_weight_and_strides():
    z, weight, target, _ = operands()
    expected = mk.attention_map(z, "cam", weight=weight, target=target)
    assert torch.equal(mk.attention_map(z, "cam", weight=weight[:, :, None, None], target=target), expected)
    last = z.to(memory_format=torch.channels_last)
    assert_close(mk.attention_map(last, "cam", weight=weight, target=target), expected)


@pytest.mark.parametrize(("argument", "error", "call"), [
    ("input", TypeError, lambda z, w, t: mk.attention_map(None)),
    ("input", TypeError, lambda z, w, t: mk.attention_map(z.long())),
    ("input", ValueError, lambda z, w, t: mk.attention_map(z[:, 0, 0, 0])),
    ("kind", ValueError, lambda z, w, t: mk.attention_map(z, "grad-cam")),
    ("activation", ValueError, lambda z, w, t: mk.attention_map(z, "gap", "gelu")),
    ("weight", ValueError, lambda z, w, t: mk.attention_map(z, "cam", target=t)),
    ("target", ValueError, lambda z, w, t: mk.attention_map(z, "cam", weight=w)),
    ("weight", ValueError, lambda z, w, t: mk.attention_map(z, "cam", weight=w[:, :-1], target=t)),
    ("weight", ValueError, lambda z, w, t: mk.attention_map(z, "cam", weight=w[0], target=t)),
    ("target", ValueError, lambda z, w, t: mk.attention_map(z, "cam", weight=w, target=t[:-1])),
    ("target", ValueError, lambda z, w, t: mk.attention_map(z, "cam", weight=w, target=torch.rand(B, C + 1))),
])  # fmt: skip
def test_errors_name_the_argument(argument, error, call):
    z, weight, target, _ = operands()
    with pytest.raises(error, match=rf"\b{argument}\b"):
        call(z, weight, target)
