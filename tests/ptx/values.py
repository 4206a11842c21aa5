"""Operands of instructions, edges among them, and what counts as the same result."""

import numpy as np

COUNT = 512
EDGES = {
    "i": [0, 1, 2, 3, -1, -2, 31, 32, 33, 63, 64, 255, 256],
    "f": [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 1e-45, -1e-45, 3e-39, 6e-8, 65504.0, 65520.0, 1e30, 3.4e38,
          -3.4e38, np.inf, -np.inf, np.nan],
}  # fmt: skip


def values(kind: str, seed: int = 0) -> np.ndarray:
    """Every pair of edges comes together for two seeds that differ; then random bits, then numbers of usual size."""
    random, kind = np.random.default_rng(seed), np.dtype(kind)
    bits = random.integers(0, 256, COUNT * kind.itemsize, dtype=np.uint8).view(kind)
    if kind.kind == "f":
        bits[COUNT // 2 :] = random.standard_normal(COUNT - COUNT // 2)
        with np.errstate(over="ignore"):
            edges = np.array(EDGES["f"], "f8").astype(kind)
    else:
        edges = np.array(EDGES["i"]).astype(kind)
    edges = np.tile(edges, len(edges)) if seed % 2 else np.repeat(edges, len(edges))
    bits[: len(edges)] = edges[:COUNT]
    return bits


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal bits; any NaN is as good as another."""
    bits = f"u{found.dtype.itemsize}"
    equal = found.view(bits) == np.asarray(wanted, found.dtype).view(bits)
    if found.dtype.kind == "f":
        equal |= np.isnan(found) & np.isnan(wanted)
    assert equal.all(), (found[~equal][:5], np.asarray(wanted)[~equal][:5])
