"""An evaluation of the weight stream in NumPy, written apart from the library: Philox, gamma, subsets, weights."""

import numpy as np

MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)


def philox(counter, key):
    """Philox4x32-10 of broadcastable uint64 words; returns four arrays."""
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [int(word) for word in key]
    for _ in range(10):
        left, right = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (right >> SHIFT) ^ c[1] ^ np.uint64(k[0]),
            right & MASK,
            (left >> SHIFT) ^ c[3] ^ np.uint64(k[1]),
            left & MASK,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def uniform(word):
    """In (0, 1]: the float32 nearest to float32(word) * 2**-32 + 2**-33."""
    exact = np.asarray(word).astype(np.float32).astype(np.float64) / 2**32 + 0.5 / 2**32
    return exact.astype(np.float32).astype(np.float64)


class Stream:
    """Rows row_offset ... row_offset + n - 1 at r locations; arrays are (n, b, r)."""

    def __init__(self, seed: int, n: int, r: int = 1, row_offset: int = 0):
        rows = [row_offset + k for k in range(n)]
        self.low = np.array([row % 2**32 for row in rows], np.uint64).reshape(n, 1, 1)
        self.high = np.array([row >> 32 for row in rows], np.uint64).reshape(n, 1, 1)
        self.location = np.arange(r, dtype=np.uint64).reshape(1, 1, r)
        self.key = (seed % 2**32, (seed >> 32) % 2**32)

    def words(self, purpose: int, block, attempt: int = 0):
        block = np.asarray(block, np.uint64).reshape(1, -1, 1)
        second = self.location * np.uint64(256) + np.uint64(purpose * 16 + attempt)
        return np.stack(np.broadcast_arrays(*philox([block, second, self.low, self.high], self.key)), -1)

    def concentration(self, low: float, high: float):
        return low + (high - low) * uniform(self.words(1, [0])[..., 0])

    def log_gamma(self, b: int, alpha):
        """ln G; alpha broadcasts to (n, b, r)."""
        i = np.arange(b)
        odd = (i % 2 == 1).reshape(1, b, 1)
        shape = (self.low.shape[0], b, self.location.shape[2])
        alpha = np.broadcast_to(alpha, shape)
        d = alpha + 2 / 3
        result, pending = np.full(shape, -np.inf), np.ones(shape, bool)
        for attempt in range(16):
            w = self.words(0, i // 2, attempt)
            rho, theta = np.sqrt(-2 * np.log(uniform(w[..., 0]))), 2 * np.pi * (w[..., 1] / 2**32)
            x = rho * np.where(odd, np.sin(theta), np.cos(theta))
            y = 1 + x / (3 * np.sqrt(d))
            log_y = np.log(np.maximum(y, 1e-300))
            slack = x * x / 2 + d * (1 - y**3 + 3 * log_y) - np.log(uniform(np.where(odd, w[..., 3], w[..., 2])))
            result = np.where(pending & (y > 0), np.log(d) + 3 * log_y - slack / alpha, result)
            pending &= (y <= 0) | (slack <= 0)
            if not pending.any():
                break
        return result

    def chosen(self, b: int, m: int, candidates=None):
        """Which of the candidates are drawn by Floyd's sampling: (n, b, r) bool."""
        candidates = np.arange(b) if candidates is None else np.flatnonzero(candidates)
        count = len(candidates)
        picked = np.zeros((self.low.shape[0], b, self.location.shape[2]), bool)
        if m >= count:
            picked[:, candidates] = True
            return picked
        draws = min(m, count - m)
        w = self.words(2, np.arange((draws + 3) // 4))
        for k in range(picked.shape[0]):
            for j in range(picked.shape[2]):
                ranks = set()
                for t in range(draws):
                    last = count - draws + t
                    rank = int(w[k, t // 4, j, t % 4]) * (last + 1) // 2**32
                    ranks.add(last if rank in ranks else rank)
                if 2 * m > count:
                    ranks = set(range(count)) - ranks
                picked[k, candidates[list(ranks)], j] = True
        return picked


def weights(seed, n, b, *, m=None, alpha=(0.5, 2.0), r=1, row_offset=0, attention=None, ignored=None):
    """mu (n, b, r) in float64. alpha: a float, a (low, high) pair or b values; attention (b, r); ignored (b,)."""
    stream = Stream(seed, n, r, row_offset)
    fixed = None if isinstance(alpha, tuple) else np.asarray(alpha, float).reshape(1, -1, 1)
    log_weight = stream.log_gamma(b, stream.concentration(*alpha) if fixed is None else fixed)
    candidates = np.ones(b, bool) if ignored is None else ~np.asarray(ignored)
    chosen = np.broadcast_to(candidates.reshape(1, b, 1), log_weight.shape)
    if m is not None and m < b:
        chosen = stream.chosen(b, m, candidates)
    log_weight = np.where(chosen, log_weight, -np.inf)
    if attention is not None:
        with np.errstate(divide="ignore"):
            attended = log_weight + np.log(np.asarray(attention, float))
        log_weight = np.where((attended > -np.inf).any(1, keepdims=True), attended, log_weight)
    if not candidates.any():
        return np.zeros(log_weight.shape)
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)
