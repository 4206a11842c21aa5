"""The laws of the weight stream. Seeds are fixed; every test would fail by chance for one seed in about a million.

A p-value is held against 1e-6, a correlation against six standard errors (2e-9, times the number of pairs).
"""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import betainc, gammainc, gammaln

import multimix_kernels as mk
from multimix_kernels.backends.contract import Draw
from multimix_kernels.backends.reference import stream

FALSE_ALARM = 1e-6
SIGMAS = 6
SEED = torch.tensor([1234567])


def log_gamma(alpha, n, b=1, r=1):
    """ln G (r, n, b)."""
    return stream.log_gamma_variate(
        SEED, torch.arange(n).view(1, n, 1), torch.arange(r).view(r, 1, 1), torch.arange(b),
        torch.tensor(alpha, dtype=torch.float64),
    )  # fmt: skip


def log_gamma_cdf(alpha):
    """P(ln G <= x), also where exp(x) underflows: there it is exp(alpha x) / Gamma(alpha + 1)."""

    def cdf(x):
        x = np.asarray(x, float)
        small = np.exp(np.minimum(alpha * x - gammaln(alpha + 1), 0))
        return np.where(x < -50, small, gammainc(alpha, np.exp(np.clip(x, -50, 700))))

    return cdf


def has_law(sample, cdf) -> bool:
    """Kolmogorov-Smirnov; all samples are long enough for the asymptotic law."""
    return stats.kstest(sample, cdf, method="asymp").pvalue > FALSE_ALARM


def gamma_law(alpha, n):
    draws = log_gamma(alpha, n, b=2).flatten()
    assert draws.isfinite().all()
    assert has_law(draws.numpy(), log_gamma_cdf(alpha))


@pytest.mark.parametrize("alpha", [0.01, 0.03, 0.1, 0.5, 1.0, 2.0, 10.0, 100.0, 1000.0])
def test_gamma(alpha):
    gamma_law(alpha, 60_000)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2, 0.5, 1.0, 5.0, 30.0, 100.0])
def test_gamma_at_length(alpha):
    gamma_law(alpha, 2_000_000)


def test_gamma_of_even_and_odd_examples():
    """Cosine and sine of one angle, two uniforms: both must have the law."""
    draws = log_gamma(0.7, 60_000, b=2)[0]
    for column in draws.T:
        assert has_law(column.numpy(), log_gamma_cdf(0.7))


def test_uniform():
    w = stream.words(SEED, torch.arange(50_000), torch.tensor(0), stream.GAMMA, torch.tensor(0))
    for word in w:
        assert has_law(stream.uniform(word).numpy(), stats.uniform.cdf)


def test_concentration_is_uniform():
    draw = Draw(SEED, None, 1, 1, 0.5, 2.0, 0)
    alpha = stream.concentration(draw, torch.arange(50_000), torch.tensor(0)).numpy()
    assert alpha.min() > 0.5
    assert alpha.max() <= 2.0
    assert has_law(alpha, stats.uniform(0.5, 1.5).cdf)


@pytest.mark.parametrize(("alpha", "b", "m"), [(0.5, 3, None), (1.0, 2, None), (2.0, 5, None), (20.0, 4, None)])
def test_dirichlet_marginals(alpha, b, m, backend, device):
    """Beta(alpha, (b - 1) alpha), and every pair correlated by -1 / (b - 1)."""
    n = 40_000
    found = mk.sample_dirichlet(n, b, alpha=alpha, seed=2, device=device, backend=backend).double().cpu().numpy()
    for column in found.T:
        assert has_law(column, stats.beta(alpha, (b - 1) * alpha).cdf)
    if b == 2:
        return
    z = (found - 1 / b) / found.std(0)
    for i, j in combinations(range(b), 2):
        expected = -1 / (b - 1)
        # The delta method: the sample correlation is a mean of these, to first order.
        influence = z[:, i] * z[:, j] - expected * (z[:, i] ** 2 + z[:, j] ** 2) / 2
        correlation = np.corrcoef(found[:, i], found[:, j])[0, 1]
        assert abs(correlation - expected) < SIGMAS * influence.std() / math.sqrt(n)


def test_per_example_marginals(backend, device):
    """Beta(alpha_i, sum of the others) for each."""
    alpha = torch.tensor([0.4, 1.0, 3.0, 7.0], device=device)
    found = mk.sample_dirichlet(40_000, 4, alpha=alpha, seed=2, device=device, backend=backend).double().cpu()
    for a, column in zip(alpha.double().tolist(), found.T, strict=True):
        assert has_law(column.numpy(), stats.beta(a, alpha.sum().item() - a).cdf)


def test_range_marginals(backend, device):
    """A mixture of Beta laws over alpha: drawn afresh for each row."""
    found = mk.sample_dirichlet(40_000, 3, alpha=(0.2, 6.0), seed=2, device=device, backend=backend)[:, 0]
    grid = np.linspace(0.2, 6.0, 401)[1::2]  # midpoints of 200 intervals

    x = np.linspace(0, 1, 501) ** 2
    cdf = np.mean([betainc(a, 2 * a, x) for a in grid], 0)
    assert has_law(found.double().cpu().numpy(), lambda value: np.interp(value, x, cdf))


