"""Fixed shapes of tiles, warps and stages for each family of GPUs. `tune` tries others if asked to."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from .. import INTERPRET


def power_of_two(x: int) -> int:
    """The smallest power of two that is at least x."""
    return 1 << max(0, x - 1).bit_length()


def ceil_div(size: int, tile: int) -> int:
    """How many tiles cover a size; Triton's `cdiv` takes 2 us for it."""
    return -(-size // tile)


def unit(stride: int) -> int:
    """The largest of 16, 8, 4, 2 and 1 that divides a stride."""
    return next(u for u in (16, 8, 4, 2, 1) if stride % u == 0)


def rows_that_fill(rows: int, stored: int, tiles: int) -> int:
    """Rows of a tile: less than `rows`, but 16, where `stored` ones are less than so many tiles of them."""
    while rows > 16 and stored < tiles * rows:
        rows //= 2
    return rows


@dataclass(frozen=True)
class PairTile:
    """Shape (registers, rows, groups) of a tile of pairs of examples; see `stream`."""

    registers: int
    rows: int
    groups: int
    warps: int


SCRATCH_BYTES = 16 << 20  # the weights of a super-block: a part of the L2 cache
PARTIAL_BYTES = 12 << 20  # partial sums of gradients; what does not fit is added up in the gradient itself
PACKED_BYTES = 16 << 20  # padded scores or values; what does not fit is read in place
MOST_PAIRS_OF_EXAMPLES = 512  # examples, up to which the products of all pairs of them are formed
ADD_UP_TILE = 32
# The most examples times classes (both padded to powers of two) that stay on chip without spilled registers.
ON_CHIP = {"bf16": 128 * 128, "fp16": 128 * 128, "tf32": 128 * 32, "fp32": 64 * 16}


@dataclass(frozen=True)
class Small:
    """Of `mixed_small`: its pair tile, padded classes, and programs per multiprocessor."""

    pair: PairTile
    classes: int
    occupancy: int

    @property
    def width(self) -> int:
        """Padded examples."""
        return 2 * self.pair.registers * self.pair.groups

    @property
    def examples(self) -> int:
        """Whose operands are prepared at a time: 16 elements to a thread."""
        return min(self.width, 512 * self.pair.warps // self.classes)


@dataclass(frozen=True)
class Large:
    """Of `mixed_large`: rows, classes and examples of a tile; programs per multiprocessor."""

    rows: int
    classes: int
    depth: int
    warps: int
    stages: int
    occupancy: int


@dataclass(frozen=True)
class Family:
    """GPUs that share their configurations."""

    lanes: int  # threads of a warp
    large: dict[str, Large]  # mixed_large and mix
    two_accumulators: dict[str, Large]  # their gradients by the weights or added up in place, and mixing
    soft: dict[str, Large]
    sampler_pairs: int = 16  # at most, in the registers of a thread
    crowded_pairs: int = 2  # the same in `mixed_small`, where its gradient takes half of the registers
    fused_occupancy: int = 1  # programs of it per multiprocessor, for 8 warps

    __hash__ = object.__hash__  # there are few, and what one has answered is kept

    def pair_tile(self, b: int, rows: int, warps: int, most: int = 16) -> PairTile:
        """The pairs of b examples in `rows` rows: as many in the registers of a thread as its warps leave."""
        pairs = power_of_two((b + 1) // 2)
        registers = min(most, max(1, pairs * rows // (self.lanes * warps)), pairs)
        return PairTile(registers, rows, pairs // registers, warps)

    @cache  # noqa: B019
    def sampler(self, b: int, wide: bool) -> PairTile:
        """Programs of one warp wait for no other warp's rejects: 32 weights per thread, 8 in log space."""
        most = min(4, self.sampler_pairs) if wide else self.sampler_pairs
        pairs = power_of_two((b + 1) // 2)
        warps = min(8, max(1, pairs // (self.lanes * most)))
        rows = 64 if INTERPRET else max(1, self.lanes * most * warps // pairs)
        return self.pair_tile(b, min(rows, 32), warps, most)

    @cache  # noqa: B019
    def mixed_small(self, b: int, c: int, operand: str) -> Small | None:
        """None where a row tile's examples and classes do not fit on chip."""
        examples, classes = power_of_two(max(16, b)), power_of_two(max(16, c))
        if examples * classes > ON_CHIP[operand] or max(examples, classes) > 256:
            return None
        warps = 4 if examples * classes <= 128 * 16 and operand in ("bf16", "fp16") else 8
        crowded = self.crowded_pairs if operand in ("bf16", "fp16") else 2
        pairs = crowded if 2 * examples * classes > ON_CHIP[operand] else 16
        pair = self.pair_tile(examples, 64 if INTERPRET else 16, warps, pairs)
        return Small(pair, classes, 8 // warps * self.fused_occupancy)


def _low(large: Large) -> dict[str, Large]:
    return {"bf16": large, "fp16": large}


# IEEE float32 has no matrix instructions on NVIDIA GPUs: small tiles, as all is unrolled.
_WIDE = {"tf32": Large(64, 64, 64, 8, 1, 2), "fp32": Large(32, 64, 32, 4, 1, 4)}
NVIDIA = Family(
    lanes=32,
    large=_WIDE | _low(Large(rows=128, classes=128, depth=128, warps=8, stages=2, occupancy=1)),
    two_accumulators=_WIDE | {"tf32": Large(64, 64, 32, 8, 1, 2)} | _low(Large(64, 64, 128, 8, 1, 1)),
    soft=_WIDE | _low(Large(64, 64, 64, 8, 2, 1)),
)
# Compiled code decides: more crowded pairs cost fewer instructions where nothing spills, and with two stages the
# gradient spills on data-centre Blackwell.
HOPPER = replace(NVIDIA, crowded_pairs=4)
BLACKWELL = replace(HOPPER, large=_WIDE | _low(Large(rows=128, classes=128, depth=128, warps=8, stages=1, occupancy=1)))
CDNA = Family(  # 64 KiB of shared memory
    lanes=64,
    large=_WIDE | _low(Large(rows=64, classes=128, depth=64, warps=4, stages=1, occupancy=2)),
    two_accumulators=_WIDE | _low(Large(64, 64, 64, 4, 1, 2)),
    soft=_WIDE | _low(Large(64, 64, 64, 4, 1, 2)),
)
FAMILIES = {9: HOPPER, 10: BLACKWELL}  # by the major number of the compute capability; others are NVIDIA


class _Trial(threading.local):
    """The family that a thread tries out: others go on with theirs."""

    family: Family | None = None


_trial = _Trial()


@cache
def _family_of(device: torch.device) -> Family:
    if device.type != "cuda":
        return NVIDIA
    return CDNA if torch.version.hip else FAMILIES.get(torch.cuda.get_device_capability(device)[0], NVIDIA)


def family(x: Tensor) -> Family:
    """That of the device of x, or the one on trial in this thread."""
    return _trial.family or _family_of(x.device)


@contextmanager
def on_trial(family: Family):
    """Launches of this thread use this family inside."""
    before, _trial.family = _trial.family, family
    try:
        yield
    finally:
        _trial.family = before
