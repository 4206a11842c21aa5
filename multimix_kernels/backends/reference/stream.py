"""The weight stream, version 2, in plain PyTorch: the specification that every backend's sampler is held to.

A weight is named by (seed, row, location, example) and by nothing else, so any backend, tile shape, device or rank
can draw it again. All arithmetic after the uniforms is in float64.

Sources: Philox4x32-10 from Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011);
gamma variates from Marsaglia and Tsang, "A simple method for generating gamma variables" (ACM TOMS 26, 2000).
"""

import math

import torch
from torch import Tensor

from ..contract import Draw

GAMMA, CONCENTRATION, SUBSET = 0, 1, 2
MAX_ATTEMPTS = 16
_WORD = 0xFFFFFFFF


def philox(counter: list[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox4x32-10. Words are int64 tensors that hold unsigned 32-bit values; counter and key broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 64-bit products: wrapping keeps all their bits
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _WORD) ^ c1 ^ k0,
            p1 & _WORD,
            ((p0 >> 32) & _WORD) ^ c3 ^ k1,
            p0 & _WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return [c0, c1, c2, c3]


def words(seed: Tensor, row: Tensor, location: Tensor, purpose: int, block: Tensor, attempt: Tensor | int = 0):
    """The four 32-bit words of one counter; arguments are int64 tensors that broadcast against each other."""
    location_word = location * 256 + purpose * 16 + attempt
    key = (seed & _WORD, (seed >> 32) & _WORD)
    return philox([block, location_word, row & _WORD, (row >> 32) & _WORD], key)


def uniform(word: Tensor) -> Tensor:
    """fma(float32(w), 2**-32, 2**-33) in float32, hence in (0, 1]; returned as float64."""
    # The float64 sum is exact, so one rounding to float32 is the fused multiply-add.
    return (word.to(torch.float32).double() * 2.0**-32 + 2.0**-33).to(torch.float32).double()


def _normal_and_log_uniform(w: list[Tensor], odd: Tensor) -> tuple[Tensor, Tensor]:
    radius = torch.sqrt(-2 * torch.log(uniform(w[0])))
    angle = w[1].double() * (2 * math.pi / 2.0**32)
    normal = radius * torch.where(odd, torch.sin(angle), torch.cos(angle))
    return normal, torch.log(uniform(torch.where(odd, w[3], w[2])))


def log_gamma_variate(seed: Tensor, row: Tensor, location: Tensor, example: Tensor, alpha: Tensor) -> Tensor:
    """ln G of one Gamma(alpha) variate per broadcast element: Marsaglia-Tsang at alpha + 1.

    The acceptance slack E = h - ln u is a standard exponential given acceptance, so exp(-E / alpha) is the
    U**(1/alpha) that brings Gamma(alpha + 1) down to Gamma(alpha).
    """
    row, location, example, alpha = torch.broadcast_tensors(row, location, example, alpha)
    shape = row.shape
    row, location, example, alpha = (x.reshape(-1) for x in (row, location, example, alpha))
    result = torch.full_like(alpha, -math.inf)
    pending = torch.arange(alpha.numel(), device=alpha.device)
    for attempt in range(MAX_ATTEMPTS):
        i, a = example[pending], alpha[pending]
        w = words(seed, row[pending], location[pending], GAMMA, i >> 1, attempt)
        x, log_u = _normal_and_log_uniform(w, (i & 1).bool())
        d = a + 2 / 3
        y = 1 + x / (3 * torch.sqrt(d))
        valid = y > 0
        log_y = torch.log(torch.where(valid, y, 1.0))
        h = x**2 / 2 + d * (1 - y**3 + 3 * log_y)
        slack = h - log_u
        # A candidate that is rejected stays until the next one: after the last attempt it is taken.
        result[pending] = torch.where(valid, torch.log(d) + 3 * log_y - slack / a, result[pending])
        pending = pending[~(valid & (slack > 0))]
        if pending.numel() == 0:
            break
    return result.reshape(shape)


def concentration(draw: Draw, row: Tensor, location: Tensor) -> Tensor:
    """The concentrations of a row: the per-example tensor (b,), or one alpha ~ Uniform[low, high] per row."""
    if draw.alpha is not None:
        return draw.alpha.double()
    w = words(draw.seed, row, location, CONCENTRATION, torch.zeros_like(row))
    return draw.low + (draw.high - draw.low) * uniform(w[0])


def subset(seed: Tensor, row: Tensor, location: Tensor, m: int, candidate: Tensor) -> Tensor:
    """Which examples (..., b) are mixed: m of the candidates (b,), or all if there are no more; row, location (..., 1).

    Floyd's sampling without replacement (Bentley and Floyd, "A sample of brilliance", CACM 30, 1987) over the ranks
    of the candidates. The fewer are drawn: those that are mixed, or those that are not.
    """
    b, count = candidate.numel(), candidate.sum()  # a tensor: reading it back would stall a GPU's stream
    few = 2 * m <= count
    draws = torch.where(few, m, (count - m).clamp(min=0))
    picked = torch.zeros(
        (*torch.broadcast_shapes(row.shape, location.shape)[:-1], b), dtype=torch.bool, device=row.device
    )
    for t in range(min(m, b - m)):
        if t % 4 == 0:
            w = words(seed, row, location, SUBSET, torch.full_like(row, t >> 2))
        last = (count - draws + t).clamp(max=b - 1)
        rank = ((w[t % 4] * (last + 1)) >> 32).expand(*picked.shape[:-1], 1)  # a 32-bit word times a count: exact
        rank = torch.where(picked.gather(-1, rank), last, rank)
        picked.scatter_(-1, rank, picked.gather(-1, rank) | (t < draws))
    of_examples = picked[..., (candidate.cumsum(0) - 1).clamp(min=0)]
    return torch.where(few, of_examples, ~of_examples) & candidate


def weights(draw: Draw, b: int, r: int, attention: Tensor | None = None, ignored: Tensor | None = None) -> Tensor:
    """Interpolation weights (r, n, b) in float64; each row sums to one.

    attention (r, b) multiplies the weights before they are normalised; a row whose every attention is zero uses
    uniform attention. ignored (b,) bool leaves examples out of the draw; a row with no example left is all zero.
    """
    seed, device = draw.seed, draw.seed.device
    row = (draw.row_offset + torch.arange(draw.n, device=device)).view(1, draw.n, 1)
    location = torch.arange(r, device=device).view(r, 1, 1)
    candidate = torch.ones(b, dtype=torch.bool, device=device) if ignored is None else ~ignored
    chosen = subset(seed, row, location, draw.m, candidate)
    example = torch.arange(b, device=device)
    log_weight = log_gamma_variate(seed, row, location, example, concentration(draw, row, location))
    log_weight = log_weight.masked_fill(~chosen, -math.inf)
    if attention is not None:
        attention = attention.double().unsqueeze(1)
        dead = ~(chosen & (attention != 0)).any(-1, keepdim=True)
        log_weight = log_weight + torch.where(dead, 0.0, torch.log(attention))
    return torch.softmax(log_weight, -1).masked_fill(~candidate.any(), 0.0)
