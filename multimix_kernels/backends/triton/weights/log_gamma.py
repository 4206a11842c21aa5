"""Gamma variates in log space, for concentrations that are small or that only the device knows.

With t = q x and y = 1 + t, log2 G = log2 d + 3 log2 y - E log2(e) / alpha is wanted to 3e-6. As alpha may be 0.01, the
slack E = 3 d (ln y - t + t**2 / 2 - t**3 / 3) - ln u is wanted to 2e-8. Its derivative by x is -3 d q t**3 / y, so that
x is wanted to 1e-9. Both are pairs of floats, whose small terms are polynomials in float32. Errors of G are mostly
3e-7, where fixed point rounds; at 0.01 they exceed 1e-6 for 5 in 10**5 variates, and 5e-6 for 3 in 10**7 of small y.

log2 G is an int32 in units of 2**-20 above a bias: 4 bytes, and a relative error of 3e-7 (half a unit) over the whole
range of alpha.
"""

import triton
import triton.language as tl

from ..host.constants import LN2, LOG2E, TINY
from .float_pair import (
    LN2_HIGH,
    LN2_LOW,
    add,
    exact_product,
    fused,
    inverse_root,
    logarithm,
    ordered_sum,
    plus,
    reciprocal,
    rounded_product,
    select,
    split,
    square_root,
    times,
)

UNITS = tl.constexpr(2**20)
BIAS = tl.constexpr(2000 * 2**20)  # log2 G in [-3792, 48)
ZERO = tl.constexpr(-(2**31))  # stands for log2 0
START = tl.constexpr(24.0)  # a sum begins above its terms: those of ln y - ... are at most 2.75**3 / 3,
MOST = tl.constexpr(96.0)  # and those of E at most 23 where it is accepted
# A third as a pair.
THIRD = tl.constexpr(0.3333333432674408)
THIRD_LOW = tl.constexpr(-9.934107758624577e-09)
ROUNDS = tl.constexpr(1.5 * 2**33)  # adding it rounds to multiples of 2**10


@triton.jit
def log_parameters(alpha):
    """Pairs 3 d, 1 / (3 sqrt(d)) and log2(e) / alpha in units of a pair alpha."""
    d3 = plus(times(alpha, 3.0, 0.0), 2.0, 0.0)
    root, root_low = times(inverse_root(d3), 0.5773502588272095, 1.0362416702491828e-08)
    exponent, exponent_low = times(reciprocal(alpha), 1512775.375, 0.020195186138153076)
    return d3, ordered_sum(root, root_low), ordered_sum(exponent, exponent_low)


@triton.jit
def uniform_concentration(u, low, low_rest, high, high_rest):
    """The pair low + (high - low) u of two pairs."""
    low_pair = u * 0 + low, u * 0 + low_rest
    width = plus((u * 0 + high, u * 0 + high_rest), -low, -low_rest)
    step, step_low = times(width, u, 0.0)
    return plus(low_pair, step, step_low)


@triton.jit
def log_concentrations(pointer):
    """Pairs of the concentrations of single examples."""
    return split(tl.load(pointer))


@triton.jit
def log_radius(u):
    """The pair sqrt(-2 ln u)."""
    exponent, high, low = logarithm(u, None)
    total, lost = ordered_sum(exponent * LN2_HIGH, high)
    total, lost = ordered_sum(total, lost + (exponent * LN2_LOW + low))
    return square_root((total * -2.0, lost * -2.0))


@triton.jit
def of_square(z, z_low, c0, c0_low, c1, c1_low, c2: tl.constexpr, c3: tl.constexpr, c4: tl.constexpr):
    """Of the square of an angle, in the distance z from the middle of its range: minimax to 1e-10.

    The third and later terms are at most 0.004.
    """
    linear, rest = times((z, z_low), c1, c1_low)
    total, lost = ordered_sum(c0, linear)
    rest += z * z * ((z * c4 + c3) * z + c2)
    return ordered_sum(total, lost + (rest + c0_low))


