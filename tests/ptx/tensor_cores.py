"""What products of matrices on tensor cores give, in NumPy: the model that machine/tensor_core.h names."""

import numpy as np

LEAST = {"f16": -14, "bf16": -126, "tf32": -126}  # exponents


def to_bits(type_: str, x: np.ndarray) -> np.ndarray:
    """Elements as they lie in memory, truncated to the type."""
    if type_ == "f16":
        return x.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return (bits >> 16).astype(np.uint16) if type_ == "bf16" else bits


def values(type_: str, bits: np.ndarray) -> np.ndarray:
    """Elements in float64; of TF32 the low bits are not looked at."""
    if type_ == "f16":
        return bits.view(np.float16).astype(np.float64)
    wide = bits.astype(np.uint32) << 16 if type_ == "bf16" else bits & np.uint32(0xFFFFE000)
    return wide.view(np.float32).astype(np.float64)


def exponents(x: np.ndarray, least: int) -> np.ndarray:
    """Of the leading bits; of zero -126."""
    return np.where(x == 0, -126, np.maximum(np.frexp(x)[1] - 1, least))


def truncated(x: np.ndarray) -> np.ndarray:
    """To float32."""
    y = x.astype(np.float32)
    return np.where(np.abs(y.astype(np.float64)) > np.abs(x), np.nextafter(y, np.float32(0)), y)


def product(type_: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, terms: int, bits: int) -> np.ndarray:
    """C + A B: sums of `terms` products and the accumulator keep `bits` bits below the largest exponent."""
    d = c.astype(np.float32)
    for first in range(0, a.shape[1], terms):
        left, right = a[:, first : first + terms, None], b[None, first : first + terms]
        each = exponents(left, LEAST[type_]) + exponents(right, LEAST[type_])
        scale = 2.0 ** (bits - np.maximum(each.max(1), exponents(d.astype(np.float64), -126)))
        total = np.trunc(left * right * scale[:, None]).sum(1) + np.trunc(d * scale)
        d = truncated(total / scale)
    return d
