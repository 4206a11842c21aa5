"""Memory beside inputs and outputs: what the launchers allocate on a GPU of 132 processors; no kernel runs."""

import importlib.util
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from multimix_kernels.backends.contract import MEAN, Draw, LossOptions, Want

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

from multimix_kernels.backends.triton import operators
from multimix_kernels.backends.triton.host import device
from multimix_kernels.backends.triton.weights import sample

LIMIT = 64 << 20


class Peak(TorchDispatchMode):
    """Bytes of all tensors made inside, now and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.seen = weakref.WeakSet()

    def _free(self, size):
        self.now -= size

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        inputs = {x.untyped_storage().data_ptr() for x in arguments if isinstance(x, torch.Tensor)}
        found = function(*arguments, **keywords or {})
        for x in found if isinstance(found, (tuple, list)) else (found,):
            if not isinstance(x, torch.Tensor) or x.untyped_storage().data_ptr() in inputs:
                continue
            storage = x.untyped_storage()
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, size)
        return found


def extra_bytes(name, b, c, n, dtype=torch.float32, soft=False, attended=False):
    """At most, beside inputs and outputs."""
    operand = torch.zeros(1, n if name == "soft_cross_entropy" else b, c, dtype=dtype)
    target = torch.zeros(b, c, dtype=dtype) if soft else torch.zeros(b, dtype=torch.int64)
    attention = torch.ones(1, b) if attended else None
    draw = Draw(torch.tensor([1]), None, n, b, 0.5, 2.0, 0)
    with Peak() as peak:
        if name == "mix_backward":
            grad = torch.zeros(1, n, c, dtype=dtype)
            before = peak.most
            found = operators.mix_backward(grad, operand, Want(True, attended), attention, None, draw)
        else:
            before = 0
            arguments = (operand, target, LossOptions(0.1, -100, MEAN), Want(True, attended), attention, None, draw)
            found = getattr(operators, name)(*arguments)
    return peak.most - before - sum(x.nbytes for x in found)


@pytest.fixture(autouse=True)
def kernels_left_out(monkeypatch):
    monkeypatch.setattr(type(sample.sample_kernel), "run", lambda *_, **__: None)
    monkeypatch.setattr(device, "programs", lambda _: 132)
    torch.use_deterministic_algorithms(False)


def test_what_is_counted():
    """A gibibyte that lives for a moment, and views of it."""
    with Peak() as peak:
        x = torch.empty(1 << 30, dtype=torch.int8)
        x.view(2, -1)[1].add_(0)
        del x
        torch.empty(1 << 20, dtype=torch.int8)
    assert 1 << 30 <= peak.most < (1 << 30) + (1 << 16)
    assert peak.now < 1 << 16


@pytest.mark.parametrize("b", [7, 128, 512, 1500, 4096, 8192])
@pytest.mark.parametrize(("dtype", "soft", "attended"), [
    (torch.float32, False, False), (torch.bfloat16, False, True), (torch.float32, True, True),
], ids=str)  # fmt: skip
def test_loss(b, dtype, soft, attended):
    for c in (10, 1000) if b > 512 else (10, 1000, 30000):
        assert extra_bytes("mixed_cross_entropy", b, c, 20000, dtype, soft, attended) <= LIMIT


@pytest.mark.parametrize("b", [128, 8192])
def test_other_operators(b):
    assert extra_bytes("mix_backward", b, 2048, 1000, attended=True) <= LIMIT
    for soft in (False, True):
        assert extra_bytes("soft_cross_entropy", b, 1000, 1000, torch.float32, soft, True) <= LIMIT


def test_rows_cost_nothing():
    assert extra_bytes("mixed_cross_entropy", 128, 1000, 10**5) >= extra_bytes("mixed_cross_entropy", 128, 1000, 10**7)
