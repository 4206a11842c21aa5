"""Weights of a tile of rows: gammas, subsets, attention, normalisation. What every kernel that draws weights calls.

The tile is that of `stream.gamma_pairs`, (E, R, C) for the even and for the odd examples; `as_rows` makes (R, 2 E C) of
both. Cost per weight beside its gamma: 3 lane-instructions; with attention 4 more, in subsets (m < b) about 100 more.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..host.constants import LEAST_WEIGHT
from .stream import LOG_SPACE, gamma_pairs, pair_index, row_concentration, subset_words


class DrawNames(NamedTuple):
    """What names the weights of a draw, but for its counts."""

    seed: Tensor
    alpha: Tensor | None  # (b,)
    attention: Tensor | None  # (r, b)
    ignored: Tensor | None  # int16, two examples to a word
    low: float  # the bounds of alpha as float32, and the rest of their float64
    low_rest: float
    high: float
    high_rest: float


@triton.jit
def not_too_small(weight):
    """A weight that is not zero, large enough to be seen times a mask."""
    return tl.where(weight > 0, tl.maximum(weight, LEAST_WEIGHT), weight)


@triton.jit
def as_rows(even, odd, E: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """Two pair tiles (E, R, C) as one tile (R, 2 E C) in the order of the examples."""
    return tl.reshape(tl.permute(tl.join(even, odd), (1, 0, 2, 3)), (R, 2 * E * C))


@triton.jit
def row_sum(even, odd):
    """The sum over all examples of a row: (E, R, C) twice -> (R,)."""
    return tl.sum(tl.sum(even + odd, 0), 1)


@triton.jit
def row_max(even, odd):
    """The maximum over all examples of a row: (E, R, C) twice -> (R,)."""
    return tl.max(tl.max(tl.maximum(even, odd), 0), 1)


@triton.jit
def count(even, odd):
    """How many are true in a row, (1, R, 1)."""
    return row_sum(even.to(tl.int32), odd.to(tl.int32))[None, :, None]


@triton.jit
def smallest_keys(even, odd, pair, candidate_even, candidate_odd, m, B: tl.constexpr):
    """Which of the candidates have the m smallest keys, ties going to the smaller example.

    Finds the m-th smallest key bit by bit, from how many are below; then, among those equal to it, the last example.
    """
    last = tl.zeros_like(count(candidate_even, candidate_odd)).to(tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    while bit != 0:
        trial = last | bit
        below = count(candidate_even & (even < trial), candidate_odd & (odd < trial))
        last = tl.where(below < m, trial, last)
        bit = bit >> 1
    below_even, below_odd = candidate_even & (even < last), candidate_odd & (odd < last)
    equal_even, equal_odd = candidate_even & (even == last), candidate_odd & (odd == last)
    missing = m - count(below_even, below_odd)
    end = tl.zeros_like(missing)
    size = tl.full((), B, tl.int32)
    while size != 0:
        trial = end + size
        ahead = count(equal_even & (2 * pair < trial), equal_odd & (2 * pair + 1 < trial))
        end = tl.where(ahead <= missing, trial, end)
        size = size >> 1
    return below_even | (equal_even & (2 * pair < end)), below_odd | (equal_odd & (2 * pair + 1 < end))


@triton.jit
def load_pair(pointer, pair, b):
    """Elements 2 * pair and 2 * pair + 1 of b, zero past them."""
    pointer += 2 * pair
    return tl.load(pointer, mask=2 * pair < b, other=0.0), tl.load(pointer + 1, mask=2 * pair + 1 < b, other=0.0)


@triton.jit
def load(pointer, ASSEMBLY: tl.constexpr):
    """Words of 16 or 32 bits. Loads of Triton decide on the layout of all that they meet; those in assembly follow it.

    With the former Triton 3.6 spreads the pairs of a tile over threads, and each retry costs all of them.
    """
    if not ASSEMBLY:
        result = tl.load(pointer)
    elif pointer.dtype.element_ty == tl.int16:
        result = tl.inline_asm_elementwise(
            "ld.global.nc.b16 $0, [$1];", "=h,l", [pointer.to(tl.int64)], dtype=tl.int16, is_pure=True, pack=1
        )
    else:
        result = tl.inline_asm_elementwise(
            "ld.global.nc.b32 $0, [$1];", "=r,l", [pointer.to(tl.int64)], dtype=tl.float32, is_pure=True, pack=1
        )
    return result


@triton.jit
def draw_tile(
    draw, location, k, row_offset, n, b, m, E: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    KIND: tl.constexpr, SUBSET: tl.constexpr, WHOLE: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Weights of rows k (R,), 64 bits wide, at a location: mu and its derivative by the attention, but for centring.

    Returns mu of the even and of the odd examples in float32, (E, R, C), and lambda / sum(a lambda) of both: the same
    as mu without attention, zero where there is no attention at all. Rows past n, and rows without examples, are zero.
    """
    seed = tl.load(draw.seed)
    k = tl.reshape(k, (1, R, 1))
    row = k + row_offset
    pair = pair_index(E, C)
    even_in, odd_in = (2 * pair < b) & (k < n), (2 * pair + 1 < b) & (k < n)
    at = tl.minimum(pair, (b - 1) // 2)
    if WHOLE:  # where many warps share few rows, loads of one row lay them out better
        at = tl.broadcast_to(at, (E, R, C))
    if draw.ignored is not None:
        both = load(draw.ignored + at, ASSEMBLY).to(tl.int32)
        even_in, odd_in = even_in & ((both & 255) == 0), odd_in & ((both >> 8) == 0)
    if SUBSET:
        key_even, key_odd = subset_words(seed, location, row, pair)
        even_in, odd_in = smallest_keys(key_even, key_odd, pair, even_in, odd_in, m, 2 * E * C)
    alpha = seed
    if draw.alpha is None:
        alpha = row_concentration(seed, location, row, draw.low, draw.low_rest, draw.high, draw.high_rest, KIND)
    even, odd = gamma_pairs(
        seed, location, row, alpha, draw.alpha, b, even_in, odd_in, E, R, C, KIND, PER_EXAMPLE=draw.alpha is not None
    )  # fmt: skip
    if draw.attention is not None:
        attention_ptr = draw.attention + location.to(tl.int64) * b
        a_even = load(attention_ptr + 2 * at, ASSEMBLY)
        a_odd = load(attention_ptr + tl.minimum(2 * at + 1, b - 1), ASSEMBLY)
        a_even, a_odd = tl.where(even_in, a_even, 0.0), tl.where(odd_in, a_odd, 0.0)
        # Relative to the row's largest, so that products of small attention and small gammas do not vanish.
        largest = row_max(a_even, a_odd)[None, :, None]
        dead = largest == 0
        up = tl.where(largest < 5.421010862427522e-20, 1.8446744073709552e19, 1.0)
        scale = 1.0 / tl.where(dead, 1.0, largest * up)
        a_even = tl.where(dead, tl.where(even_in, 1.0, 0.0), a_even * up * scale)
        a_odd = tl.where(dead, tl.where(odd_in, 1.0, 0.0), a_odd * up * scale)
    if KIND == LOG_SPACE:
        infinity = float("inf")
        even, odd = tl.where(even_in, even, -infinity), tl.where(odd_in, odd, -infinity)
        attended_even, attended_odd = even, odd
        if draw.attention is not None:
            attended_even = even + tl.log(a_even.to(tl.float64))
            attended_odd = odd + tl.log(a_odd.to(tl.float64))
        top = row_max(attended_even, attended_odd)[None, :, None]
        top = tl.where(top == -infinity, 0.0, top)
        mu_even, mu_odd = tl.exp(attended_even - top).to(tl.float32), tl.exp(attended_odd - top).to(tl.float32)
        if draw.attention is not None:
            even, odd = tl.exp(even - top).to(tl.float32), tl.exp(odd - top).to(tl.float32)
        else:
            even, odd = mu_even, mu_odd
    else:
        even, odd = tl.where(even_in, even, 0.0), tl.where(odd_in, odd, 0.0)
        mu_even, mu_odd = even, odd
        if draw.attention is not None:
            mu_even, mu_odd = even * a_even, odd * a_odd
    total = row_sum(mu_even, mu_odd)[None, :, None]
    inverse = 1.0 / tl.where(total == 0, 1.0, total)
    mu_even, mu_odd = mu_even * inverse, mu_odd * inverse
    if draw.attention is not None:
        inverse = tl.where(dead, 0.0, inverse * scale * up)
        # The inverse is infinite where all attention is below 1e-38.
        even, odd = tl.where(even == 0, 0.0, even * inverse), tl.where(odd == 0, 0.0, odd * inverse)
    else:
        even, odd = mu_even, mu_odd
    return mu_even, mu_odd, even, odd
