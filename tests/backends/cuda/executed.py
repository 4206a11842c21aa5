"""The CUDA kernels as nvcc compiles them, on the machine of `tests/ptx`; run by test_executed.py.

The library has small super-blocks, so that some rows make several of them, and a switch between the two kernels of the
mixed loss.
"""

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels.backends.contract import MEAN, NONE, SUM

from ...ptx.cuda.plugin import LIBRARY, reports
from ..corners import *  # noqa: F403
from ..kernels import *  # noqa: F403
from ..kernels import FAR, NAME, attention_of, compare, draw_of, operators, randn, reference, targets


@pytest.fixture
def backend():
    return NAME


@pytest.fixture(params=["small", "large"])
def regime(request):
    """The fused kernel, or the super-blocks of rows whatever the sizes."""
    LIBRARY.standin_always_large(request.param == "large")
    yield request.param
    LIBRARY.standin_always_large(False)


@pytest.fixture
def tf32():
    """Float32 products may round their operands to TF32."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize("b", [1, 3, 40, 127, 129])
@pytest.mark.parametrize("c", [1, 2, 33, 101, 300])
def test_sizes(b, c):
    """Around the sizes of tiles; the gradient of the attention too."""
    n = 300 if b < 100 and c < 300 else 40
    y, ignored = targets(b, c, torch.float32, ignored=1 if b > 2 else 0)
    scores, attention = 3 * randn(1, b, c).float(), attention_of(1, b) + 0.1
    for want_attention, given in ((False, None), (True, attention)):
        tail = (MEAN, True, want_attention, given, ignored, *draw_of(n, b))
        compare("mixed_cross_entropy", (scores, y, 0.1, -100, *tail), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_several_super_blocks(dtype, regime):
    b, c, r, n = 33, 20, 2, 700
    soft, _ = targets(b, c, dtype, soft=True)
    labels, _ = targets(b, c, dtype)
    scores, logits = (3 * randn(r, rows, c).to(dtype) for rows in (b, n))
    for y in (labels, soft):
        tail = (y, 0.1, -100, SUM, True, True, attention_of(r, b), None, *draw_of(n, b))
        compare("mixed_cross_entropy", (scores, *tail), dtype)
        compare("soft_cross_entropy", (logits, *tail), dtype)
    tail = (attention_of(r, b), None, *draw_of(n, b))
    compare("mix", (scores, *tail), dtype)
    compare("mix_backward", (randn(r, n, c, seed=2).to(dtype), scores, True, True, *tail), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_mix_of_values_that_are_not_finite(bad, dtype):
    """They reach the rows that draw them, in their columns; all others have the bits that they had."""
    b, d, n = 40, 150, 300
    tail = (None, None, *draw_of(n, b, m=2))
    values = randn(1, b, d).to(dtype)
    clean = operators.mix(values, *tail)
    values[0, 5, 3], values[0, 7, 140] = bad, bad
    found = operators.mix(values, *tail)
    drawn = mk.sample_dirichlet(n, b, m=2, seed=77, row_offset=FAR, backend=NAME)[:, [5, 7]] > 0
    reached = torch.zeros(n, d, dtype=torch.bool)
    reached[:, 3], reached[:, 140] = drawn[:, 0], drawn[:, 1]
    assert reached.any()
    assert torch.equal(found[0].isfinite(), ~reached)
    assert torch.equal(found[0][~reached], clean[0][~reached])


def test_tf32(tf32, regime):
    """Operands of 11 bits: errors of 2**-11 relative to the largest element, and no less than that of float32."""
    b, c, n = 40, 33, 200
    y, _ = targets(b, c, torch.float32)
    scores = 3 * randn(1, b, c).float()
    tail = (y, 0.0, -100, NONE, True, False, None, None, *draw_of(n, b))
    low = operators.mixed_cross_entropy(scores, *tail)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    high = operators.mixed_cross_entropy(scores, *tail)
    for x, z in zip(low[:2], high[:2], strict=True):
        error = ((x - z).abs().max() / z.abs().max()).item()
        assert 2**-20 < error < 2**-10


def test_long_sums(tf32):
    """Of classes without a target: sums of positive numbers, which one chain of matrix products over all rows, each of
    which truncates its sums, would make too small by about n 1.6e-9."""
    b, c, n = 16, 256, 4000
    scores, y = randn(b, c).float().requires_grad_(), torch.arange(b) % 3
    LIBRARY.standin_always_large(True)
    mk.mixed_cross_entropy(scores, y, n=n, m=2, alpha=1.0, seed=7, reduction="sum", backend=NAME).backward()
    LIBRARY.standin_always_large(False)
    mu = mk.sample_dirichlet(n, b, m=2, alpha=1.0, seed=7, dtype=torch.float64, backend="reference")
    exact = mu.T @ (mu @ scores.detach().double()).softmax(1)
    bias = (scores.grad.double() - exact)[:, 3:].sum() / exact[:, 3:].sum()
    assert abs(bias) < 2e-6


def test_same_bits_in_every_run():
    y, _ = targets(40, 33, torch.float32)
    scores = 3 * randn(1, 40, 33).float()
    tail = (y, 0.0, -100, MEAN, True, True, attention_of(1, 40), None, *draw_of(300, 40))
    first, second = (operators.mixed_cross_entropy(scores, *tail) for _ in range(2))
    assert all(torch.equal(x, z) for x, z in zip(first, second, strict=True))


@pytest.mark.parametrize(("b", "m", "every"), [
    (1300, 1300, None), (1300, 40, None), (1300, 900, None), (1300, 60, 3), (1300, 800, 3), (1300, 1299, 3),
    (4097, 4097, None),
], ids=str)  # fmt: skip
def test_long_rows(b, m, every):
    """Drawn by a whole block; subsets of few and of most, also where every third example is ignored."""
    ignored = None if every is None else torch.arange(b) % every == 1
    found, exact = (
        f.sample(b, 1, dtype, None, ignored, *draw_of(3, b, m))
        for f, dtype in ((operators, torch.float32), (reference, torch.float64))
    )
    assert torch.equal(found > 0, exact > 0)
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-30)


def test_too_many_examples_are_refused():
    with pytest.raises(RuntimeError, match="b = 100000 examples"):
        mk.sample_dirichlet(1, 100_000, seed=5, backend=NAME)


@pytest.mark.parametrize("name", ["mixed_cross_entropy", "soft_cross_entropy"])
def test_probabilities_of_another_dtype(name):
    operand, (y, _) = randn(1, 7, 5).float(), targets(7, 5, torch.float64, soft=True)
    tail = (0.0, -100, MEAN, True, False, None, None, *draw_of(7, 7))
    for one, other in zip(getattr(operators, name)(operand, y, *tail),
                          getattr(operators, name)(operand, y.float(), *tail), strict=True):  # fmt: skip
        assert torch.equal(one, other)


def test_log_space_needs_no_float64():
    """Which most GPUs do at 1/64 of the speed of float32."""
    for alpha in (0.05, torch.linspace(0.05, 3, 33, dtype=torch.float64)):
        mk.sample_dirichlet(40, 33, alpha=alpha, seed=1, backend=NAME)
    assert [report["counts"]["double"] for _, report in reports()] == [0, 0]


ARITHMETICS = {"hardware": (0.5, 2.0), "accurate": (0.35, 8.0), "log space": (0.05, 0.2)}


def as_accurate(name, arguments, operand):
    """Of TF32: operands of 11 bits, as errors of 2**-10 relative to the largest element; of 2**-9 where that is the
    difference of two sums, the attention's gradient."""
    if operand != "tf32":
        return compare(name, arguments, getattr(torch, operand))
    found, expected = (getattr(f, name)(*arguments) for f in (operators, reference))
    pairs = [(found, expected)] if name == "mix" else list(zip(found, expected, strict=True))
    for k, (x, y) in enumerate(pairs):
        assert not y.numel() or (x - y).abs().max() <= 2 ** (-9 if k == len(pairs) - 1 > 0 else -10) * y.abs().max(), (
            f"{name}: {k}"
        )


