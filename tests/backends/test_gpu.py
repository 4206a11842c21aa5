"""What only a GPU can show: CUDA graphs, streams, no waiting for the device, memory, sizes past 32 bits."""

import pytest
import torch

import multimix_kernels as mk
from tests.support.bounds import assert_same_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

CASES = {"small": (128, 100), "large": (128, 1000), "odd": (127, 1001)}


@pytest.fixture(autouse=True)
def on_gpu(device):
    if device.type != "cuda":
        pytest.skip("a backend for the CPU")


@pytest.fixture(params=CASES)
def operands(request):
    """Scores and labels."""
    b, c = CASES[request.param]
    generator = torch.Generator("cuda").manual_seed(3)
    scores = torch.randn(b, c, device="cuda", generator=generator).requires_grad_()
    return scores, torch.randint(c, (b,), device="cuda", generator=generator)


def step(operands, backend, seed, n=1000):
    """The loss and the gradient of the scores."""
    scores, target = operands
    loss = mk.mixed_cross_entropy(scores, target, n=n, seed=seed, backend=backend)
    return loss.detach(), *torch.autograd.grad(loss, scores)


def test_a_graph_draws_fresh_weights_at_each_replay(operands, backend):
    seed = torch.tensor([5], device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(operands, backend, seed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(operands, backend, seed)
    replays = []
    for value in (11, 12, 11):
        seed.fill_(value)
        graph.replay()
        replays.append([x.clone() for x in found])
        for replayed, eager in zip(found, step(operands, backend, value), strict=True):
            assert torch.equal(replayed, eager)
    assert not torch.equal(replays[0][0], replays[1][0])
    assert torch.equal(replays[0][1], replays[2][1])


def test_a_graph_draws_its_own_seeds(operands, backend):
    scores, target = operands
    mk.mixed_cross_entropy(scores, target, n=100, backend=backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = mk.mixed_cross_entropy(scores, target, n=100, backend=backend)
    found = set()
    for _ in range(4):
        graph.replay()
        found.add(loss.item())
    assert len(found) == 4


def test_two_streams_at_once(operands, backend):
    expected = [step(operands, backend, seed, 5000) for seed in range(6)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    found = []
    for seed in range(6):
        with torch.cuda.stream(streams[seed % 2]):
            found.append(step(operands, backend, seed, 5000))
    torch.cuda.synchronize()
    for pair in zip(found, expected, strict=True):
        for x, y in zip(*pair, strict=True):
            assert torch.equal(x, y)


def test_nothing_waits_for_the_device(operands, backend):
    seed = torch.tensor([5], device="cuda")
    step(operands, backend, seed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(operands, backend, seed)
        step(operands, backend, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_does_not_grow(operands, backend):
    peaks = []
    for n in (10_000, 1_000_000):
        step(operands, backend, 1, n)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = step(operands, backend, 1, n)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in result))
    assert max(peaks) <= 64 << 20, peaks


def test_labels_that_do_not_exist_give_nan(operands, backend):
    scores, target = operands
    target = target.clone()
    target[3] = scores.shape[1]
    loss = mk.mixed_cross_entropy(scores, target, n=100, backend=backend)
    assert loss.isnan()


def test_weights_are_those_of_the_reference(backend):
    options = dict(seed=7, row_offset=2**32 - 100, device="cuda")
    for m, alpha in ((None, (0.5, 2.0)), (31, 1.0), (None, 0.05), (None, 50.0)):
        found = mk.sample_dirichlet(20_000, 64, m=m, alpha=alpha, backend=backend, **options)
        expected = mk.sample_dirichlet(
            20_000, 64, m=m, alpha=alpha, dtype=torch.float64, backend="reference", **options
        )
        # At most 1e-5 of the elements may differ: a flipped acceptance changes a row.
        assert_same_weights(found, expected, rows=int(20_000 * 64 * 1e-5))


@pytest.mark.slow
def test_more_weights_than_32_bits_count(backend):
    scores = torch.randn(128, 10, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(10, (128,), device="cuda")
    n = 2**25 + 2**24  # 6.4e9 weights
    whole = step((scores, target), backend, 3, n)
    half = n // 2
    parts = [
        mk.mixed_cross_entropy(scores, target, n=half, seed=3, row_offset=offset, backend=backend).detach()
        for offset in (0, half)
    ]
    torch.testing.assert_close(whole[0], sum(parts) / 2, rtol=1e-6, atol=0)
