"""The C++ backend: random shapes against the reference, threads, instruction sets, and sizes past 32 bits."""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import multimix_kernels as mk
from tests.support.bounds import assert_as_accurate

pytestmark = pytest.mark.skipif(not mk.available_backends()["cpu"], reason=str(mk.available_backends()["cpu"].reason))


def plain_losses(scores, target, weights, smoothing):
    """Row losses in plain PyTorch, differentiable: weights (n, b, r), scores (b, c, r)."""
    c = scores.shape[1]
    y = F.one_hot(target, c).to(scores.dtype) if target.dim() == 1 else target.to(scores.dtype)
    logits = torch.einsum("nbr,bcr->nrc", weights, scores)
    mixed = torch.einsum("nbr,bc->nrc", weights, y * (1 - smoothing) + smoothing / c)
    return -(mixed * torch.log_softmax(logits, -1)).sum(-1)


def random_case(seed: int) -> dict:
    """Shapes within b 1...300, c 1...2000, r 1...64, n 1...5000, bounded in total work."""
    rng = random.Random(seed)
    case = dict(
        b=rng.choice([1, 2, 3, 17, 64, 127, 128, 255, 300]),
        c=rng.choice([1, 2, 10, 47, 48, 49, 100, 1000, 1001, 2000]),
        r=rng.choice([1, 1, 1, 2, 7, 49, 64]),
        n=rng.choice([1, 2, 31, 129, 1000, 4999]),
        alpha=rng.choice([(0.5, 2.0), 1.0, 0.31, 40.0]),
        smoothing=rng.choice([0.0, 0.1]),
        by_label=rng.random() < 0.6,
        subset=rng.random() < 0.25,
        dtype=rng.choice([torch.float32, torch.float32, torch.float64]),
    )
    while case["b"] * case["r"] * case["n"] * (case["c"] + 50) > 2e7:
        largest = max("brn", key=lambda name: case[name])
        case[largest] = case[largest] // 2 + 1 if case[largest] > 1 else 1
        if max(case["b"], case["r"], case["n"]) <= 2:
            break
    return case


