"""The weight stream against its known answers and an independent evaluation; see test_stream_law.py for its laws."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import multimix_kernels as mk
from multimix_kernels.backends.contract import Draw
from multimix_kernels.backends.reference import stream
from multimix_kernels.ops import OPERATORS

from ...support import stream as independent
from ...support.bounds import assert_close, assert_same_weights

CASES = json.loads((Path(__file__).parent / "weight_stream_v2.json").read_text())["cases"]
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def concentrations(case):
    if case["alpha_is"] == "per_example":
        return torch.tensor(case["alpha"], dtype=torch.float64)
    return tuple(case["alpha"]) if case["alpha_is"] == "range" else case["alpha"]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    found = stream.philox([torch.tensor(w) for w in counter], tuple(torch.tensor(w) for w in key))
    assert [int(w) for w in found] == expected
    assert [int(w) for w in independent.philox(counter, key)] == expected


def test_words_name_seed_row_location_purpose_block_attempt():
    """Each of them has its own counter or key bits, up to the largest values."""
    seed, row, location = 0x0123456789ABCDEF - 2**63, 2**63 - 1, 2**24 - 1
    found = stream.words(*map(torch.tensor, (seed, row, location)), 2, torch.tensor(7), 15)
    counter = [7, location * 256 + 2 * 16 + 15, row % 2**32, row >> 32]
    expected = independent.philox(counter, (seed % 2**32, (seed >> 32) % 2**32))
    assert [int(w) for w in found] == [int(w) for w in expected]


def test_uniform_is_in_range_and_rounded_once():
    words = [0, 1, 2, 3, 2**24, 2**24 + 1, 2**31 + 129, 2**32 - 256, 2**32 - 128, 2**32 - 1]
    words += [int(w) for w in np.random.default_rng(1).integers(0, 2**32, 1000)]
    found = stream.uniform(torch.tensor(words))
    for word, u in zip(words, found.tolist(), strict=True):
        exact = Fraction(float(np.float32(word))) / 2**32 + Fraction(1, 2**33)
        near = np.float32(float(exact))  # float(exact) is exact: 24 bits and a bit at 2**-33
        assert Fraction(float(exact)) == exact
        assert u == near
        assert 0 < u <= 1
    assert found.max() == 1
    assert found.min() == 2.0**-33


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"b{c['b']}-{c['alpha_is']}-m{c['m']}-seed{c['seed']}")
def test_expected_weights(case, backend, device, best_dtype):
    alpha = concentrations(case)
    found = mk.sample_dirichlet(
        case["n"], case["b"], m=case["m"], alpha=alpha.to(device) if isinstance(alpha, torch.Tensor) else alpha,
        spatial=(case["location"] + 1,), seed=case["seed"], row_offset=case["row_offset"],
        dtype=best_dtype, device=device, backend=backend,
    )[..., -1]  # fmt: skip
    expected = torch.tensor(case["weights"], dtype=torch.float64)
    assert_same_weights(found, expected)
    if backend == "reference":
        assert_close(found, expected, 1e-11)  # the file has 12 digits


SAMPLES = {
    "plain": dict(),
    "fixed": dict(alpha=1.0),
    "small": dict(alpha=0.05, b=4),
    "smallest": dict(alpha=0.01, b=2),
    "large": dict(alpha=1000.0),
    "wide range": dict(alpha=(0.01, 1000.0)),
    "per example": dict(alpha=[0.1, 0.5, 1.0, 2.0, 7.0, 50.0, 900.0, 1.5, 3.0]),
    "subset": dict(m=3),
    "one of each": dict(m=1),
    "one left out": dict(m=8),
    "one example": dict(b=1),
    "even": dict(b=10),
    "locations": dict(r=7, m=4),
    "offset": dict(row_offset=2**32 - 20),
    "far": dict(row_offset=2**63 - 1 - 40),
    "ignored": dict(ignored=[0, 1, 0, 0, 0, 1, 0, 0, 0]),
    "ignored subset": dict(ignored=[0, 1, 0, 0, 0, 1, 0, 0, 0], m=3),
    "few left": dict(ignored=[1, 1, 0, 1, 1, 1, 1, 0, 1], m=4),
    "none left": dict(ignored=[1] * 9),
    "none left subset": dict(ignored=[1] * 9, m=2),
    "attention": dict(attention="some zero", r=3),
    "attention subset": dict(attention="some zero", r=3, m=2),
    "attention on one": dict(attention="one", r=3, alpha=0.01),
    "attention ignored": dict(attention="some zero", r=3, ignored=[0, 1, 0, 0, 0, 1, 0, 0, 0], m=2),
}


def attention_of(kind, b, r):
    a = torch.rand(b, r, generator=torch.Generator().manual_seed(1)) + 0.01
    if kind == "one":
        a[:] = 0
        a[2] = 1e-3
    a[::2] *= torch.tensor([0.0 if kind == "some zero" else 1.0] + [1.0] * (r - 1))
    a[:, 2] = 0.0 if kind == "some zero" else a[:, 2]  # a location where everything is dead
    return a


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seed", [0, 20231109, -1], ids=str)
def test_sample_operator(name, seed, backend, device, best_dtype):
    """Every way to draw weights, against the independent evaluation."""
    options = dict(n=40, b=9, m=None, alpha=(0.5, 2.0), r=1, row_offset=0, ignored=None, attention=None)
    options |= SAMPLES[name]
    n, b, r, m, alpha = (options[k] for k in ("n", "b", "r", "m", "alpha"))
    a = None if options["attention"] is None else attention_of(options["attention"], b, r)
    ignored = None if options["ignored"] is None else torch.tensor(options["ignored"], dtype=torch.bool)
    expected = independent.weights(
        seed, n, b, m=m, alpha=alpha, r=r, row_offset=options["row_offset"],
        attention=None if a is None else a.double().numpy(), ignored=ignored,
    )  # fmt: skip
    per_example = torch.tensor(alpha, dtype=torch.float64, device=device) if isinstance(alpha, list) else None
    low, high = alpha if isinstance(alpha, tuple) else (1.0, 1.0) if isinstance(alpha, list) else (alpha, alpha)
    draw = Draw(
        torch.tensor([seed], device=device), per_example, n, b if m is None else m, low, high, options["row_offset"]
    )
    found = OPERATORS[backend]["sample"](
        b, r, best_dtype, None if a is None else a.T.to(device), None if ignored is None else ignored.to(device), *draw
    )
    assert found.shape == (r, n, b)
    assert_same_weights(found.permute(1, 2, 0), torch.from_numpy(expected))
    if backend == "reference":
        assert_close(found.permute(1, 2, 0), torch.from_numpy(expected), 1e-9)


def test_many_weights(backend, device):
    """Enough for rounding to flip an acceptance now and then: 1e-5 of the elements may tell."""
    n, b = 1500, 65
    expected = torch.from_numpy(independent.weights(5, n, b))[..., 0]
    found = mk.sample_dirichlet(n, b, seed=5, device=device, backend=backend)
    assert_same_weights(found, expected, rows=math.ceil(1e-5 * n * b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_float32_rounded(dtype, backend, device):
    options = dict(seed=5, device=device, backend=backend)
    found = mk.sample_dirichlet(50, 9, dtype=dtype, **options)
    assert found.dtype == dtype
    wide = mk.sample_dirichlet(50, 9, dtype=torch.float32, **options)
    assert ((found.float() - wide).abs() <= torch.finfo(dtype).eps * wide + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("offset", [0, 2**32 - 5, 2**40 + 3, 2**62])
@pytest.mark.parametrize("m", [None, 3])
def test_shards_equal_the_whole(offset, m, backend, device):
    options = dict(m=m, spatial=(2,), seed=9, device=device, backend=backend)
    whole = mk.sample_dirichlet(11, 8, row_offset=offset, **options)
    shards = [
        mk.sample_dirichlet(stop - start, 8, row_offset=offset + start, **options)
        for start, stop in ((0, 1), (1, 7), (7, 11))
    ]
    assert torch.equal(torch.cat(shards), whole)


@pytest.mark.parametrize("alpha", [(0.5, 2.0), 0.6])
def test_draws_do_not_depend_on_b(alpha, backend, device):
    """Ratios of the weights of two examples stay, however many others there are."""
    few, many = (
        mk.sample_dirichlet(20, b, alpha=alpha, seed=3, device=device, backend=backend).double() for b in (5, 70)
    )
    torch.testing.assert_close(many[:, :4] / many[:, 4:5], few[:, :4] / few[:, 4:5], rtol=4e-5, atol=0)


def test_log_gamma_does_not_depend_on_b():
    def draw(b):
        example = torch.arange(b)
        rows = torch.arange(9).unsqueeze(1)
        return stream.log_gamma_variate(
            torch.tensor([4]), rows, torch.tensor(0), example, torch.tensor(1.5, dtype=torch.float64)
        )

    assert torch.equal(draw(5), draw(33)[:, :5])


def test_seed_is_read_from_memory(backend, device):
    """The value behind the pointer counts, all 64 bits of it."""
    seed = torch.tensor([5], device=device)
    options = dict(device=device, backend=backend)
    first = mk.sample_dirichlet(4, 3, seed=seed, **options)
    for value in (6, 5 + 2**32, 5 - 2**63):
        seed.fill_(value)
        other = mk.sample_dirichlet(4, 3, seed=seed, **options)
        assert not torch.equal(first, other)
        assert torch.equal(other, mk.sample_dirichlet(4, 3, seed=value, **options))
    assert torch.equal(
        mk.sample_dirichlet(4, 3, seed=2**64 - 1, **options), mk.sample_dirichlet(4, 3, seed=-1, **options)
    )


@pytest.mark.parametrize("options", [
    dict(b=2, alpha=0.01),
    dict(b=3, alpha=(0.01, 0.02)),
    dict(b=64, alpha=0.01, m=2),
    dict(b=300, alpha=0.01, m=2),
    dict(b=5, alpha=1000.0),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_row_sums_to_one(options, dtype, backend, device):
    b = options["b"]
    found = mk.sample_dirichlet(
        3000 // b + 200,
        b,
        alpha=options["alpha"],
        m=options.get("m"),
        seed=1,
        dtype=dtype,
        device=device,
        backend=backend,
    ).double()
    assert not found.isnan().any()
    assert (found >= 0).all()
    bound = torch.finfo(dtype).eps * max(1, b / 4) + 1e-6
    assert ((found.sum(1) - 1).abs() <= bound).all()


def test_attention_on_one_example(backend, device, best_dtype):
    """All the weight, however unlikely the example is at alpha = 0.01."""
    attention = torch.zeros(6, 1, device=device)
    attention[4] = 1e-30
    x = torch.eye(6, dtype=best_dtype, device=device).unsqueeze(2)
    mixture = mk.multimix(x, attention=attention, n=500, alpha=0.01, seed=1, backend=backend)
    expected = torch.zeros(500, 6, 1, dtype=best_dtype, device=device)
    expected[:, 4] = 1
    assert torch.equal(mixture.weights(), expected)
    assert torch.equal(mixture.embeddings, expected)
