"""The table of backends and the choice among them."""

from dataclasses import replace

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import backends
from multimix_kernels.backends import ENVIRONMENT_VARIABLE, TABLE, available_backends, choose

CPU = torch.device("cpu")
MISSING = [name for name, found in available_backends().items() if not found]


def loss(**options):
    return mk.mixed_cross_entropy(torch.randn(3, 2), torch.tensor([0, 1, 1]), n=4, seed=1, **options)


def test_table_is_best_first_and_ends_with_the_reference():
    assert list(available_backends()) == ["cuda", "triton", "cpu", "reference"]


def test_availability_says_why_not():
    for name, found in available_backends().items():
        assert bool(found) == found.available == (found.reason is None)
        assert found.devices
        if not found:
            assert found.reason.strip(), name
    assert available_backends()["reference"]


def test_named_backend_is_used(backend, device):
    assert choose(backend, device, torch.float32) is TABLE[backend]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_none_is_the_first_that_takes_the_operands(dtype):
    rows = [TABLE[name] for name, found in available_backends().items() if found]
    expected = next(row.name for row in rows if not row.to_verify and row.accepts(CPU, dtype))
    assert choose(None, CPU, dtype).name == expected


@pytest.mark.parametrize("name", MISSING)
def test_missing_backend_is_refused_with_its_reason(name):
    with pytest.raises(RuntimeError, match=f"backend: '{name}'") as error:
        loss(backend=name)
    assert available_backends()[name].reason in str(error.value)


@pytest.mark.parametrize("name", ["", "CPU", "best", "reference "])
def test_unknown_backend_is_refused(name):
    with pytest.raises(ValueError, match="backend") as error:
        loss(backend=name)
    assert all(known in str(error.value) for known in TABLE)


def test_environment_sets_the_default(monkeypatch, backend, device):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, backend)
    assert choose(None, device, torch.float32).name == backend
    assert choose("reference", device, torch.float32).name == "reference"


def test_empty_environment_is_none(monkeypatch):
    expected = choose(None, CPU, torch.float32)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert choose(None, CPU, torch.float32) is expected


@pytest.mark.parametrize("call", [
    lambda: loss(),
    lambda: mk.sample_dirichlet(3, 2),
    lambda: mk.multimix(torch.randn(3, 2)),
    lambda: mk.multimix_cross_entropy(torch.randn(3, 2), torch.tensor([0, 1, 1]), torch.randn(2, 2)),
    lambda: mk.dense_multimix_cross_entropy(torch.randn(3, 2, 4), torch.tensor([0, 1, 1]), torch.randn(2, 2)),
    lambda: mk.MultiMixHead(2, 2)(torch.randn(3, 2), torch.tensor([0, 1, 1])),
], ids=["scores", "sample", "mix", "linear", "dense", "module"])  # fmt: skip
def test_environment_is_refused_not_ignored(monkeypatch, call):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fastest")
    with pytest.raises(ValueError, match=ENVIRONMENT_VARIABLE):
        call()
    for name in MISSING:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, name)
        with pytest.raises(RuntimeError, match=f"{ENVIRONMENT_VARIABLE}: '{name}'"):
            call()


def test_wrong_device_or_dtype_is_refused(monkeypatch):
    """Nothing falls back: here as if a GPU's backend were available."""
    present = replace(TABLE["triton"], devices=("cuda",), missing=lambda index: None)
    monkeypatch.setattr(backends, "TABLE", {**TABLE, "triton": present})
    for device, dtype in ((CPU, torch.float32), (torch.device("cuda"), torch.float64)):
        with pytest.raises(ValueError, match="'triton' takes float32, bfloat16, float16 on cuda"):
            choose("triton", device, dtype)
    assert choose(None, CPU, torch.float32).name != "triton"
    assert choose(None, torch.device("cuda"), torch.float16).name == "reference", "it has to be verified or named"
    assert choose("triton", torch.device("cuda"), torch.float16) is present
    monkeypatch.setattr(backends, "TABLE", {**TABLE, "triton": replace(present, to_verify=False)})
    assert choose(None, torch.device("cuda"), torch.float16).name == "triton"
    assert choose(None, torch.device("cuda"), torch.float64).name == "reference"


def test_no_backend_takes_the_operands():
    with pytest.raises(ValueError, match="int32"):
        choose(None, CPU, torch.int32)


def test_loss_and_sample_use_the_named_backend(monkeypatch, backend, device):
    """The operators that are called are those of the backend."""
    from multimix_kernels import ops

    called = []

    def spy(name, operator):
        return lambda *arguments: called.append(name) or operator(*arguments)

    for name, operators in ops.OPERATORS.items():
        for key, operator in operators.items():
            monkeypatch.setitem(operators, key, spy(name, operator))
    x, target = torch.randn(3, 2, device=device), torch.tensor([0, 1, 1], device=device)
    mk.sample_dirichlet(3, 2, device=device, backend=backend)
    mk.mixed_cross_entropy(x, target, n=2, backend=backend)
    mk.multimix_cross_entropy(x, target, x[:2], n=2, backend=backend)
    mixture = mk.multimix(x, n=2, backend=backend)
    mixture.targets(target, 2)
    mixture.weights()
    mixture.cross_entropy(mixture.embeddings, target)
    assert len(called) >= 6
    assert set(called) == {backend}