@pytest.fixture
def operand(request):
    torch.backends.cuda.matmul.fp32_precision = "tf32" if request.param == "tf32" else "ieee"
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = "ieee"


every_operand = pytest.mark.parametrize("operand", ["float32", "tf32", "bfloat16", "float16"], indirect=True)


def dtype_of(operand):
    return torch.float32 if operand == "tf32" else getattr(torch, operand)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@every_operand
def test_arithmetics(operand, arithmetic):
    """Weights in rows of any length and in rows of four at a time; the fused loss, and one by super-blocks."""
    low, high = ARITHMETICS[arithmetic]
    dtype = dtype_of(operand)
    for b in (24, 27):
        found, exact = (
            f.sample(b, 1, dtype if f is operators else torch.float64, None, None, *draw_of(40, b, low=low, high=high))
            for f in (operators, reference)
        )
        least = 2.0**-22 if operand == "float16" else 1e-7  # no weight of float16 is less, but zero
        assert ((found.double() - exact).abs() <= (torch.finfo(dtype).eps + 1e-5) * exact + least).all()
        y, _ = targets(b, 10, dtype)
        scores = (3 * randn(1, b, 10)).to(dtype)
        tail = (y, 0.1, -100, SUM, True, False, None, None, *draw_of(40, b, low=low, high=high))
        for large in (False, True):
            LIBRARY.standin_always_large(large)
            as_accurate("mixed_cross_entropy", (scores, *tail), operand)
    LIBRARY.standin_always_large(False)


@pytest.mark.parametrize(("b", "c"), [(24, 10), (24, 40), (100, 10), (140, 10)])
@every_operand
def test_shapes_of_super_blocks(operand, b, c):
    """Up to 64 and 128 examples and more of them; more and fewer than there are classes; with an attention gradient."""
    dtype = dtype_of(operand)
    LIBRARY.standin_always_large(True)
    scores = (3 * randn(1, b, c)).to(dtype)
    for soft in (False, True):
        y, _ = targets(b, c, dtype, soft)
        for attention in (None, attention_of(1, b) + 0.1):
            tail = (0.1, -100, SUM, True, attention is not None, attention, None, *draw_of(70, b))
            as_accurate("mixed_cross_entropy", (scores, y, *tail), operand)
    LIBRARY.standin_always_large(False)


@every_operand
def test_mixed_embeddings(operand):
    b, r, n, d = 33, 2, 21, 70
    values, grad = randn(r, b, d).to(dtype_of(operand)), randn(r, n, d, seed=2).to(dtype_of(operand))
    tail = (attention_of(r, b), None, *draw_of(n, b))
    as_accurate("mix", (values, *tail), operand)
    as_accurate("mix_backward", (grad, values, True, True, *tail), operand)


@pytest.mark.parametrize("c", [70, 7000])
@pytest.mark.parametrize("soft", [False, True])
@every_operand
def test_rows_of_logits(operand, soft, c):
    """A row is a warp's, or a whole block's."""
    b, n, dtype = 17, 9, dtype_of(operand)
    y, _ = targets(b, c, dtype, soft)
    tail = (y, 0.1, -100, SUM, True, True, attention_of(1, b) + 0.1, None, *draw_of(n, b))
    as_accurate("soft_cross_entropy", ((3 * randn(1, n, c)).to(dtype), *tail), operand)
