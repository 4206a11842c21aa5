"""Where there is no memory the error says for what, and how many bytes."""

import pytest
import torch

import multimix_kernels as mk
from multimix_kernels import memory

# Each is beyond what any machine can address.
LARGE = {
    "weights of n = 1000000000 rows of b = 100000000 examples": lambda **o: mk.sample_dirichlet(10**9, 10**8, **o),
    "embeddings of n = 100000000000000000 mixtures": lambda **o: mk.multimix(torch.ones(2, 3), n=10**17, **o),
    "losses of n = 100000000000000000 rows": lambda **o: mk.mixed_cross_entropy(
        torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), n=10**17, reduction="none", **o
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_error_says_how_many_bytes_of_what(what, backend):
    with pytest.raises(RuntimeError, match=rf"^{what}: no memory for \(.*float32, [0-9,]{{23,25}} bytes .* on cpu"):
        LARGE[what](backend=backend)


def test_size_beyond_64_bits():
    with pytest.raises(RuntimeError, match=r"^weights of n = .*: no memory for .* bytes"):
        mk.sample_dirichlet(2**62, 2**62)


def test_type_of_the_error_is_that_of_torch(monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"^weights: no memory for \(65536, 256\) torch.float32, 67,108,864 "
    ):
        memory.reserve("weights", (2**16, 2**8), torch.float32, torch.device("cpu"))


def test_small_results_are_not_asked_for_twice(monkeypatch):
    monkeypatch.setattr(torch, "empty", None)
    memory.reserve("weights", (2**16, 2**7), torch.float32, torch.device("cpu"))
