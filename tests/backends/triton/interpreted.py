"""The Triton kernels in Triton's interpreter; run by test_interpreter.py.

Sizes are small, as each operation of a kernel is some calls of NumPy.
"""

import math

import pytest
import torch
import triton
import triton.language as tl

import multimix_kernels as mk
from multimix_kernels.backends.contract import NONE, SUM
from multimix_kernels.backends.triton.host import device, shapes, tune
from multimix_kernels.backends.triton.mixed import large
from multimix_kernels.backends.triton.products.dot import round_operand
from multimix_kernels.backends.triton.weights import sample, stream
from multimix_kernels.backends.triton.weights.sample import HARDWARE_FROM

from ...support.bounds import assert_same_weights
from ..corners import *  # noqa: F403
from ..kernels import *  # noqa: F403
from ..kernels import attention_of, draw_of, operators, randn, targets
from ..kernels import reference as operators_of_reference
from .regimes import *  # noqa: F403
from .regimes import choose_regime


@triton.jit
def tf32_kernel(x_ptr, out_ptr):
    at = tl.arange(0, 4)
    tl.store(out_ptr + at, round_operand(tl.load(x_ptr + at), "tf32"))


@triton.jit
def approximate(x, OPERATION: tl.constexpr):
    """What the special function unit may give: PTX bounds its errors by 2**-22, absolute for logarithms of (0.5, 2)."""
    result = tl.log2(x) if OPERATION == "lg2" else tl.exp2(x) if OPERATION == "ex2" else tl.sqrt(x)
    sign = (((x.to(tl.int32, bitcast=True) >> 2) & 15).to(tl.float32) / 7.5 - 1.0) * 2.0**-22
    absolute = (x > 0.5) & (x < 2.0) if OPERATION == "lg2" else x != x
    return tl.where(absolute, result + sign, result * (1.0 + (sign if OPERATION != "sqrt" else sign * 0.5)))


@pytest.mark.parametrize(("alpha", "kept"), [(HARDWARE_FROM, True), (1.0, True), (0.3, False)])
def test_weights_by_approximate_functions(alpha, kept, monkeypatch):
    """Within 1e-5 from the least concentration that takes them, and not at 0.3, where accurate ones are used."""
    n, b = 2048, 64
    draw = draw_of(n, b, low=alpha, high=alpha)
    exact = operators_of_reference.sample(b, 1, torch.float64, None, None, *draw)
    monkeypatch.setattr(stream, "special", approximate)
    assert_same_weights(
        operators.sample(b, 1, torch.float32, None, None, *draw)[0], exact[0], rows=math.ceil(1e-5 * n * b)
    )
    monkeypatch.setattr(sample, "HARDWARE_FROM", 0.0)
    monkeypatch.setattr(sample, "ACCURATE_FROM", 0.0)
    found = operators.sample(b, 1, torch.float32, None, None, *draw)[0].double()
    wrong = ((found - exact[0]).abs() > 1e-5 * exact[0] + 2.0**-120).sum().item()
    assert (wrong <= math.ceil(1e-5 * n * b)) == kept, wrong


