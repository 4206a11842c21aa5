"""The launchers of the mixed loss: the choice of kernels, super-blocks of rows, operands that are not copied.

`interpreted.py` and `compiled.py` import these tests and fixtures, to hold the kernels to them in both ways.
"""

import itertools

import pytest
import torch

from multimix_kernels.backends.contract import MEAN, NONE, SUM
from multimix_kernels.backends.triton.host import shapes

from ..kernels import NAME, attention_of, compare, draw_of, operators, randn, targets


@pytest.fixture
def backend():
    return NAME


REGIMES = ("small", "large", "many", "large in place", "many in place")


@pytest.fixture(params=REGIMES[:3])
def regime(request, monkeypatch):
    """The fused kernel, or super-blocks of rows for few or many examples, whatever the sizes."""
    choose_regime(request.param, monkeypatch)
    return request.param


def choose_regime(name, monkeypatch):
    if name != "small":
        monkeypatch.setattr(shapes.Family, "mixed_small", lambda *_: None)
    if name.startswith("many"):
        monkeypatch.setattr(shapes, "MOST_PAIRS_OF_EXAMPLES", 0)
    if name.endswith("in place"):  # scores too large to be copied, gradients too large for partial sums
        monkeypatch.setattr(shapes, "PACKED_BYTES", 0)
        monkeypatch.setattr(shapes, "PARTIAL_BYTES", 0)


@pytest.mark.parametrize("name", REGIMES[1:])
@pytest.mark.parametrize("soft", [False, True])
def test_super_blocks(soft, name, monkeypatch):
    """Several blocks of rows and of locations give what one does, also where nothing is copied."""
    scores, (y, _) = 3 * randn(2, 7, 6).float(), targets(7, 6, torch.float32, soft)
    choose_regime("large", monkeypatch)
    arguments = (scores, y, 0.1, -100, SUM, True, True, attention_of(2, 7), None, *draw_of(130, 7))
    whole = operators.mixed_cross_entropy(*arguments)
    monkeypatch.setattr(shapes, "SCRATCH_BYTES", 128 * (16 * 12 + 12))
    monkeypatch.setattr(shapes, "PARTIAL_BYTES", 2 * 4 * 32 * 16)
    choose_regime(name, monkeypatch)
    for one, other in zip(operators.mixed_cross_entropy(*arguments), whole, strict=True):
        assert torch.allclose(one, other, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("strides", [(2**32, 64, 1), (64, 2**32 // 5, 1), (64, 512, 2**28)], ids=str)
def test_strides_beyond_32_bits(strides, monkeypatch):
    """Elements far apart, in memory that is hardly touched, give the same bits."""
    r, b, c, n = 2, 5, 15, 6
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    buffer = torch.empty(2**32 + 2**20, dtype=torch.bfloat16)
    monkeypatch.undo()

    def far(x):
        return buffer.as_strided(x.shape, strides).copy_(x)

    x, logits, y = (randn(*shape).bfloat16() for shape in ((r, b, c), (r, n, c), (1, b, c)))
    tail = (attention_of(r, b), None, *draw_of(n, b))
    loss = (0.1, -100, SUM, True, True, *tail)
    for name, operand, *others in (
        ("mixed_cross_entropy", x, torch.arange(b), *loss),
        ("soft_cross_entropy", logits, torch.arange(b), *loss),
        ("mix", x, *tail),
        ("mix_backward", logits, x, True, True, *tail),
    ):
        near, there = (getattr(operators, name)(f(operand), *others) for f in (torch.clone, far))
        for one, other in zip(*((y,) if isinstance(y, torch.Tensor) else y for y in (near, there)), strict=True):
            assert torch.equal(one, other), name
    target = y.float().softmax(2).bfloat16()
    near, there = (operators.mixed_cross_entropy(x, f(target)[0], *loss) for f in (torch.clone, far))
    assert all(map(torch.equal, near, there))


@pytest.mark.parametrize("name", REGIMES[3:])
def test_operands_too_large_to_copy(name, monkeypatch):
    """Values and targets are read in place, in any layout, and gradients are added up in place."""
    choose_regime(name, monkeypatch)
    b, c, n = 33, 20, 67
    y, ignored = targets(b, c, torch.float32, ignored=3)
    scores = 3 * randn(b, c, 2).float().permute(2, 0, 1)
    probabilities, _ = targets(b, c, torch.float32, soft=True)
    tail = (MEAN, True, True, attention_of(2, b))
    compare("mixed_cross_entropy", (scores, y, 0.1, -100, *tail, ignored, *draw_of(n, b)), torch.float32)
    for name in ("mixed_cross_entropy", "soft_cross_entropy"):
        operand = scores if name.startswith("mixed") else 3 * randn(n, c, 2).float().permute(2, 0, 1)
        compare(name, (operand, probabilities.T.contiguous().T, 0.1, -100, *tail, None, *draw_of(n, b)), torch.float32)
    tail = (attention_of(2, b), ignored, *draw_of(n, b))
    compare("mix", (scores, *tail), torch.float32)
    compare("mix_backward", (randn(2, n, c, seed=2).float(), scores, True, True, *tail), torch.float32)


def test_loss_does_not_depend_on_what_is_wanted(regime):
    """Asking for gradients changes no bit of the loss, nor asking for the attention's one of the scores'."""
    y, _ = targets(7, 5, torch.float32)
    scores, tail = 3 * randn(2, 7, 5).float(), (attention_of(2, 7), None, *draw_of(41, 7))
    for reduction in (NONE, SUM):
        found = [
            operators.mixed_cross_entropy(scores, y, 0.1, -100, reduction, *want, *tail)
            for want in itertools.product((True, False), repeat=2)
        ]
        assert all(torch.equal(found[0][0], loss) for loss, *_ in found)
        assert torch.equal(found[0][1], found[1][1])
