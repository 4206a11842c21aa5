"""Checks of the weights: known answers, and the float64 stream, with flipped acceptances counted.

Within 1e-5 relative of the stream, but for at most 1e-5 of the elements, where rounding flips an acceptance: that
changes a row, so rows are counted.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .. import ops
from ..backends.contract import Draw
from ..backends.reference import stream
from ..backends.verdicts.plan import DTYPES
from .cases import FAR, SEED

RELATIVE, SMALLEST = 1e-5, 2.0**-120
# Philox4x32-10: counter, key, output (Salmon et al. 2011, the authors' known answers).
PHILOX = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)  # fmt: skip
# Seed 0, alpha 1, rows 0 and 1 of five examples, by another implementation of the stream.
KNOWN = (
    (0.600648725054, 0.110147446449, 0.252162873341, 0.0174526364201, 0.019588318736),
    (0.0757578877734, 0.223696565871, 0.409308162245, 0.165762025209, 0.125475358902),
)


@dataclass(frozen=True)
class Drawn:
    """A draw that is compared element by element."""

    name: str
    low: float = 0.5
    high: float = 2.0
    b: int = 64
    n: int = 2048
    m: int | None = None
    r: int = 1
    row_offset: int = FAR
    attended: bool = False
    ignored: bool = False

    def arguments(self, dtype: torch.dtype, device: torch.device | str) -> list:
        """Of the operator, records as they are."""
        attention = ignored = None
        if self.attended:
            attention = torch.rand(self.r, self.b, generator=torch.Generator().manual_seed(3)).to(device)
            attention[:, 0] = 0
        if self.ignored:
            ignored = torch.arange(self.b, device=device) % 4 == 1
        seed = torch.tensor([SEED], device=device)
        draw = Draw(seed, None, self.n, self.m or self.b, self.low, self.high, self.row_offset)
        return [self.b, self.r, dtype, attention, ignored, draw]


_DRAWN = (
    Drawn("alpha 0.05", 0.05, 0.05),
    Drawn("alpha 0.31", 0.31, 0.31, b=33),
    Drawn("alpha 1, rows across 2^32", 1.0, 1.0, b=65, row_offset=2**32 - 1000),
    Drawn("alpha 50", 50.0, 50.0),
    Drawn("alpha from a range"),
    Drawn("few of many", m=5),
    Drawn("most of many, some ignored", m=30, ignored=True),
    Drawn("locations, attention", b=17, n=256, r=3, attended=True),
)


def draws(simulated: bool, thorough: bool) -> list[Drawn]:
    """What is compared: more rows if thorough, few where every thread is simulated."""
    rows = 96 if simulated else 20_000 if thorough else None
    return [Drawn(**{**vars(d), "n": rows or d.n}) for d in _DRAWN]


@lru_cache(32)
def _exact(drawn: Drawn) -> Tensor:
    return ops.call("reference", "sample", *drawn.arguments(torch.float64, "cpu"))


def compare(found: Tensor, drawn: Drawn) -> tuple[str | None, int]:
    """What is wrong, if anything, and how many rows have a flipped acceptance."""
    exact, dtype = _exact(drawn), found.dtype
    if found.shape != exact.shape:
        return f"shape {tuple(found.shape)}, expected {tuple(exact.shape)}", 0
    found = found.cpu().double()
    rounding = RELATIVE + (0 if dtype == torch.float32 else 0.51 * torch.finfo(dtype).eps)
    least = max(SMALLEST, torch.finfo(dtype).tiny * torch.finfo(dtype).eps)  # float16 has no smaller ones
    wrong = ~((found - exact).abs() <= rounding * exact + least)
    flips, elements = int(wrong.any(-1).sum()), exact.numel()
    most = math.ceil(1e-5 * elements)
    if flips <= most and not found.isnan().any():
        return None, flips
    return f"{flips} of {elements // drawn.b} rows differ, allowed {most}", flips


def philox_is_wrong(device: torch.device) -> str | None:
    """Whether torch's integer arithmetic on the device gives other words than the known ones."""
    for counter, key, output in PHILOX:
        words = [torch.tensor([word], device=device) for word in (*counter, *key)]
        found = [int(word) for word in stream.philox(words[:4], (words[4], words[5]))]
        if tuple(found) != output:
            return f"Philox of counter {counter[0]:08x}... gives {found[0]:08x}..., expected {output[0]:08x}..."
    return None


def known_is_wrong(backend: str, kind: str, device: torch.device) -> str | None:
    """Whether a backend's weights differ from those known."""
    draw = Draw(torch.tensor([0], device=device), None, len(KNOWN), len(KNOWN[0]), 1.0, 1.0, 0)
    found = ops.call(backend, "sample", len(KNOWN[0]), 1, DTYPES[kind], None, None, draw)[0].cpu().double()
    exact = torch.tensor(KNOWN, dtype=torch.float64)
    allowed = RELATIVE if DTYPES[kind] == torch.float32 else RELATIVE + 0.51 * torch.finfo(DTYPES[kind]).eps
    worst = ((found - exact).abs() / exact).max().item()
    return None if worst <= allowed else f"the known weights of seed 0 are missed by {worst:.2g}"
