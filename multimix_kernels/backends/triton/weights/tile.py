"""Weights of a tile of rows: gammas, subsets, attention, normalisation. What every kernel that draws weights calls.

The tile is that of `stream.gamma_pairs`, (E, R, C) for the even and for the odd examples; `as_rows` makes (R, 2 E C) of
both. Cost per weight beside its gamma: 3 lane-instructions; with attention 4 more. In subsets (m < b) a pick, of which
a row has at most b / 2, costs 80 instructions of a warp on sm_90, for all rows of its tile at once.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..host.constants import LEAST_WEIGHT, LEAST_WEIGHT_16
from .log_gamma import ZERO, fixed_exp2, times_attention
from .stream import LOG_SPACE, gamma_pairs, pair_index, row_concentration, subset_words


class DrawNames(NamedTuple):
    """What names the weights of a draw, but for its counts."""

    seed: Tensor
    alpha: Tensor | None  # (b,)
    attention: Tensor | None  # (r, b)
    ignored: Tensor | None  # int16, two examples to a word
    order: Tensor | None  # (b,) int32: the candidates and then the ignored examples; for subsets
    low: float  # the bounds of alpha as float32, and the rest of their float64
    low_rest: float
    high: float
    high_rest: float


@triton.jit
def not_too_small(weight, OPERAND: tl.constexpr):
    """A weight that is not zero, large enough to be seen times a mask."""
    least: tl.constexpr = LEAST_WEIGHT_16 if OPERAND == "fp16" else LEAST_WEIGHT
    return tl.where(weight > 0, tl.maximum(weight, least), weight)


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
def holder(example, E: tl.constexpr, C: tl.constexpr):
    """Which threads hold an example (R, 1) of a set (R, C), and in which bit."""
    pair = (example >> 1).to(tl.uint32)  # of unsigned numbers the quotient is a shift
    return pair % C == tl.arange(0, C)[None, :].to(tl.uint32), (pair // C).to(tl.int32) + (example & 1) * E


@triton.jit
def contains(chosen, example, E: tl.constexpr, C: tl.constexpr):
    """One in the thread that holds the example, if the set has it, and zero in the others."""
    held, bit = holder(example, E, C)
    return tl.where(held, (chosen >> bit) & 1, 0)


@triton.jit
def include(chosen, example, wanted, E: tl.constexpr, C: tl.constexpr):
    """The set with the example, where it is wanted."""
    held, bit = holder(example, E, C)
    return tl.where(held & wanted, chosen | (1 << bit), chosen)


@triton.jit
def example_of(rank, order_ptr, ASSEMBLY: tl.constexpr):
    """The candidate of a rank; without an order they are the same."""
    result = rank
    if order_ptr is not None:
        result = load(order_ptr + rank, ASSEMBLY)
    return result


@triton.jit
def random_candidate(word, last, order_ptr, ASSEMBLY: tl.constexpr):
    """One of the first last + 1 candidates, and the last of these."""
    rank = tl.umulhi(word, (last + 1).to(tl.uint32)).to(tl.int32)
    return example_of(rank, order_ptr, ASSEMBLY), example_of(rank * 0 + last, order_ptr, ASSEMBLY)


@triton.jit
def either(x, y):
    """Bits of both, to be combined over lanes."""
    return x | y


@triton.jit
def draw_subset(
    seed, location, row, total, picks, order_ptr, E: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Floyd's sampling of `picks` among `total` candidates for each row (R, 1): sets (R, C).

    A set has a bit for each example of a thread's register dimension, the odd ones above the even ones; both halves fit
    in a word, as E <= 16. A step makes the four picks of a Philox block, with one exchange between threads.
    """
    chosen = (row * 0 + tl.arange(0, C)[None, :] * 0).to(tl.int32)
    t = tl.full((), 0, tl.int32)
    while t < picks:
        w0, w1, w2, w3 = subset_words(seed, location, row, t >> 2)
        last = total - picks + t
        i0, last0 = random_candidate(w0, last, order_ptr, ASSEMBLY)
        i1, last1 = random_candidate(w1, tl.minimum(last + 1, total - 1), order_ptr, ASSEMBLY)
        i2, last2 = random_candidate(w2, tl.minimum(last + 2, total - 1), order_ptr, ASSEMBLY)
        i3, last3 = random_candidate(w3, tl.minimum(last + 3, total - 1), order_ptr, ASSEMBLY)
        found = contains(chosen, i0, E, C) | (contains(chosen, i1, E, C) << 1)
        found = found | (contains(chosen, i2, E, C) << 2) | (contains(chosen, i3, E, C) << 3)
        found = tl.reduce(found, 1, either)[:, None]
        i0 = tl.where((found & 1) != 0, last0, i0)
        i1 = tl.where(((found & 2) != 0) | (i1 == i0), last1, i1)
        i2 = tl.where(((found & 4) != 0) | (i2 == i0) | (i2 == i1), last2, i2)
        i3 = tl.where(((found & 8) != 0) | (i3 == i0) | (i3 == i1) | (i3 == i2), last3, i3)
        chosen = include(chosen, i0, t < picks, E, C)
        chosen = include(chosen, i1, t + 1 < picks, E, C)
        chosen = include(chosen, i2, t + 2 < picks, E, C)
        chosen = include(chosen, i3, t + 3 < picks, E, C)
        t += 4
    return chosen


@triton.jit
def choose_examples(
    seed, location, row, candidate_even, candidate_odd, m, order_ptr, E: tl.constexpr, R: tl.constexpr,
    C: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Which m of the candidates are mixed, or all if there are no more: the fewer are drawn, these or the others."""
    total = tl.max(row_sum(candidate_even.to(tl.int32), candidate_odd.to(tl.int32)))
    few = 2 * m <= total
    picks = tl.where(few, m, total - m)
    chosen = draw_subset(seed, location, tl.reshape(row, (R, 1)), total, picks, order_ptr, E, R, C, ASSEMBLY)
    chosen = tl.where(few, chosen, ~chosen)[None, :, :]
    register = tl.arange(0, E)[:, None, None]
    in_even, in_odd = ((chosen >> register) & 1) != 0, ((chosen >> (register + E)) & 1) != 0
    return candidate_even & in_even, candidate_odd & in_odd


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
            "ld.global.nc.b32 $0, [$1];",
            "=r,l",
            [pointer.to(tl.int64)],
            dtype=pointer.dtype.element_ty,
            is_pure=True,
            pack=1,
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
        even_in, odd_in = choose_examples(
            seed, location, row, even_in, odd_in, m, draw.order, E, R, C, ASSEMBLY
        )  # fmt: skip
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
        even, odd = tl.where(even_in, even, ZERO), tl.where(odd_in, odd, ZERO)
        attended_even, attended_odd = even, odd
        if draw.attention is not None:
            attended_even, attended_odd = times_attention(even, a_even), times_attention(odd, a_odd)
        top = row_max(attended_even, attended_odd)[None, :, None]
        mu_even, mu_odd = fixed_exp2(attended_even, top), fixed_exp2(attended_odd, top)
        if draw.attention is not None:
            even, odd = fixed_exp2(even, top), fixed_exp2(odd, top)
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