@pytest.mark.parametrize(("b", "m"), [(4, 1), (5, 2), (6, 3), (5, 4)])
def test_subsets_are_uniform(b, m, backend, device):
    """All C(b, m) of them, at each of two locations, and at two locations together."""
    n = 12_000
    found = mk.sample_dirichlet(n, b, m=m, alpha=5.0, spatial=(2,), seed=3, device=device, backend=backend).cpu() > 0
    assert (found.sum(1) == m).all()
    code = (found.long() * 2 ** torch.arange(b).view(1, b, 1)).sum(1)  # (n, 2)
    count = math.comb(b, m)
    for column in code.T:
        seen = torch.unique(column, return_counts=True)[1]
        assert len(seen) == count
        assert stats.chisquare(seen.numpy()).pvalue > FALSE_ALARM
    table = np.zeros((count, count))
    names = {int(v): k for k, v in enumerate(torch.unique(code))}
    for first, second in code.tolist():
        table[names[first], names[second]] += 1
    assert stats.chi2_contingency(table).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("b", "m"), [(128, 2), (128, 4), (100, 16), (40, 32), (40, 39)])
def test_examples_and_pairs_of_large_subsets(b, m, backend, device):
    """Rows are independent, so that how many hold an example, or a pair, is binomial: none may be too far out."""
    n = 6000
    found = mk.sample_dirichlet(n, b, m=m, alpha=5.0, seed=6, device=device, backend=backend).cpu() > 0
    assert (found.sum(1) == m).all()
    together = found.float().T @ found.float()
    seen = together.diagonal().numpy()
    pairs = together[torch.ones(b, b).triu(1) > 0].numpy()
    for counts, p in ((seen, m / b), (pairs, m * (m - 1) / (b * (b - 1)))):
        tail = np.minimum(stats.binom.cdf(counts, n, p), stats.binom.sf(counts - 1, n, p))
        assert 2 * len(counts) * tail.min() > FALSE_ALARM
    # The counts of examples have variance n p (1 - p) and one covariance, as they add up to n m.
    deviations = ((seen - n * m / b) ** 2).sum() / (n * m / b * (1 - m / b)) * (b - 1) / b
    assert FALSE_ALARM / 2 < stats.chi2(b - 1).sf(deviations) < 1 - FALSE_ALARM / 2


def test_subset_says_nothing_about_the_weights(backend, device):
    """Given that an example is in the mixture, its weight is Beta(alpha, (m - 1) alpha)."""
    found = mk.sample_dirichlet(40_000, 6, m=3, alpha=1.5, seed=4, device=device, backend=backend).double().cpu()
    for column in found.T:
        assert has_law(column[column > 0].numpy(), stats.beta(1.5, 3.0).cdf)


def correlation(x, y):
    return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].abs().item() * math.sqrt(x.numel())


@pytest.mark.parametrize("transform", [lambda x: x, torch.square, lambda x: (x > x.median()).double()])
def test_rows_locations_examples_are_independent(transform):
    x = log_gamma(1.5, 20_000, b=6, r=3)
    x = transform((x - x.mean()) / x.std())
    assert correlation(x[:, 1:], x[:, :-1]) < SIGMAS
    assert correlation(x[1:], x[:-1]) < SIGMAS
    for i, j in combinations(range(6), 2):
        assert correlation(x[..., i], x[..., j]) < SIGMAS


def test_attempts_and_purposes_are_independent():
    rows, zero = torch.arange(50_000), torch.tensor(0)
    streams = [stream.uniform(w) for attempt in range(3) for w in stream.words(SEED, rows, zero, 0, zero, attempt)]
    streams += [stream.uniform(w) for purpose in (1, 2) for w in stream.words(SEED, rows, zero, purpose, zero)]
    for x, y in combinations(streams, 2):
        assert correlation(x, y) < SIGMAS


def test_seeds_are_independent(backend, device):
    found = [
        mk.sample_dirichlet(20_000, 2, alpha=1.0, seed=seed, device=device, backend=backend)[:, 0].double()
        for seed in (0, 1, 2**32, 2**63 - 1, -1)
    ]
    for x, y in combinations(found, 2):
        assert correlation(x, y) < SIGMAS


def test_rejections_are_as_rare_as_they_should_be():
    """The first candidate is taken but for 2 % at alpha = 1 (by exact integration elsewhere: 1.9 %)."""
    n = 200_000
    w = stream.words(SEED, torch.arange(n), torch.tensor(0), stream.GAMMA, torch.tensor(0))
    x, log_u = stream._normal_and_log_uniform(w, torch.zeros(n, dtype=torch.bool))
    d = 1 + 2 / 3
    y = 1 + x / (3 * math.sqrt(d))
    slack = x**2 / 2 + d * (1 - y**3 + 3 * torch.log(y.clamp(min=1e-300))) - log_u
    rejected = 1 - ((y > 0) & (slack > 0)).double().mean().item()
    grid = np.linspace(-12, 12, 200_001)
    with np.errstate(invalid="ignore", divide="ignore"):
        v = (1 + grid / (3 * math.sqrt(d))) ** 3
        log_accept = np.where(v > 0, grid**2 / 2 + d * (1 - v + np.log(v)), -np.inf)
    exact = 1 - np.trapezoid(np.exp(np.minimum(log_accept, 0)) * stats.norm.pdf(grid), grid)
    assert exact < 0.02
    assert abs(rejected - exact) < SIGMAS * math.sqrt(exact / n)
