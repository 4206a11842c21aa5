"""The registered operators: torch.library.opcheck, schemas, strides, and what they must not do."""

import itertools

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from multimix_kernels.backends.contract import MEAN, NONE, SCHEMAS, SUM, Draw
from multimix_kernels.ops import OPERATORS

from .support.bounds import assert_close

B, C, N = 5, 4, 6


def draw_of(device, m=B, alpha=None):
    seed = torch.tensor([7], device=device)
    alpha = None if alpha is None else torch.linspace(0.4, 2, B, dtype=torch.float64, device=device)
    return Draw(seed, alpha, N, m, 0.5, 2.0, 3)


def samples(name, device, dtype):
    """Arguments of an operator: each dense or not, with and without attention, ignored examples and the rest."""
    g = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(*shape, generator=g).to(device, dtype)

    labels = torch.tensor([0, 3, -100, 1, 2], device=device)
    for r, attended, ignoring in itertools.product((1, 3), (False, True), (False, True)):
        attention = draw(r, B) if attended else None
        ignored = labels == -100 if ignoring else None
        tail = (attention, ignored, *draw_of(device, m=3 if ignoring else B, alpha=ignoring or None))
        rows = draw(r, N, C)
        if name == "sample":
            yield (B, r, dtype, *tail)
        elif name == "mix":
            yield (draw(r, B, C), *tail)
        elif name == "mix_backward":
            for want in ((True, attended), (False, attended)):
                yield (rows, draw(r, B, C), *want, *tail)
        else:
            operand = draw(r, B, C) if name.startswith("mixed") else rows
            for soft, want_operand in itertools.product((False, True), (False, True)):
                target = draw(B, C) if soft else labels.clamp(min=-100 if ignoring else 0)
                options = (0.1, -100)
                want = (want_operand, attended)
                if name.endswith("backward"):
                    yield (draw(r, N).float(), operand, target, *options, *want, *tail)
                else:
                    for reduction in (NONE, MEAN, SUM):
                        yield (operand, target, *options, reduction, *want, *tail)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SCHEMAS)
def test_opcheck(name, backend, device, dtype):
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    # A step that is prime to the number of choices visits them all, not every combination.
    for arguments in itertools.islice(samples(name, device, dtype), 0, None, 1 if dtype == torch.float32 else 7):
        opcheck(OPERATORS[backend][name], arguments, test_utils=tests)


@pytest.mark.parametrize("name", SCHEMAS)
def test_opcheck_dynamic(name, backend, device):
    for arguments in itertools.islice(samples(name, device, torch.float32), 0, None, 11):
        opcheck(OPERATORS[backend][name], arguments, test_utils="test_aot_dispatch_dynamic")


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_outputs_are_what_the_fake_says(name, layout, backend, device):
    """Shape, dtype, strides, whatever the strides of the operands; every element written; and the same values."""

    def laid_out(x):
        if not isinstance(x, torch.Tensor) or x.dim() < 2 or layout == "contiguous":
            return x
        if layout == "strided":
            return torch.stack([x, x], -1)[..., 0]
        return x.transpose(0, 1).contiguous().transpose(0, 1)

    operator = OPERATORS[backend][name]
    for plain in itertools.islice(samples(name, device, torch.float32), 0, None, 5):
        arguments = [laid_out(x) for x in plain]
        real, expected = operator(*arguments), operator(*plain)
        with FakeTensorMode() as mode:
            fake = operator(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
        listed = [x if isinstance(x, (tuple, list)) else (x,) for x in (real, expected, fake)]
        for found, same, promised in zip(*listed, strict=True):
            assert found.shape == promised.shape
            assert found.dtype == promised.dtype
            assert found.stride() == promised.stride()
            assert found.device == promised.device
            assert not found.isnan().any()
            if found.numel():
                assert_close(found, same, 1e-6)


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "sample"])
def test_gradients_not_wanted_are_empty(name, backend, device):
    for arguments in samples(name, device, torch.float32):
        found = OPERATORS[backend][name](*arguments)
        if name == "mix":
            continue
        wants = [x for x in arguments if isinstance(x, bool)]
        assert len(wants) == 2
        for want, gradient in zip(wants, found[-2:], strict=True):
            assert gradient.dim() == (1 if not want else gradient.dim())
            assert (gradient.numel() > 0) == want
            assert gradient.dtype == torch.float32


@pytest.mark.parametrize("name", ["mixed_cross_entropy", "soft_cross_entropy"])
def test_loss_does_not_depend_on_what_is_wanted(name, backend, device):
    """The same bits with and without the operand's gradient; that of the attention may take other kernels."""
    found = {}
    for arguments in samples(name, device, torch.float32):
        target, reduction, tail = arguments[1], arguments[4], arguments[7:]
        key = (arguments[0].shape[0], target.dim(), reduction, tail[0] is None, tail[1] is None)
        if (*key, False) in found:
            continue
        operand = torch.ones_like(arguments[0]) * torch.arange(C, device=device)
        attention = None if tail[0] is None else torch.ones_like(tail[0])
        target = torch.full_like(target, 1 / C) if target.dim() == 2 else target
        for want in itertools.product((False, True), (False, attention is not None)):
            loss = OPERATORS[backend][name](operand, target, *arguments[2:4], reduction, *want, attention, *tail[1:])[0]
            assert torch.equal(found.setdefault((*key, want[1]), loss), loss)
        if attention is not None:
            torch.testing.assert_close(found[(*key, True)], found[(*key, False)], rtol=1e-6, atol=0)


def test_one_operator_per_schema_and_backend():
    for operators in OPERATORS.values():
        assert operators.keys() == SCHEMAS.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_uninitialised_memory_is_poisoned(dtype, device):
    """What the tests rely on to see an element that no kernel wrote."""
    x = torch.ones(2, dtype=dtype, device=device)
    for empty in (torch.empty(1000, dtype=dtype, device=device), x.new_empty(1000), torch.empty_like(x)):
        assert empty.isnan().all()