@triton.jit
def truncating(x, y, accumulator, OPERAND: tl.constexpr):
    """A product whose sum keeps 11 bits and cuts off the others, as tensor cores do beyond 24."""
    total = accumulator + tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    return (total.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


def test_long_sums_are_not_truncated(monkeypatch):
    """Each super-block begins at zero, and is added to nearest."""
    scores, y = torch.zeros(1, 7, 5), torch.arange(7) % 5
    choose_regime("large", monkeypatch)
    monkeypatch.setattr(large, "dot", truncating)
    arguments = (scores, y, 0.0, -100, SUM, True, False, None, None, *draw_of(1024, 7))
    exact = operators_of_reference.mixed_cross_entropy(*arguments)[1].double()
    errors = []
    for size in (16 << 20, 128 * (16 * 4 + 12)):  # one block, and eight
        monkeypatch.setattr(shapes, "SCRATCH_BYTES", size)
        errors.append((operators.mixed_cross_entropy(*arguments)[1].double() - exact).abs().max().item())
    assert errors[1] < errors[0] / 3


def test_offset_of_logits_costs_no_digits(monkeypatch):
    """In TF32 the attention's gradient against probabilities is as near whatever is common to all logits."""
    monkeypatch.setattr(device, "operand", lambda _: "tf32")
    logits, (y, _) = 3 * randn(1, 21, 170), targets(17, 170, torch.float32, soft=True)
    tail = (0.0, -100, SUM, False, True, attention_of(1, 17), None, *draw_of(21, 17))
    errors = []
    for offset in (0, 40):
        exact = operators_of_reference.soft_cross_entropy(logits + offset, y.double(), *tail)[2]
        found = operators.soft_cross_entropy((logits + offset).float(), y, *tail)[2]
        errors.append((found - exact).abs().max().item())
    assert errors[1] < 2 * errors[0]


@pytest.mark.parametrize("reduction", [SUM, NONE])
def test_gradient_that_cancels_keeps_its_digits(reduction, monkeypatch):
    """Where all is confident and right its halves at a label, softmax and target, agree to four digits."""
    choose_regime("large", monkeypatch)
    y, upstream = torch.full((40,), 2), torch.linspace(0.5, 2, 64).view(1, 64)
    scores = torch.zeros(1, 40, 9)
    scores[..., 2] = 10
    options = (0.0, -100, reduction) if reduction == SUM else (0.0, -100)
    arguments = (scores, y, *options, True, False, None, None, *draw_of(64, 40))
    name = "mixed_cross_entropy" if reduction == SUM else "mixed_cross_entropy_backward"
    arguments = arguments if reduction == SUM else (upstream, *arguments)
    found, exact = (getattr(f, name)(*arguments)[reduction == SUM] for f in (operators, operators_of_reference))
    assert torch.allclose(found, exact, rtol=1e-5, atol=0)


def test_rounding_to_tf32():
    """The NaN of a GPU, another one, infinity, and a number half way between two: up."""
    x = torch.tensor([0x7FFFFFFF, -1, 0x7F800000, 0x3F801000], dtype=torch.int32).view(torch.float32)
    out = torch.zeros(4)
    tf32_kernel[(1,)](x, out)
    assert out[:2].isnan().all()
    assert out[2:].tolist() == [float("inf"), 1 + 2**-10]


@pytest.fixture
def fake_timer(monkeypatch):
    """Tuning is on; the seconds of a family are made up, and how often it was asked for them is counted."""
    asked = []

    def measure(family, run, device):
        asked.append(family)
        with shapes.on_trial(family):
            run()
        return 1.0 if family.large["fp32"].rows == 64 else 2.0

    monkeypatch.setenv(tune.ENVIRONMENT_VARIABLE, "1")
    monkeypatch.setattr(tune, "chosen", {})
    monkeypatch.setattr(tune, "measure", measure)
    return asked


def test_tuning_changes_no_weight(fake_timer):
    """What decides on a weight's last bit is the same in all that are tried."""
    for family in (shapes.NVIDIA, shapes.CDNA, shapes.BLACKWELL):
        for other in tune.neighbours(family, "bf16"):
            assert other != family
            for b in (5, 33, 128, 700):
                assert other.sampler(b, False) == family.sampler(b, False)
                one, two = (f.mixed_small(b, 10, "bf16") for f in (other, family))
                assert one is two is None or one.pair == two.pair
    mk.sample_dirichlet(40, 33, seed=5, backend="triton")
    assert not fake_timer


def test_tuning_keeps_the_fastest(fake_timer, monkeypatch):
    choose_regime("large", monkeypatch)
    scores, target = randn(7, 5).float(), torch.arange(7) % 5
    losses = [mk.mixed_cross_entropy(scores, target, n=n, seed=1, backend="triton") for n in (9, 11)]
    count = len(fake_timer)
    assert count > 5
    (family,) = tune.chosen.values()  # 9 and 11 are of one class
    assert family.large["fp32"].rows == 64
    mk.mixed_cross_entropy(scores, target, n=9, seed=1, backend="triton")
    assert len(fake_timer) == count
    monkeypatch.delenv(tune.ENVIRONMENT_VARIABLE)
    for n, loss in zip((9, 11), losses, strict=True):
        assert torch.allclose(mk.mixed_cross_entropy(scores, target, n=n, seed=1, backend="triton"), loss, rtol=1e-6)


def test_tuning_is_off_by_default(monkeypatch):
    monkeypatch.setattr(tune, "measure", None)
    mk.sample_dirichlet(4, 3, seed=5, backend="triton")
