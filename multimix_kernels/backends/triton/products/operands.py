"""What stands before the products of a loss: operands prepared for them, beside the weights or by a kernel for itself.

`prepare_examples` reads scores twice and targets once and writes them padded, less a shift of the example that changes
no softmax, with a mask in the padding and zeros for what ignored examples hold. In float32 the shift is the largest
score, so that products round differences of scores only. In lower precision, where scores are exact and differences may
not be, it is the same where subtracting it is exact, that is where a common offset exceeds the spread, and else zero.

Bytes: three times those of scores and targets; operations: about ten per score. What it costs does not depend on n.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..host import device, shapes
from ..host.constants import FLOOR, FLOOR_16, LARGEST_MASK, LARGEST_MASK_16, SCALE_16
from ..host.kernel import kernel
from .columns import Columns, begin, columns_of, finite_score, is_score, place_stride
from .dot import nearest
from .targets import Target


class Examples(NamedTuple):
    """What rows mix besides scores."""

    mass: Tensor  # (width,): of each smoothed target; 0 of an ignored one, NaN of a label that does not exist
    sums: Tensor | None = None  # (places, width): of the shifted scores that are no masks, over classes
    # (places, width): NaN with scores or probabilities that are NaN or infinite, inf with masks if smoothed. Without
    # scores it is the mass that is NaN.
    flaw: Tensor | None = None


class Scores(NamedTuple):
    """Scores (places, b, c) as they are given, and where they go padded, if they do."""

    pointer: Tensor
    place: int | None  # strides; of `place_stride`
    example: int
    column: int
    shift: Tensor | None  # (places, width)
    on_target: Tensor | None  # (places, width, width): the score of each example at each example's label
    padded: Columns | None


class Targets(NamedTuple):
    """Labels (b,) or probabilities (b, c) as they are given, and where they go padded, if they do."""

    pointer: Tensor
    example: int
    column: int
    padded: Columns | None


@triton.jit
def prepare_examples(
    scores, target, examples, kept_ptr, ignored_ptr, keep, smoothing, ignore_index, b, c, i, place, to,
    WIDTH: tl.constexpr, CLASSES: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr,
    LABELS: tl.constexpr, NAN: tl.constexpr, OWN: tl.constexpr,
):  # fmt: skip
    """Of examples i (R,) at a location: padded scores, shift, sums, A_i. Of them: padded targets, masses, if kept.

    What is of the location `place` goes to the place `to` of the results, what is of all to the first one, written at
    the first only; or, OWN, to the same. NAN: scores that are none stay NaN, for products that look at them.
    """
    of_targets = to if OWN else to * 0
    once = i < WIDTH if OWN else to * WIDTH + i < WIDTH
    exists = i < b
    real = exists
    if ignored_ptr is not None:
        real = exists & (tl.load(ignored_ptr + i, mask=exists, other=1) == 0)
    if LABELS:
        label = tl.load(target.pointer + i, mask=exists, other=ignore_index)
        lost = label == ignore_index
    far = i.to(tl.int64)[:, None]
    if scores is not None:
        row_ptr = begin(scores, place, b) + far * scores.example
        half: tl.constexpr = scores.pointer.dtype.element_ty == tl.float16
        lowest: tl.constexpr = FLOOR_16 if half else FLOOR
        scale: tl.constexpr = SCALE_16 if half else 1.0
        top = tl.full((R,), float("-inf"), tl.float32)
        bottom = tl.full((R,), float("inf"), tl.float32)
        for start in range(0, CLASSES, CHUNK):
            j = start + tl.arange(0, CHUNK)
            inside = real[:, None] & (j < c)[None, :]
            s = tl.load(row_ptr + j.to(tl.int64)[None, :] * scores.column, mask=inside, other=0.0)  # (R, CHUNK)
            found = inside & is_score(s)
            top = tl.maximum(top, tl.max(tl.where(found, s.to(tl.float32), float("-inf")), 1))
            bottom = tl.minimum(bottom, tl.min(tl.where(found, s.to(tl.float32), float("inf")), 1))
        shift = tl.where(top == float("-inf"), 0.0, top)
        if OPERAND != "fp32":
            shift = tl.where(tl.minimum(top, -bottom) > 0, 0.0, shift)  # both signs
            shift = tl.where(tl.minimum(tl.abs(top), tl.abs(bottom)) < top - bottom, 0.0, shift)
        if scores.shift is not None:
            tl.store(scores.shift + to * WIDTH + i, shift, mask=i < WIDTH)
        total = tl.zeros((R, CHUNK), tl.float32)
        masked = tl.zeros((R, CHUNK), tl.int32)
        bad = tl.zeros((R, CHUNK), tl.int32)
    mass = tl.zeros((R, CHUNK), tl.float32)
    none = tl.zeros((R, CHUNK), tl.int32)  # probabilities that are none, which are read as zeros
    for start in range(0, CLASSES, CHUNK):
        j = start + tl.arange(0, CHUNK)
        wide = j.to(tl.int64)[None, :]
        inside = (j < c)[None, :]
        stored = (i < WIDTH)[:, None] & (j < CLASSES)[None, :]
        if scores is not None:
            s = tl.load(row_ptr + wide * scores.column, mask=real[:, None] & inside, other=0.0)  # (R, CHUNK)
            score = finite_score(s, shift[:, None], NAN)
            number = s.to(tl.float32) < float("inf")
            total += tl.where(inside & is_score(s), score, 0.0)
            masked = masked | (inside & number & ~is_score(s)).to(tl.int32)
            bad = bad | (inside & ~number).to(tl.int32)
            if scores.padded is not None:
                score = nearest(tl.where(inside, score, lowest) * scale, scores.padded.pointer.dtype.element_ty)
                at = to * scores.padded.place + far * scores.padded.example + wide * scores.padded.column
                tl.store(scores.padded.pointer + at, score, mask=stored)
        if target.padded is not None or not LABELS:
            if LABELS:
                y = ((label[:, None] == j[None, :]) & ~lost[:, None] & inside).to(tl.float32)
            else:
                at = target.pointer + far * target.example + wide * target.column
                y = tl.load(at, mask=exists[:, None] & inside, other=0.0).to(tl.float32)
                none = none | (tl.abs(y) < float("inf")).to(tl.int32) ^ 1
                y = tl.where(tl.abs(y) < float("inf"), y, 0.0)
            if target.padded is not None:
                rounded = nearest(y, target.padded.pointer.dtype.element_ty)
                at = of_targets * target.padded.place + far * target.padded.example + wide * target.padded.column
                tl.store(target.padded.pointer + at, rounded, mask=stored & once[:, None])
                y = rounded.to(tl.float32)
            mass += y
    lacks = real & (tl.max(none, 1) != 0)
    if scores is not None:
        if examples.sums is not None:
            tl.store(examples.sums + to * WIDTH + i, tl.sum(total, 1), mask=i < WIDTH)
        flaw = tl.where((tl.max(masked, 1) != 0) & (smoothing != 0), float("inf"), 0.0)
        flaw = tl.where((tl.max(bad, 1) != 0) | lacks, float("nan"), flaw)
        tl.store(examples.flaw + to * WIDTH + i, flaw, mask=i < WIDTH)
        if scores.on_target is not None and LABELS:
            for start in range(0, WIDTH, CHUNK):
                k = start + tl.arange(0, CHUNK)
                other = tl.load(target.pointer + k, mask=k < b, other=ignore_index)
                known = (other != ignore_index) & (other >= 0) & (other < c)
                known = real[:, None] & known[None, :]
                s = tl.load(row_ptr + other[None, :] * scores.column, mask=known, other=0.0)  # (R, CHUNK)
                s = tl.where(known, finite_score(s, shift[:, None], False), 0.0)
                s = nearest(s * scale, scores.on_target.dtype.element_ty)
                at = (to * WIDTH + far) * WIDTH + k[None, :]
                tl.store(scores.on_target + at, s, mask=(i < WIDTH)[:, None] & (k < WIDTH)[None, :])
    if LABELS:
        weight = tl.where(lost, 0.0, tl.where((label >= 0) & (label < c), 1.0, float("nan")))
    else:
        weight = tl.where(exists, tl.sum(mass, 1) * keep + smoothing, 0.0)
        if scores is None:  # there are no flaws
            weight = tl.where(lacks, float("nan"), weight)
    tl.store(examples.mass + of_targets * WIDTH + i, weight, mask=once)
    if kept_ptr is not None:
        tl.store(kept_ptr + i, (real & ~lacks).to(tl.int8), mask=once)


@kernel(do_not_specialize=["b", "c", "ignore_index"])
def prepare_kernel(
    scores, target, examples, kept_ptr, ignored_ptr, keep, smoothing, ignore_index, b, c,
    WIDTH: tl.constexpr, CLASSES: tl.constexpr, R: tl.constexpr, CHUNK: tl.constexpr, OPERAND: tl.constexpr,
    LABELS: tl.constexpr, NAN: tl.constexpr,
):  # fmt: skip
    """R examples at a location."""
    i = tl.program_id(0) * R + tl.arange(0, R)
    place = tl.program_id(1).to(tl.int64)
    prepare_examples(
        scores, target, examples, kept_ptr, ignored_ptr, keep, smoothing, ignore_index, b, c, i, place, place,
        WIDTH, CLASSES, R, CHUNK, OPERAND, LABELS, NAN, OWN=False,
    )  # fmt: skip


@dataclass
class Prepared:
    """Operands of kernels, at some locations: L places, `width` examples and `classes` columns with the padding."""

    scores: Columns | None
    targets: Columns | None  # of probabilities, or where they are wanted padded: not smoothed
    on_target: Tensor | None  # (L, width, width): the products of each example's scores with each example's target
    examples: Examples
    kept: Tensor  # int8 (width,): whether there is such an example, it is not ignored, and its targets are numbers

    @property
    def given_scores(self) -> Columns:
        """Where there were scores."""
        if self.scores is None:
            raise ValueError("scores: there were none")
        return self.scores

    @property
    def given_targets(self) -> Columns:
        """Where padded targets were asked for."""
        if self.targets is None:
            raise ValueError("targets: padded ones were not asked for")
        return self.targets

    @property
    def on_target_columns(self) -> Columns:
        """A as a matrix (examples, examples)."""
        if self.on_target is None:
            raise ValueError("on_target: was not asked for")
        return columns_of(self.on_target)


class Given(NamedTuple):
    """What is prepared, and where it goes, as kernels take it."""

    scores: Scores | None
    target: Targets
    examples: Examples
    kept: Tensor
    ignored: Tensor | None  # int8 (b,)
    keep: float
    smoothing: float


@dataclass
class Preparation:
    """Operands that are still to be prepared: by `launch`, or by the kernel that draws weights."""

    given: Given
    target: Target
    places: int
    width: int
    classes: int
    operand: str
    nan: bool
    prepared: Prepared

    def tile(self, elements: int) -> tuple[int, int]:
        """Examples and columns of a tile of so many elements."""
        chunk = min(elements // 2, shapes.power_of_two(max(self.classes, self.width)))
        return min(self.width, elements // chunk), chunk

    def launch(self) -> Prepared:
        """In a launch of its own."""
        rows, chunk = self.tile(2048)
        given, target = self.given, self.target
        prepare_kernel[(shapes.ceil_div(self.width, rows), self.places)](
            *given[:5], given.keep, given.smoothing, target.ignore_index, target.values.shape[0], target.c,
            WIDTH=self.width, CLASSES=self.classes, R=rows, CHUNK=chunk, OPERAND=self.operand, LABELS=target.by_label,
            NAN=self.nan, **device.options(4, 1),
        )  # fmt: skip
        return self.finish()

    def finish(self) -> Prepared:
        """What a kernel has prepared; of probabilities a part is done here."""
        scores, on_target = self.given.scores, self.prepared.on_target
        if scores is not None and scores.shift is not None and on_target is not None and not self.target.by_label:
            shift = scores.shift[:, : self.target.values.shape[0]]
            _products_with_targets(scores.pointer, self.given.ignored, shift, self.target, on_target)
        return self.prepared


def prepare(*arguments, **options) -> Prepared:
    """`preparation`, in a launch of its own."""
    return preparation(*arguments, **options).launch()


def preparation(
    scores: Tensor | None, target: Target, ignored: Tensor | None, width: int, classes: int, operand: str, *,
    on_target: bool = False, targets: torch.dtype | None = None, nan: bool = False,
) -> Preparation:  # fmt: skip
    """scores (L, b, c) or None; targets: the dtype in which padded targets are wanted, if they are.

    ignored (b,) int8.
    """
    like = target.values
    places = 1 if scores is None else scores.shape[0]
    mass, kept = like.new_empty((width,), dtype=torch.float32), like.new_empty((width,), dtype=torch.int8)

    def padded(places: int, dtype: torch.dtype) -> Columns:
        return columns_of(like.new_empty((places, width, classes), dtype=dtype))

    y = None if targets is None else padded(1, targets)
    source = on_target_of = found = None
    examples = Examples(mass)
    if scores is not None:
        packed = places * width * classes * scores.itemsize <= shapes.PACKED_BYTES
        sums, flaw, shift = scores.new_empty((3, places, width), dtype=torch.float32).unbind()
        examples = Examples(mass, sums, flaw)
        on_target_of = scores.new_empty((places, width, width)) if on_target else None
        found = padded(places, scores.dtype) if packed else columns_of(scores, kept, shift)
        _, example, column = scores.stride()
        source = Scores(scores, place_stride(scores), example, column, shift, on_target_of, found if packed else None)
    t_example, t_column = (1, 0) if target.by_label else like.stride()
    keep = target.keep
    given = Given(source, Targets(like, t_example, t_column, y), examples, kept, ignored, keep, 1 - keep)
    if y is None and not target.by_label:
        y = Columns(like, 0, t_example, t_column, kept)
    prepared = Prepared(found, y, on_target_of, examples, kept)
    return Preparation(given, target, places, width, classes, operand, nan, prepared)


def _products_with_targets(scores: Tensor, ignored: Tensor | None, shift: Tensor, target: Target, out: Tensor) -> None:
    """Of probabilities, some classes at a time: copies in float32 stay small."""
    b, c = target.values.shape
    half = scores.dtype == torch.float16
    lowest, mask = (x.value for x in ((FLOOR_16, LARGEST_MASK_16) if half else (FLOOR, LARGEST_MASK)))
    total = scores.new_zeros((scores.shape[0], b, b), dtype=torch.float32)
    some = max(1, (1 << 20) // (scores.shape[0] * b))
    for first in range(0, c, some):
        wide = scores[..., first : first + some].float()
        s = (wide - shift.unsqueeze(-1)).clamp(min=lowest).masked_fill(wide <= mask, lowest)
        s = s.masked_fill(~(wide < torch.inf), 0)
        if ignored is not None:
            s = s.masked_fill(ignored.bool().unsqueeze(1), 0)
        y = target.values[:, first : first + some].float()
        total += s @ y.masked_fill(~y.isfinite(), 0).T
    out.zero_()
    out[:, :b, :b] = total.clamp(min=lowest) * (SCALE_16.value if half else 1.0)
