"""The C++ backend: random shapes against the reference, threads, instruction sets, and sizes past 32 bits."""

import ctypes
import os
import platform
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

import multimix_kernels as mk
from multimix_kernels import ops
from multimix_kernels.backends.contract import Draw
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


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512bf16"])
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


@pytest.fixture
def bfloat16_products():
    """float32 products of the CPU may be made of bfloat16, as PyTorch's setting says."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    yield
    matmul.fp32_precision = before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_operands_are_read_exactly(dtype, request):
    if dtype == torch.bfloat16:  # of which products are made where the processor can
        request.getfixturevalue("bfloat16_products")
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


def plain_mean(scores, target, weights, dtype):
    """The mean loss and its gradient in plain PyTorch, in a dtype; scores (b, c), weights (n, b)."""
    leaf = scores.detach().to(dtype).requires_grad_()
    mixed = weights.to(dtype) @ F.one_hot(target, leaf.shape[1]).to(dtype)
    loss = F.cross_entropy(weights.to(dtype) @ leaf, mixed)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 50.0])
@pytest.mark.parametrize("std", [1.0, 30.0])
# Odd everything; less than a block of rows; a whole number of vectors; many classes and several chains of rows.
@pytest.mark.parametrize(("b", "c", "n"), [(5, 7, 1001), (33, 49, 1300), (128, 16, 600), (65, 1000, 301), (128, 96, 3)])
def test_products_of_bfloat16(b, c, n, std, offset, dtype, bfloat16_products):
    """As accurate as plain PyTorch in bfloat16, be that the operand or what float32 may be rounded to."""
    generator = torch.Generator().manual_seed(b)
    scores = (torch.randn(b, c, generator=generator) * std + offset).bfloat16().to(dtype).requires_grad_()
    target = torch.randint(c, (b,), generator=generator)
    weights = mk.sample_dirichlet(n, b, seed=3, dtype=torch.float64, backend="cpu")
    loss = mk.mixed_cross_entropy(scores, target, n=n, seed=3, backend="cpu")
    (gradient,) = torch.autograd.grad(loss, scores)
    exact, plain = (plain_mean(scores, target, weights, t) for t in (torch.float64, torch.bfloat16))
    for name, x, y, z in zip(("loss", "gradient"), (loss, gradient), plain, exact, strict=True):
        assert_as_accurate(x, y, z, name)


def test_float32_products_are_exact_unless_allowed():
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(65, 300, generator=generator).requires_grad_()
    target = torch.randint(300, (65,), generator=generator)
    weights = mk.sample_dirichlet(400, 65, seed=3, dtype=torch.float64, backend="cpu")
    loss = mk.mixed_cross_entropy(scores, target, n=400, seed=3, backend="cpu")
    (gradient,) = torch.autograd.grad(loss, scores)
    exact, plain = (plain_mean(scores, target, weights, t) for t in (torch.float64, torch.float32))
    assert_as_accurate(loss, plain[0], exact[0], "loss")
    assert_as_accurate(gradient, plain[1], exact[1], "gradient")


def test_masked_classes_of_bfloat16():
    """A panel with a mask is multiplied with care, the others in pairs; the mask costs nothing."""
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(33, 150, generator=generator).bfloat16()
    target = torch.randint(40, (33,), generator=generator)
    scores[:, 60] = -torch.inf
    scores[3, 100] = -torch.inf
    leaves = [scores.clone().requires_grad_(), scores.float().requires_grad_()]
    losses = [mk.mixed_cross_entropy(s, target, n=300, seed=1, backend="cpu") for s in leaves]
    gradients = [torch.autograd.grad(loss, s)[0] for loss, s in zip(losses, leaves, strict=True)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)
    assert not gradients[0][:, 60].any()
    assert gradients[0].isfinite().all()
    assert (gradients[0] - gradients[1]).abs().max() <= 2**-7 * gradients[1].abs().max()


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


def mixed_loss(operand, target, attention, kind, **options):
    """A loss with all its gradients: of scores, or of the logits of any head."""
    operands = (operand, attention) if attention is not None else (operand,)
    for x in operands:
        x.requires_grad_().grad = None
    draw = {name: options.pop(name) for name in ("n", "m", "alpha", "seed", "backend") if name in options}
    if kind == "mixed":
        loss = mk.mixed_cross_entropy(operand, target, attention=attention, **draw, **options)
    else:
        shape = (target.shape[0], 1, *operand.shape[2:])
        loss = mk.multimix(torch.zeros(shape), attention=attention, **draw).cross_entropy(operand, target, **options)
    factors = torch.linspace(0.1, 1, loss.numel(), dtype=loss.dtype).view_as(loss)
    return [loss.detach(), *torch.autograd.grad(loss, operands, factors)]


@pytest.mark.parametrize("by_label", [True, False])
@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("b", [3, 33])
def test_operands_too_large_to_be_packed(b, attended, by_label):
    """Beyond 16 MiB scores and probabilities are read a block at a time: a few classes among very many that are not."""
    c = (17 << 20) // (4 * b)
    generator = torch.Generator().manual_seed(b)
    kept = torch.randperm(c, generator=generator)[:100].sort().values
    small = 3 * torch.randn(b, 100, 1, generator=generator)
    large = torch.full((b, c, 1), -300.0)
    large[:, kept] = small
    target = torch.randint(100, (b,), generator=generator)
    large_target = kept[target]
    if not by_label:
        target = torch.randn(b, 100, generator=generator).softmax(1)
        large_target = torch.zeros(b, c)
        large_target[:, kept] = target
    attention = torch.rand(b, 1, generator=generator) if attended else None
    for reduction in ("mean", "none"):
        options = dict(n=30, seed=1, reduction=reduction, backend="cpu")
        found = mixed_loss(large, large_target, attention, "mixed", **options)
        expected = mixed_loss(small, target, attention, "mixed", **options)
        assert found[1].count_nonzero() <= small.numel()
        found[1] = found[1][:, kept]
        # The attention's gradient is a sum of differences.
        for x, y, bound in zip(found, expected, (2e-6, 2e-6, 2e-5), strict=False):
            assert (x - y).abs().max() <= bound * y.abs().max()


MEMORY_SCRIPT = """
import resource, sys, torch
import multimix_kernels as mk
kind, b, c = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(2)
def loss(b, c):
    scores = torch.ones(b, c, requires_grad=True)
    target = torch.full((b, c), 1 / c) if kind == "probabilities" else torch.arange(b)
    before = peak()
    mk.mixed_cross_entropy(scores, target, n=20, seed=1, backend="cpu").backward()
    return peak() - before - scores.grad.nbytes