@pytest.mark.parametrize("seed", range(60))
def test_random_shapes(seed):
    case = random_case(seed)
    b, c, r, n, dtype = (case[name] for name in ("b", "c", "r", "n", "dtype"))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(b, c, r, generator=generator, dtype=torch.float64).to(dtype) * 3
    attention = torch.rand(b, r, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.randint(c, (b,), generator=generator)
    if not case["by_label"]:
        target = torch.rand(b, c, generator=generator, dtype=torch.float64).to(dtype).softmax(1)
    options = dict(n=n, m=max(1, b // 2) if case["subset"] else None, alpha=case["alpha"], seed=seed)
    weights = mk.multimix(scores, attention=attention, backend="cpu", **options).weights()

    def evaluate(kind):
        if kind == "ours":
            s = scores.clone().requires_grad_()
            loss = mk.mixed_cross_entropy(
                s, target, attention=attention, label_smoothing=case["smoothing"], backend="cpu", **options
            )
        else:
            precision = torch.float64 if kind == "exact" else dtype
            s = scores.to(precision).requires_grad_()
            y = target if target.dim() == 1 else target.to(precision)
            loss = plain_losses(s, y, weights.to(precision), case["smoothing"]).mean()
        return loss.detach(), torch.autograd.grad(loss, s)[0]

    (ours, grad), (plain, plain_grad), (exact, exact_grad) = map(evaluate, ("ours", "plain", "exact"))
    assert_as_accurate(ours, plain, exact, f"loss {case}")
    assert_as_accurate(grad, plain_grad, exact_grad, f"gradient {case}")


def one_of_everything() -> list[torch.Tensor]:
    """Results of every operator at a size with several groups of rows; all arithmetic is the backend's own."""
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(37, 61, 5, generator=generator, requires_grad=True)
    logits = torch.randn(1500, 61, 5, generator=generator, requires_grad=True)
    attention = torch.rand(37, 5, generator=generator, requires_grad=True)
    target = torch.randint(61, (37,), generator=generator)
    mixture = mk.multimix(scores, attention=attention, n=1500, seed=7, backend="cpu")
    results = [mixture.embeddings.detach(), mixture.weights(), mixture.targets(target, 61)]
    results += torch.autograd.grad(mixture.embeddings, (scores, attention), logits.detach())
    results.append(mk.sample_dirichlet(3000, 33, seed=1, alpha=0.05, backend="cpu"))
    for reduction in ("mean", "none"):
        loss = mk.mixed_cross_entropy(
            scores, target, attention=attention, n=1500, seed=7, reduction=reduction, backend="cpu"
        )
        results += [loss.detach(), *torch.autograd.grad(loss, (scores, attention), torch.ones_like(loss))]
        loss = mixture.cross_entropy(logits, target, reduction=reduction)
        results += [loss.detach(), *torch.autograd.grad(loss, (logits, attention), torch.ones_like(loss))]
    return results


def test_same_bits_with_any_number_of_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = one_of_everything()
        for count in (2, 3):
            torch.set_num_threads(count)
            for a, b in zip(one, one_of_everything(), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


def test_python_threads_at_once():
    expected = one_of_everything()
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(lambda _: one_of_everything(), range(8)):
            for a, b in zip(expected, results, strict=True):
                assert torch.equal(a, b)


ISA_SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from tests.backends.test_cpu import one_of_everything
torch.save(one_of_everything(), sys.argv[2])
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_sets_agree(isa, tmp_path, request):
    environment = dict(os.environ, MULTIMIX_CPU_ISA=isa)
    run = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT, str(request.config.rootpath), str(tmp_path / "results.pt")],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if run.returncode and "MULTIMIX_CPU_ISA" in run.stderr:
        pytest.skip(f"this machine or this build has no {isa}")
    assert run.returncode == 0, run.stderr
    for a, b in zip(torch.load(tmp_path / "results.pt"), one_of_everything(), strict=True):
        assert a.shape == b.shape
        error = (a - b).abs().max().item()
        # Sums of thousands of terms in another order.
        assert error <= 1e-5 * b.abs().max().item() + 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operands_are_read_exactly(dtype):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(33, 70, generator=generator).to(dtype)
    target = torch.randint(70, (33,), generator=generator)
    options = dict(n=500, seed=2, backend="cpu")
    low, wide = scores.clone().requires_grad_(), scores.float().requires_grad_()
    losses = [mk.mixed_cross_entropy(s, target, **options) for s in (low, wide)]
    assert losses[0].dtype == torch.float32
    assert torch.equal(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    assert torch.equal(low.grad, wide.grad.to(dtype))
    embeddings = [mk.multimix(s, **options).embeddings for s in (scores, scores.float())]
    assert torch.equal(embeddings[0], embeddings[1].to(dtype))


def test_tiny_attention_does_not_vanish():
    """Products of attention and gammas below the range of float32 are drawn again in double."""
    attention = torch.full((6, 2), 1e-44)
    attention[0] = 1.0
    target = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = [
        mk.multimix(torch.randn(6, 3, 2), attention=attention, n=300, m=2, alpha=0.5, seed=1, backend=name).weights()
        for name in ("cpu", "reference")
    ]
    assert torch.allclose(*weights, rtol=1e-5, atol=1e-30)
    assert torch.allclose(weights[0].sum(1), torch.ones(()), rtol=1e-6)
    loss = mk.mixed_cross_entropy(torch.randn(6, 2, 2), target, attention=attention, n=300, m=2, seed=1, backend="cpu")
    assert loss.isfinite()


@pytest.mark.slow
def test_more_than_2_to_the_32_weights():
    """The loss of 4.5e9 weights in one call equals that of its shards."""
    b, n = 100, 45_000_000
    generator = torch.Generator().manual_seed(1)
    scores, target = torch.randn(b, 2, generator=generator), torch.randint(2, (b,), generator=generator)
    options = dict(seed=3, reduction="sum", backend="cpu")
    whole = mk.mixed_cross_entropy(scores, target, n=n, **options)
    shards = [
        mk.mixed_cross_entropy(scores, target, n=n // 3, row_offset=k * (n // 3), **options).double() for k in range(3)
    ]
    assert abs(whole.double() / sum(shards) - 1) < 1e-6
    # The last rows, which no 32-bit index reaches, are those of the reference.
    rows = mk.mixed_cross_entropy(scores, target, n=5, row_offset=n - 5, seed=3, reduction="none", backend="cpu")
    exact = mk.mixed_cross_entropy(scores, target, n=5, row_offset=n - 5, seed=3, reduction="none", backend="reference")
    assert torch.allclose(rows, exact, rtol=1e-5)
