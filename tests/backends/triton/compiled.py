"""The Triton kernels as they are compiled for a GPU, on a virtual one; run by test_compiled.py.

MULTIMIX_VIRTUAL_GPU is its architecture, 80 or 90. `every_kernel` is the short list: each kernel, type of operands and
branch once. The other tests are those of every backend, for which most of the time goes to Triton's compiler.
"""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from multimix_kernels.backends.contract import MEAN, NONE, SUM
from multimix_kernels.backends.triton.host import device as gpu
from multimix_kernels.backends.triton.host import shapes

from ...ptx.machine import Faults
from ...ptx.triton_driver import Machine, virtual_gpu
from ...support import plain, tf32
from ...support.bounds import assert_as_accurate, assert_same_weights
from ..corners import *  # noqa: F403
from ..kernels import *  # noqa: F403
from ..kernels import NAME, attention_of, compare, draw_of, operators, randn, reference, targets
from .regimes import *  # noqa: F403
from .regimes import choose_regime

ARCHITECTURE = int(os.environ["MULTIMIX_VIRTUAL_GPU"])
GPU = Machine(seed=int(os.environ.get("MULTIMIX_VIRTUAL_ORDER", "1")))
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "tf32": torch.float32}


@pytest.fixture(scope="session", autouse=True)
def virtual():
    """The GPU of all tests; what it executed is written where MULTIMIX_VIRTUAL_COUNTS says."""
    with virtual_gpu(ARCHITECTURE, GPU):
        yield
    if "MULTIMIX_VIRTUAL_COUNTS" in os.environ:
        found = {name: dict(launches=GPU.launches[name], **counts) for name, counts in sorted(GPU.counts.items())}
        Path(os.environ["MULTIMIX_VIRTUAL_COUNTS"]).write_text(json.dumps(found, indent=1))


@pytest.fixture
def device():
    return torch.device("cpu")


@pytest.fixture
def operand(request):
    """The type of operands; TF32 is float32 where PyTorch allows it.

    Approximate functions are as wrong as they may be, but in float32: there such exponentials alone would miss the
    bound, as they may be wrong by 2 units in the last place, and those of plain PyTorch are by 1.
    """
    GPU.approximate_error, before = float(request.param != "fp32"), torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if request.param == "tf32" else "ieee"
    yield request.param
    GPU.approximate_error, torch.backends.cuda.matmul.fp32_precision = 0.0, before


def hold(name: str, arguments, operand: str, total: bool = True) -> None:
    """An operator to float64, as near as plain PyTorch with products of the same operands; given the same weights.

    But in float32, where those that the kernels divide by their sum once more differ by as much as is allowed. A total
    is near by luck where errors of rows cancel: without `total` their losses have been held alone.
    """
    if operand == "fp32":
        compare(name, arguments, torch.float32)
        return
    wide = [x.double() if isinstance(x, torch.Tensor) and x.dtype == TYPES[operand] else x for x in arguments]
    found, exact = getattr(operators, name)(*arguments), plain.evaluate(NAME, name, wide)
    with tf32.Products() if operand == "tf32" else nullcontext():
        near = plain.evaluate(NAME, name, arguments)
    for k, (x, y, z) in enumerate(zip(found if isinstance(found, tuple) else (found,), exact, near, strict=True)):
        assert x.shape == y.shape == z.shape
        if x.numel() > (not total and k == 0):
            assert not x.isnan().any(), f"{name}: output {k}"
            assert_as_accurate(x, z, y.double(), f"{name}, output {k}")


OPERANDS = pytest.mark.parametrize("operand", TYPES, indirect=True)


def example(operand, r=1, b=20, c=12, n=21, soft=False, ignored=0):
    """Scores, logits, targets, the mask of ignored examples."""
    scores, logits = (3 * randn(r, rows, c).to(TYPES[operand]) for rows in (b, n))
    return scores, logits, *targets(b, c, TYPES[operand], soft, ignored)


@OPERANDS
def test_every_kernel_small(operand):
    """The fused kernel: labels and probabilities, with rows or their sum, upstream gradients, attention."""
    scores, _, y, ignored = example(operand, ignored=2)
    hold("mixed_cross_entropy", (scores, y, 0.1, -100, MEAN, True, False, None, ignored, *draw_of(21, 20)), operand)
    scores, _, y, _ = example(operand, r=2, soft=True)
    attention, upstream = attention_of(2, 20), 1e3 * randn(2, 21, seed=9).float()
    tail = (attention, None, *draw_of(21, 20, low=0.3))
    hold("mixed_cross_entropy", (scores, y, 0.0, -100, NONE, False, False, *tail), operand)
    hold("mixed_cross_entropy_backward", (upstream, scores, y, 0.0, -100, True, False, *tail), operand)