@triton.jit
def log_sine_and_cosine(word):
    """Pairs, of the angle 2 pi word / 2**32."""
    quarter = ((word + 0x20000000) >> 30).to(tl.int32)
    rest = (word << 2).to(tl.int32, bitcast=True)
    v = (rest & -256).to(tl.float32) * 2.0**-31  # eighths of a turn
    v_low = (rest & 255).to(tl.float32) * 2.0**-31
    square, square_low = times((v, v_low), v, v_low)
    z, z_low = ordered_sum(-0.5, square)
    z, z_low = ordered_sum(z, z_low + square_low)
    c = of_square(
        z, z_low, 0.8497104644775391, 2.7491994458728186e-08, -0.2928135097026825, 1.0731947774900163e-08,
        0.01537071168422699, -0.00031887899967841804, 3.5297971407999285e-06,
    )  # fmt: skip
    s, s_low = of_square(
        z, z_low, 0.7456434369087219, 1.654191095212809e-08, -0.07828239351511002, -8.919313204680535e-11,
        0.002435998059809208, -3.5954399209003896e-05, 3.0899667535777553e-07,
    )  # fmt: skip
    s = times((v, v_low), s, s_low)
    odd = (quarter & 1) != 0
    sine, cosine = select(odd, c, s), select(odd, s, c)
    down, left = (quarter & 2) != 0, ((quarter + 1) & 2) != 0
    sine = tl.where(down, -sine[0], sine[0]), tl.where(down, -sine[1], sine[1])
    return sine, (tl.where(left, -cosine[0], cosine[0]), tl.where(left, -cosine[1], cosine[1]))


@triton.jit
def fixed_point(lack, exponent, rest):
    """-E (a pair) by its unit in fixed point, and the `rest` of log2 G: rounded to an integer above the bias."""
    units, units_low = times(lack, exponent[0], exponent[1])
    units = tl.minimum(units, 31.0 * UNITS)  # of what is rejected: the sum stays below 2**31
    multiples = units + ROUNDS  # their number is in the low bits
    low = units - (multiples - ROUNDS) + (units_low + rest * UNITS)
    result = multiples.to(tl.uint32, bitcast=True) << 10
    result = tl.add(result, tl.floor(low + 0.5).to(tl.int32).to(tl.uint32, bitcast=True), sanitize_overflow=False)
    return tl.add(result, BIAS, sanitize_overflow=False).to(tl.int32, bitcast=True)


@triton.jit
def log_candidate(x, u, d3, q, exponent):
    """One attempt, of pairs x, d3, q and exponent: log2 G in fixed point, whether it is a number, and is accepted."""
    t, t_low = times(q, x[0], x[1])
    y = 1.0 + t
    valid = y > 0
    lost = tl.where(valid, t - (y - 1.0) + t_low, 0.0)  # what rounding y left out
    e, ln_y, ln_y_low = logarithm(tl.where(valid, y, TINY), lost)

    # ln y - t + t**2 / 2 - t**3 / 3 of the high part of t, and its change by the low one but for what is in ln y.
    square, square_low = exact_product(t, t)
    third = rounded_product(t, THIRD)
    cube, cube_low = times((square, square_low), third, fused(t, THIRD_LOW, fused(t, THIRD, -third)))
    rest = e * LN2_LOW + ln_y_low - cube_low + square_low * 0.5 - t_low * (t * (t - 1.0) + 1.0)
    total, rest = add(e * LN2_HIGH + START, rest, ln_y)
    total, rest = add(total, rest, -t)
    total, rest = add(total, rest, square * 0.5)
    total, rest = add(total, rest, -cube)
    dip, dip_low = times(d3, total - START, rest)

    e_u, ln_u, ln_u_low = logarithm(u, None)
    total, rest = add(e_u * LN2_HIGH + MOST, e_u * LN2_LOW + ln_u_low - dip_low, ln_u)
    total, rest = add(total, rest, -dip)
    total -= MOST  # with `rest` it is -E
    log2_y = (e * LN2 + (ln_y + ln_y_low)) * LOG2E
    value = fixed_point((total, rest), exponent, tl.log2(d3[0] * THIRD) + 3.0 * log2_y)
    return value, valid, valid & (total + rest < 0)


@triton.jit
def fixed_log2(x):
    """log2 of a positive float32 in units: exact in the exponent."""
    small = x < 2.0**-100
    bits = tl.where(small, x * 2.0**40, x).to(tl.int32, bitcast=True)
    part = tl.log2(((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True))
    exponent = (bits >> 23) - tl.where(small, 167, 127)
    return exponent * UNITS + tl.floor(part * UNITS + 0.5).to(tl.int32)


@triton.jit
def fixed_exp2(x, top):
    """2**(x - top) of fixed-point numbers, whose difference may not fit in 32 bits with a sign."""
    a, b = x.to(tl.uint32, bitcast=True), top.to(tl.uint32, bitcast=True)
    below, above = tl.sub(b, a, sanitize_overflow=False), tl.sub(a, b, sanitize_overflow=False)
    distance = tl.where(x < top, -below.to(tl.float32), above.to(tl.float32))
    return tl.where(x == ZERO, 0.0, tl.exp2(distance * (1.0 / UNITS)))


@triton.jit
def times_attention(x, attention):
    """A variate times its attention, in fixed point."""
    return tl.where((x == ZERO) | (attention == 0), ZERO, x + fixed_log2(attention))