loss(2, 10)
print(loss(b, c))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the unit of ru_maxrss differs")
@pytest.mark.parametrize(("kind", "b", "c"), [
    ("probabilities", 1000, 10_000), ("labels", 8, 1_000_000), ("labels", 2, 4_000_000),
])  # fmt: skip
def test_memory_of_large_operands(kind, b, c):
    """No copy of scores or probabilities, and tiles of few rows: 64 MiB beyond inputs and gradients at most."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, kind, str(b), str(c)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 64 << 20


def test_out_of_memory_says_of_what():
    draw = Draw(torch.tensor([1]), None, 10**9, 10**4, 1.0, 1.0, 0)
    with pytest.raises(RuntimeError, match="cannot allocate 40000000000000 bytes for the weights") as error:
        ops.call("cpu", "sample", 10**4, 1, torch.float32, None, None, draw)
    assert "stable/ops.h" not in str(error.value)


def denormal_operands(work) -> bool:
    """Whether an instruction of this thread met a denormal number, by the processor's sticky flag."""
    library = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()
    library.fesetenv(ctypes.c_void_p(-1))  # the default, all flags clear
    work()
    library.fegetenv(environment)
    return bool(environment[7] & 2)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64", reason="reads the flags of x86-64"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("by_label", [True, False])
@pytest.mark.parametrize("spread", [1, 40])
@pytest.mark.parametrize("kind", ["mixed", "soft"])
def test_no_denormal_number_reaches_a_product(kind, spread, by_label, reduction, dtype, one_thread):
    """Intel's processors take about 150 cycles for each. Ordinary and confident scores, padded columns, factors."""
    b, c, n = 33, 100, 300
    spread *= 1 if dtype == torch.float32 else 8
    generator = torch.Generator().manual_seed(1)
    operand = (spread * torch.randn(b if kind == "mixed" else n, c, 2, generator=generator)).to(dtype)
    target = torch.randint(c, (b,), generator=generator)
    if not by_label:
        target = torch.rand(b, c, generator=generator).to(dtype).softmax(1)
    for attention in (None, torch.rand(b, 2, generator=generator).to(dtype)):
        options = dict(n=n, seed=1, reduction=reduction, backend="cpu")
        results = []

        def work():
            results.extend(mixed_loss(operand, target, attention, kind, **options))  # noqa: B023

        assert not denormal_operands(work)
        assert all(x.isfinite().all() for x in results)


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