@OPERANDS
@pytest.mark.parametrize("in_place", [False, True])
def test_every_kernel_large(operand, in_place, monkeypatch):
    """Normaliser, gradients of scores and of the attention, operands copied or in place."""
    choose_regime("large in place" if in_place else "large", monkeypatch)
    if in_place:
        scores, _, y, _ = example(operand, soft=True, r=2, c=70, b=33)
        tail = (attention_of(2, 33), None, *draw_of(67, 33))
    else:
        scores, _, y, ignored = example(operand, r=2, c=70, b=33, ignored=2)
        tail = (attention_of(2, 33), ignored, *draw_of(21, 33))
    hold("mixed_cross_entropy", (scores, y, 0.1, -100, SUM, True, True, *tail), operand)
    if not in_place:  # as many rows as fill a GPU, in large tiles
        monkeypatch.setattr(gpu, "programs", lambda _: 1)
        tail = (None, ignored, *draw_of(130, 33))
        hold("mixed_cross_entropy", (scores[:1], y, 0.1, -100, NONE, False, False, *tail), operand)


@OPERANDS
def test_every_kernel_many(operand, monkeypatch):
    """Mixed scores in the scratch, the soft loss in place, gradients of both."""
    choose_regime("many", monkeypatch)
    scores, _, y, _ = example(operand, r=2, soft=operand in ("tf32", "fp16"))
    tail = (attention_of(2, 20), None, *draw_of(21, 20))
    hold("mixed_cross_entropy", (scores, y, 0.1, -100, MEAN, True, True, *tail), operand)


@OPERANDS
@pytest.mark.parametrize("soft", [False, True])
def test_every_kernel_soft(soft, operand):
    """The loss of any head's logits."""
    _, logits, y, _ = example(operand, r=2, c=70, soft=soft)
    tail = (attention_of(2, 20), None, *draw_of(21, 20))
    hold("soft_cross_entropy", (logits, y, 0.1, -100, MEAN, True, True, *tail), operand)


@OPERANDS
def test_every_kernel_mix(operand):
    """Mixtures of all and of few examples, and the gradients."""
    values, grad = (randn(2, rows, 70, seed=rows).to(TYPES[operand]) for rows in (33, 21))
    tail = (attention_of(2, 33), None, *draw_of(21, 33))
    hold("mix", (values, *tail), operand)
    hold("mix_backward", (grad, values, True, True, *tail), operand)


def test_every_kernel_sample():
    """Weights in all three kinds of arithmetic, of subsets, with attention, and for a concentration of each example."""
    alphas = (dict(), dict(low=0.3), dict(low=0.05, high=0.05), dict(alpha=torch.linspace(0.05, 3, 33).double()))
    for k, options in enumerate(alphas):
        attention, ignored = attention_of(2, 33) if k % 2 else None, torch.arange(33) % 4 == 1 if k > 1 else None
        arguments = (attention, ignored, *draw_of(9, 33, 5 if k % 2 else 33, **options))
        found, exact = (
            f.sample(33, 2, t, *arguments) for f, t in ((operators, torch.float32), (reference, torch.float64))
        )
        assert_same_weights(found.mT, exact.mT)
    assert not GPU.counts["sample_kernel"]["double"]  # which most GPUs do at 1/64 of the speed of float32


def test_every_kernel_needs_its_barriers(monkeypatch):
    """Without them threads race, and that is seen."""
    monkeypatch.setattr(GPU, "mutate", lambda ptx: re.sub(r"\bbar\.sync\s+0;", "", ptx))
    scores, _, y, _ = example("bf16")
    with pytest.raises(Faults, match="race"):
        operators.mixed_cross_entropy(scores, y, 0.1, -100, MEAN, True, False, None, None, *draw_of(21, 20))


SMALL = [
    (b, c)
    for b in (16, 32, 64, 128, 256)
    for c in (16, 32, 64, 128, 256)
    if shapes.NVIDIA.mixed_small(b, c, "bf16") is not None
]


@pytest.mark.slow
@OPERANDS
@pytest.mark.parametrize(("b", "c"), SMALL)
def test_every_padded_shape(b, c, operand):
    """Of the fused kernel, which each needs another layout of."""
    if shapes.NVIDIA.mixed_small(b, c, operand) is None:
        pytest.skip("does not fit on chip")
    scores, _, y, _ = example(operand, b=b - 1, c=c - 3, n=20)
    rest = (True, False, None, None, *draw_of(20, b - 1))
    hold("mixed_cross_entropy", (scores, y, 0.1, -100, NONE, *rest), operand)
    hold("mixed_cross_entropy", (scores, y, 0.1, -100, MEAN, *rest), operand, total=False)
