"""The weight stream, version 2: the one home of Philox and of gamma variates in Triton.

A weight is named by (seed, row, location, example) and by nothing else: no tile, thread or launch order has a say.

Gammas come in pairs, two for a Philox block: the first attempt of every pair in straight line, then a loop in which
each thread draws again, one at a time, those of its own pairs that were rejected (about 2 %). A pair tile is (E, R, C):
E pairs in the registers of one thread, R rows, C groups of pairs; pair e * C + c is that of examples 2 (e * C + c) and
the next. Cost per gamma, in instructions of a lane: 20 of Philox, 50 to 60 of the rest, and about 25 of the loop.

Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Marsaglia and Tsang, "A simple method
for generating gamma variables" (ACM TOMS 26, 2000).
"""

import triton
import triton.language as tl

from ..host.constants import INTERPRET, LN2, LOG2E, TINY
from .float_pair import select, times
from .log_gamma import (
    ZERO,
    log_candidate,
    log_concentrations,
    log_parameters,
    log_radius,
    log_sine_and_cosine,
    uniform_concentration,
)

GAMMA = tl.constexpr(0)
CONCENTRATION = tl.constexpr(16)
SUBSET = tl.constexpr(32)
MAX_ATTEMPTS = tl.constexpr(16)

# How gammas are computed: in float32 with the logarithm of an NVIDIA GPU's hardware; in float32 with an accurate one,
# as large concentrations multiply its error; in pairs of float32 and in log space, as small ones divide the error of E.
HARDWARE = tl.constexpr(0)
ACCURATE = tl.constexpr(1)
LOG_SPACE = tl.constexpr(2)


