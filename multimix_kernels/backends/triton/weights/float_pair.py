"""Numbers of about 46 bits: sums of two floats, of which the lower is what rounding left out of the higher.

For what float32 is too coarse for, as most GPUs that are not for data centres do float64 at 1/64 of its speed. A pair
is a tuple (high, low). Compilers may fuse a product that rounds and a sum into one instruction that does not, which
would part a sum from its error: products whose rounding counts are fused already, with a sum of zero.

Sources: Dekker, "A floating-point technique for extending the available precision" (Numer. Math. 18, 1971); Ogita, Rump
and Oishi, "Accurate sum and dot product" (SIAM J. Sci. Comput. 26, 2005).
"""

import triton
import triton.language as tl

from ..host.constants import INTERPRET

# The high part of ln 2 has 17 bits: times an exponent it is exact.
LN2_HIGH = tl.constexpr(0.693145751953125)
LN2_LOW = tl.constexpr(1.428606765330187e-06)


@triton.jit
def fused(x, y, z):
    """x y + z, rounded once; x is a tensor. Interpreters of older versions of Triton round twice in `tl.fma`."""
    result = (x.to(tl.float64) * y + z).to(tl.float32) if INTERPRET else tl.fma(x, y, z)
    return result


@triton.jit
def rounded_product(x, y):
    """x y, which no compiler fuses."""
    return fused(x, y, 0.0)


@triton.jit
def ordered_sum(a, b):
    """a + b and what its rounding lost, exactly, where |a| >= |b| or a is zero."""
    total = a + b
    return total, b - (total - a)


@triton.jit
def exact_sum(a, b):
    """a + b and what its rounding lost, exactly."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


@triton.jit
def exact_product(x, y):
    """x y and what its rounding lost, exactly."""
    product = rounded_product(x, y)
    return product, fused(x, y, -product)


@triton.jit
def times(x, y_high, y_low):
    """A pair times another, with a relative error of about 2**-46."""
    high, low = exact_product(x[0], y_high)
    return high, fused(x[1], y_high, fused(x[0], y_low, low))


@triton.jit
def plus(x, y_high, y_low):
    """The sum of two pairs."""
    high, low = exact_sum(x[0], y_high)
    return ordered_sum(high, low + (x[1] + y_low))


@triton.jit
def select(condition, x, y):
    """One of two pairs."""
    return tl.where(condition, x[0], y[0]), tl.where(condition, x[1], y[1])


@triton.jit
def square_root(x):
    """By one step of Newton's; of zero zero."""
    inverse = tl.rsqrt(tl.maximum(x[0], 1e-30))
    root = rounded_product(x[0], inverse)
    return root, (fused(-root, root, x[0]) + x[1]) * (inverse * 0.5)


@triton.jit
def inverse_root(x):
    """1 / sqrt(x), by one step of Newton's."""
    y = tl.rsqrt(x[0])
    high, low = exact_product(y, y)
    error = fused(-x[1], high, fused(-x[0], low, fused(-x[0], high, 1.0)))
    return y, y * 0.5 * error


@triton.jit
def positive_inverse(x):
    """1 / x in float32 but for some units: one instruction of the special function unit, and a product."""
    root = tl.rsqrt(x)
    return rounded_product(root, root)


@triton.jit
def reciprocal(x):
    """Of a positive pair, by one step of Newton's."""
    y = positive_inverse(x[0])
    return y, y * fused(-x[1], y, fused(-x[0], y, 1.0))


@triton.jit
def split(x):
    """A float64 in [2**-60, 2**60], from its bits: the first 24 of its fraction, and the other 29."""
    bits = x.to(tl.int64, bitcast=True)
    high = ((bits >> 29) - (896 << 23)).to(tl.int32)
    unit = (high & 0x7F800000) - (52 << 23)
    low = (bits & 0x1FFFFFFF).to(tl.int32).to(tl.float32) * unit.to(tl.float32, bitcast=True)
    return high.to(tl.float32, bitcast=True), low


@triton.jit
def add(total, low, x):
    """Adds x to a sum that is greater, and what rounding loses to `low`."""
    result, lost = ordered_sum(total, x)
    return result, low + lost


@triton.jit
def logarithm(x, x_low):
    """ln(x + x_low) as (exponent, high, low): exponent * ln 2 + high + low.

    With x = 2**exponent (1 + f) and s = 2 f / (2 + f) it is exponent ln 2 + s + s**3 / 12 + s**5 / 80 + ..., where
    |s| <= 0.343: what follows s is a minimax polynomial in float32. An error of 6e-10 at most, and less near one.
    """
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # 1 + f from the root of 1/2 on
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    denominator, below = ordered_sum(1.0, f * 0.5)
    inverse = positive_inverse(denominator)
    s = rounded_product(f, inverse)
    w = s * s
    rest = fused(-s, denominator, f)
    if x_low is not None:
        low = x_low * ((127 - exponent) << 23).to(tl.float32, bitcast=True)
        rest += low
        below += low * 0.5
    error = fused(-s, below, rest) * inverse
    tail = ((w * 0.0004622818378265947 + 0.0022290674969553947) * w + 0.012500135228037834) * w + 0.0833333283662796
    return exponent.to(tl.float32), s, s * w * tail + error * (w * 0.25 + 1.0)
