"""`warm_up` calls every operator that steps of its sizes call, with operands of the same kind, and changes nothing."""

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import ops

B, C, D, SPATIAL, N = 5, 4, 3, (2, 2), 7
LOSS = {"mixed_cross_entropy"}
MIX = {"mix", "mix_backward"}
SOFT = {"soft_cross_entropy"}


@pytest.fixture
def called(monkeypatch, backend):
    """What operators of the backend see of their arguments: shapes, strides and dtypes of tensors, values of others."""
    found = []

    def spy(name, operator):
        def run(*arguments):
            found.append((name, *(kind(x) for x in arguments)))
            return operator(*arguments)

        return run

    operators = {name: spy(name, operator) for name, operator in ops.OPERATORS[backend].items()}
    monkeypatch.setattr(ops, "OPERATORS", ops.OPERATORS | {backend: operators})
    return found


def kind(x):
    return (x.shape, x.stride(), x.dtype) if isinstance(x, torch.Tensor) else x


def names(called):
    return {call[0] for call in called}


def test_without_classes_and_dimensions_weights_are_drawn(called, backend, device):
    mk.warm_up(B, n=N, device=device, backend=backend)
    assert names(called) == {"sample"}


def test_classes_warm_the_loss_of_scores(called, backend, device):
    mk.warm_up(B, C, n=N, device=device, backend=backend)
    assert names(called) == LOSS
    mk.warm_up(B, C, n=N, reduction="none", device=device, backend=backend)
    assert names(called) == LOSS | {"mixed_cross_entropy_backward"}


def test_dimensions_warm_mixtures_and_heads(called, backend, device):
    mk.warm_up(B, d=D, n=N, device=device, backend=backend)
    assert names(called) == MIX
    called.clear()
    mk.warm_up(B, C, d=D, n=N, device=device, backend=backend)
    assert names(called) == LOSS | MIX | SOFT


def test_without_gradients_there_is_no_backward(called, backend, device):
    with torch.no_grad():
        mk.warm_up(B, C, d=D, n=N, reduction="none", device=device, backend=backend)
    assert names(called) == LOSS | {"mix"} | SOFT


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("spatial", [(), SPATIAL])
def test_steps_call_what_was_warm(called, backend, device, spatial, probabilities):
    """Given shapes, strides, dtypes and options that have been there already, nothing is left to compile."""
    options = dict(n=N, m=B - 1, alpha=0.4, backend=backend)
    dtype = torch.bfloat16
    mk.warm_up(
        B, C, d=D, spatial=spatial, attention=bool(spatial), probabilities=probabilities, dtype=dtype, device=device,
        **options,
    )  # fmt: skip
    warm = set(called)
    called.clear()

    def randn(*shape):
        return torch.randn(shape, device=device, dtype=dtype).requires_grad_()

    x, weight, bias = randn(B, D, *spatial), randn(C, D), randn(C)
    y = torch.arange(B, device=device) % C
    y = torch.softmax(torch.randn(B, C, device=device), 1).to(dtype) if probabilities else y
    attention = mk.attention_map(x.detach()) if spatial else None
    mk.mixed_cross_entropy(randn(B, C, *spatial), y, attention=attention, **options).backward()
    head = mk.dense_multimix_cross_entropy if spatial else mk.multimix_cross_entropy
    head(x, y, weight, bias, **options).backward()
    mixture = mk.multimix(x, attention=attention, **options)
    mixture.embeddings.backward(torch.randn_like(mixture.embeddings))
    mixture.cross_entropy(randn(N, C, *spatial), y).backward()
    assert called
    assert [call for call in called if call not in warm] == []


def test_nothing_moves(backend, device):
    """Neither the generator of random numbers nor the default backend."""
    torch.manual_seed(3)
    expected = torch.rand(2, device=device)
    torch.manual_seed(3)
    assert mk.warm_up(B, C, d=D, n=N, device=device, backend=backend) is None
    assert torch.equal(torch.rand(2, device=device), expected)


@pytest.mark.parametrize(("arguments", "error", "said"), [
    (dict(b=0), ValueError, "b: expected at least 1"),
    (dict(c=0), ValueError, "c: expected at least 1"),
    (dict(c=2.5), TypeError, "c: expected an int"),
    (dict(d=-1), ValueError, "d: expected at least 1"),
    (dict(spatial=3), TypeError, "spatial: expected a tuple"),
    (dict(dtype=torch.int32), TypeError, "dtype: expected float32"),
    (dict(reduction="max"), ValueError, "reduction: expected"),
    (dict(m=6), ValueError, "m: expected an int in"),
    (dict(alpha=0.0), ValueError, "alpha: expected"),
    (dict(backend="fast"), ValueError, "backend: there is no backend 'fast'"),
])  # fmt: skip
def test_errors_name_the_argument(arguments, error, said):
    with pytest.raises(error, match=said):
        mk.warm_up(**dict(b=B, c=C, n=N) | arguments)


def test_not_in_a_capture(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="a CUDA graph is being captured, in which nothing can be compiled"):
        mk.warm_up(B, C, n=N)