@triton.jit
def special(x, OPERATION: tl.constexpr):
    """One instruction of NVIDIA's special function unit: OPERATION is "lg2", "ex2" or "sqrt"."""
    if INTERPRET:
        result = tl.log2(x) if OPERATION == "lg2" else tl.exp2(x) if OPERATION == "ex2" else tl.sqrt(x)
    else:
        result = tl.inline_asm_elementwise(
            OPERATION + ".approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return result


@triton.jit
def exp2(x, KIND: tl.constexpr):
    """2**x."""
    return special(x, "ex2") if KIND == HARDWARE else tl.exp2(x)


@triton.jit
def split_words(x):
    """The low and high 32 bits of a 64-bit integer."""
    wide = x.to(tl.uint64)
    return wide.to(tl.uint32), (wide >> 32).to(tl.uint32)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of uint32 words that broadcast: 20 wide products and 20 three-way exclusive ors."""
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0 = tl.add(k0, 0x9E3779B9, sanitize_overflow=False)
        k1 = tl.add(k1, 0xBB67AE85, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def location_word(location, purpose, attempt):
    """Counter word 1: what a draw is for."""
    return (location * 256 + purpose).to(tl.uint32) + attempt.to(tl.uint32)


@triton.jit
def uniform(word):
    """fma(float32(word), 2**-32, 2**-33): in (0, 1]. The product is exact, so fusing it changes nothing."""
    return word.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10


@triton.jit
def logarithm(x, KIND: tl.constexpr):
    """ln x in the arithmetic of KIND; the hardware's has an absolute error of 2**-22 near one."""
    result = special(x, "lg2") * LN2 if KIND == HARDWARE else tl.log(x)
    return result


@triton.jit
def sine_and_cosine(word, KIND: tl.constexpr):
    """Of the angle 2 pi word / 2**32: the nearest quarter turn and a polynomial in the exact rest."""
    if KIND == LOG_SPACE:
        sine, cosine = log_sine_and_cosine(word)
    else:
        quarter = ((word + 0x20000000) >> 30).to(tl.int32)
        rest = (word << 2).to(tl.int32, bitcast=True)
        # Minimax over an eighth of a turn: absolute errors of 1e-8 and 1e-9 beside the rounding.
        x = rest.to(tl.float32) * 3.6572951981073535e-10  # 2 pi / 2**34
        z = x * x
        s = x + x * (z * (z * (z * -0.0001958800885543738 + 0.00833274899841138) - 0.16666664667927242))
        c = z * (z * (z * (z * 2.4548040536601995e-05 - 0.0013888303643233369) + 0.04166666466418609) - 0.5) + 1.0
        odd = (quarter & 1) != 0
        sine, cosine = tl.where(odd, c, s), tl.where(odd, s, c)
        sine = tl.where((quarter & 2) != 0, -sine, sine)
        cosine = tl.where(((quarter + 1) & 2) != 0, -cosine, cosine)
    return sine, cosine


@triton.jit
def radius(word, KIND: tl.constexpr):
    """sqrt(-2 ln u): u near one has a small logarithm, whose relative error counts."""
    u = uniform(word)
    if KIND == HARDWARE:
        w = 1.0 - u
        near = w * (w * (w * 0.3333333333333333 + 0.5) + 1.0)
        rho = special(tl.where(w < 0.0078125, near * 2.0, special(u, "lg2") * (-2.0 * LN2)), "sqrt")
    elif KIND == LOG_SPACE:
        rho = log_radius(u)
    else:
        rho = tl.sqrt(logarithm(u, KIND) * -2.0)
    return rho


@triton.jit
def normal(rho, direction, KIND: tl.constexpr):
    """Of a radius, and the sine or cosine of an angle."""
    return times(rho, direction[0], direction[1]) if KIND == LOG_SPACE else rho * direction


@triton.jit
def concentrations(pointer, KIND: tl.constexpr):
    """Those of single examples."""
    return log_concentrations(pointer) if KIND == LOG_SPACE else tl.load(pointer)


@triton.jit
def parameters(alpha, KIND: tl.constexpr):
    """What a gamma variate needs of its concentration: d, 1 / (3 sqrt(d)), and -1 / alpha of a power of two."""
    if KIND == LOG_SPACE:
        d, q, exponent = log_parameters(alpha)
    else:
        d = alpha + 0.6666666666666666
        q = 1.0 / (tl.sqrt(d) * 3.0)
        exponent = -LOG2E / alpha
    return d, q, exponent


@triton.jit
def candidate(x, word, d, q, exponent, KIND: tl.constexpr):
    """One attempt: the gamma variate (its logarithm in log space), whether it is a number, whether it is accepted.

    With t = q x and y = 1 + t the acceptance slack x**2 / 2 + d (1 - y**3 + 3 ln y) - ln u is
    3 d (ln(1 + t) - t + t**2 / 2 - t**3 / 3) - ln u, which does not cancel for large d.
    """
    if KIND == LOG_SPACE:
        value, valid, accepted = log_candidate(x, uniform(word), d, q, exponent)
    else:
        t = q * x
        y = 1.0 + t
        log_y = logarithm(tl.maximum(y, TINY), KIND)
        if KIND != HARDWARE:
            log_y += t - (y - 1.0)  # what rounding y left out
        slack = d * 3.0 * (log_y - t * (1.0 - t * (0.5 - t * 0.3333333333333333))) - logarithm(uniform(word), KIND)
        value = d * (y * y * y) * exp2(slack * exponent, KIND)
        valid = y > 0
        accepted = valid & (slack > 0)
    return value, valid, accepted


@triton.jit
def row_concentration(seed, location, row, low, low_rest, high, high_rest, KIND: tl.constexpr):
    """alpha ~ Uniform[low, high] of every row. The bounds come as float32 and the rest of their float64."""
    k0, k1 = split_words(seed)
    r0, r1 = split_words(row)
    zero = r0 * 0
    word, _, _, _ = philox(
        zero, zero + location_word(location, CONCENTRATION, tl.full((), 0, tl.uint32)), r0, r1, k0, k1
    )
    u = uniform(word)
    alpha = uniform_concentration(u, low, low_rest, high, high_rest) if KIND == LOG_SPACE else low + (high - low) * u
    return alpha


@triton.jit
def of_rows(alpha, R: tl.constexpr, KIND: tl.constexpr):
    """Concentrations (1, R, 1) as (R, 1)."""
    if KIND == LOG_SPACE:
        result = tl.reshape(alpha[0], (R, 1)), tl.reshape(alpha[1], (R, 1))
    else:
        result = tl.reshape(alpha, (R, 1))
    return result


@triton.jit
def subset_words(seed, location, row, block):
    """The words of a block for the subset of every row."""
    k0, k1 = split_words(seed)
    r0, r1 = split_words(row)
    word = location_word(location, SUBSET, tl.full((), 0, tl.uint32))
    return philox(r0 * 0 + block.to(tl.uint32), word, r0, r1, k0, k1)


@triton.jit
def bit_index(power):
    """log2 of an int32 with one bit set, the sign bit too."""
    return (power.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def draw_again(
    index, attempt, location, row_low, row_high, k0, k1, alpha, alpha_ptr, b,
    E: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, PER_EXAMPLE: tl.constexpr,
):  # fmt: skip
    """One more attempt at the element of each thread with this bit; all operands are (R, C)."""
    is_odd = index >= E
    pair = tl.where(is_odd, index - E, index) * C + tl.arange(0, C)[None, :]
    w0, w1, w2, w3 = philox(pair.to(tl.uint32), location_word(location, GAMMA, attempt), row_low, row_high, k0, k1)
    sine, cosine = sine_and_cosine(w1, KIND)
    if PER_EXAMPLE:
        example = tl.minimum(tl.maximum(2 * pair + is_odd.to(tl.int32), 0), b - 1)
        d, q, exponent = parameters(concentrations(alpha_ptr + example, KIND), KIND)
    else:
        d, q, exponent = parameters(alpha, KIND)
    direction = select(is_odd, sine, cosine) if KIND == LOG_SPACE else tl.where(is_odd, sine, cosine)
    return candidate(normal(radius(w0, KIND), direction, KIND), tl.where(is_odd, w3, w2), d, q, exponent, KIND)


@triton.jit
def pair_index(E: tl.constexpr, C: tl.constexpr):
    """The pairs of a tile, (E, 1, C)."""
    return tl.arange(0, E)[:, None, None] * C + tl.arange(0, C)[None, None, :]


@triton.jit
def gamma_pairs(
    seed, location, row, alpha, alpha_ptr, b, want_even, want_odd,
    E: tl.constexpr, R: tl.constexpr, C: tl.constexpr, KIND: tl.constexpr, PER_EXAMPLE: tl.constexpr,
):  # fmt: skip
    """Gamma variates of the even and odd examples of a pair tile (E, R, C): in log space fixed point of `log_gamma`.

    row (1, R, 1) is 64 bits wide; alpha (1, R, 1), a pair in log space, or b values at alpha_ptr. Elements that are not
    wanted hold some candidate, which costs no retry.
    """
    k0, k1 = split_words(seed)
    r0, r1 = split_words(row)
    register = tl.arange(0, E)[:, None, None]
    pair = pair_index(E, C)
    zero = tl.full((), 0, tl.uint32)
    w0, w1, w2, w3 = philox(pair.to(tl.uint32), location_word(location, GAMMA, zero), r0, r1, k0, k1)
    rho = radius(w0, KIND)
    sine, cosine = sine_and_cosine(w1, KIND)
    if PER_EXAMPLE:
        full = tl.broadcast_to(2 * pair, (E, R, C))
        d, q, exponent = parameters(concentrations(alpha_ptr + tl.minimum(full, b - 1), KIND), KIND)
        d1, q1, exponent1 = parameters(concentrations(alpha_ptr + tl.minimum(full + 1, b - 1), KIND), KIND)
    else:
        d, q, exponent = parameters(alpha, KIND)
        d1, q1, exponent1 = d, q, exponent
    even, valid_even, accept_even = candidate(normal(rho, cosine, KIND), w2, d, q, exponent, KIND)
    odd, valid_odd, accept_odd = candidate(normal(rho, sine, KIND), w3, d1, q1, exponent1, KIND)
    nothing = ZERO if KIND == LOG_SPACE else 0.0
    even, odd = tl.where(valid_even, even, nothing), tl.where(valid_odd, odd, nothing)

    # One bit for each rejected element of a thread's register dimension; both halves fit in a word, as E <= 16.
    reject_even, reject_odd = want_even & ~accept_even, want_odd & ~accept_odd
    pending = tl.sum(reject_even.to(tl.int32) << register, 0) | (tl.sum(reject_odd.to(tl.int32) << register, 0) << E)
    attempt = pending * 0 + 1
    row2 = tl.reshape(row, (R, 1))
    low2, high2 = split_words(row2)
    alpha2 = alpha if PER_EXAMPLE else of_rows(alpha, R, KIND)
    while tl.max((pending != 0).to(tl.int32)) != 0:
        lowest = pending & -pending
        index = bit_index(lowest)
        value, valid, accept = draw_again(
            index, attempt, location, low2, high2, k0, k1, alpha2, alpha_ptr, b, E, C, KIND, PER_EXAMPLE
        )
        # A rejected candidate stays until the next one: after the last attempt it is taken.
        hit = tl.where(valid & (pending != 0), index, -1)[None, :, :]
        even = tl.where(register == hit, value[None, :, :], even)
        odd = tl.where(register + E == hit, value[None, :, :], odd)
        done = accept | (attempt == MAX_ATTEMPTS - 1)
        pending = tl.where(done, pending ^ lowest, pending)
        attempt = tl.where(done, 1, attempt + 1)
    return even, odd
