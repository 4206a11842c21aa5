"""Mixed cross-entropy in super-blocks of rows, for any number of classes and up to some hundred examples.

With weights M (rows, b) in the scratch, scores S (b, c), smoothed targets Y (b, c) and A = S Y^T (b, b):
  loss_k = sum_i M_ki (mass_i lse_k - (M A)_ki)      T_k = sum_i M_ki mass_i
  dS     = M^T (T softmax) - (M^T M) Y               the second half once, in `sums`
  dM     = T softmax S^T - M A^T - M A + lse mass^T
so no mixed target is ever formed. Scores are mixed twice, once for lse and once for the gradient; a third time in tiles
of rows with a confident one, whose log-sum-exp is nearly its largest score.

Cost per row: 2 products of 2 b c operations for the gradient, 1 for lse, 2 of 2 b b; 2 c exponentials; about 6
lane-instructions, twice, for each of c scores. Bytes: the scratch, 2 b per row and pass, and S from the L2 cache.
"""

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ..host import device, shapes
from ..host.blocks import Block, blocks, width
from ..host.constants import LEAST, LOG2E
from ..host.kernel import kernel
from ..products.columns import highest_mask, load_columns, mix_columns, score_unit
from ..products.dot import dot, round_operand
from ..products.operands import Preparation, Prepared, preparation
from ..products.targets import Target, Upstream, row_factor
from ..sums import AttentionGradient, Losses, Total, add_apart, add_partial, add_to_sum, add_up, fits, log_one_plus
from ..weights.sample import Sampler


class Rows(NamedTuple):
    """What is known of rows, (places, stored) each, when their scores are mixed again.

    2^((mixed scores - top) * scale - level) is the softmax, of scores mixed by weights of the scratch; for labels it
    is T softmax over the sum of those weights. Rows without a target, or past the last, have an infinite level. The
    difference comes first: compilers make one operation of a product and a difference, which rounds it otherwise.
    """

    lse: Tensor
    share: Tensor  # T
    top: Tensor
    level: Tensor
    scale: Tensor
    score_sum: Tensor  # of mixed scores that are no masks, over classes


@kernel(do_not_specialize=["stored", "rows", "tiles", "n", "b", "c", "first_location", "first"])
def normaliser_kernel(
    scores, on_target, examples, keep, uniform_part, drawn, out, rows_ptr, sums_ptr,
    first_location, first, rows, stored, tiles, n, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """What Rows holds of each row, and the loss; adds the sum over the tile to sums."""
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    inverse = tl.load(drawn.inverse + k)
    unit = inverse * score_unit(OPERAND)  # from mixed operands to logits
    scale = tl.where(inverse == 0, 1.0, unit * LOG2E)
    top = tl.full((R,), LEAST, tl.float32)
    z = tl.zeros((R,), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(drawn.weights, k, scores, place, j, c, WIDTH, DEPTH, R, CLASSES, OPERAND, False)
        higher = tl.maximum(top, tl.max(logits, 1))
        z = z * tl.exp2((top - higher) * scale)
        z += tl.sum(tl.exp2((logits - higher[:, None]) * scale[:, None]), 1)  # (R, CLASSES) -> (R,)
        top = higher
    others = z - 1.0
    if tl.min(z) < 1.125:  # a branch that rows of many examples hardly take
        others = tl.where(z < 1.125, 0.0, others)
        for start in range(0, c, CLASSES):
            j = start + tl.arange(0, CLASSES)
            logits = mix_columns(drawn.weights, k, scores, place, j, c, WIDTH, DEPTH, R, CLASSES, OPERAND, False)
            below = (logits < top[:, None]) & (z < 1.125)[:, None]
            others += tl.sum(tl.where(below, tl.exp2((logits - top[:, None]) * scale[:, None]), 0.0), 1)
    rest = log_one_plus(others)
    lse = top * unit + rest
    loss = tl.zeros((R,), tl.float32)
    share = tl.zeros((R,), tl.float32)
    score_sum = tl.zeros((R,), tl.float32)
    flaw = tl.zeros((R,), tl.float32)
    for start in range(0, WIDTH, DEPTH):
        i = start + tl.arange(0, DEPTH)
        inside = i < b
        mixed = mix_columns(drawn.weights, k, on_target, place, i, c, WIDTH, DEPTH, R, DEPTH, OPERAND, False)
        mass = tl.load(examples.mass + i, mask=inside, other=0.0)[None, :]
        at = place * WIDTH + i
        w = tl.load(drawn.weights + k[:, None] * WIDTH + i[None, :]).to(tl.float32) * inverse[:, None]  # (R, DEPTH)
        # The largest score less that of the target, before they are rounded to anything larger: no less than zero.
        if LABELS:
            gap = tl.maximum(top[:, None] - mixed, 0.0) * unit[:, None] * keep
            of_target = mass * keep
        else:
            of_target = mass - uniform_part * c
            gap = (of_target * top[:, None] - keep * mixed) * unit[:, None]
        gap = tl.where(gap > -highest_mask(OPERAND), float("inf"), gap)
        loss += tl.sum(tl.where(w == 0, 0.0, w * (gap + of_target * rest[:, None])), 1)
        share += tl.sum(w * mass, 1)
        score_sum += tl.sum(w * tl.load(examples.sums + at)[None, :], 1)
        flaw += tl.sum(tl.where(w == 0, 0.0, w * tl.load(examples.flaw + at)[None, :]), 1)
    bad = tl.where(flaw == flaw, 0.0, flaw)  # NaN
    tl.store(out.lse + k, lse)
    tl.store(out.share + k, share)
    factor = share * inverse
    level = rest * LOG2E + bad
    level = level - tl.log2(factor) if LABELS else level  # probabilities may be negative
    tl.store(out.top + k, top)
    tl.store(out.level + k, tl.where((factor == 0) | (row >= rows), float("inf"), level))
    tl.store(out.scale + k, scale)
    tl.store(out.score_sum + k, score_sum)
    spread = (share if LABELS else tl.where(inverse == 0, 0.0, 1.0)) * uniform_part
    loss += spread * tl.maximum(c * lse - score_sum, 0.0) + flaw + share * 0.0
    loss = tl.where(c == 1, share * 0.0, loss)
    loss = tl.where(row < rows, loss, 0.0)
    if rows_ptr is not None:
        at = (place + first_location) * n + first + row
        tl.store(rows_ptr + at, loss, mask=row < rows)
    add_to_sum(sums_ptr, loss, first_location, first)


@kernel(do_not_specialize=["stored", "rows", "splits", "b", "c", "first_location", "first", "chunks"])
def gradient_kernel(
    scores, drawn, known, upstream, partial_ptr, apart_ptr, label_ptr,
    first_location, first, rows, stored, splits, b, c, chunks,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr, HEIGHT: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr, FIRST: tl.constexpr, IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Adds a super-block to partial (places, splits, HEIGHT, WIDTH): (T softmax)^T M, and after `chunks` of it M^T M.

    With labels also to apart (places, splits, chunks, WIDTH), which is what `add_up` balances the gradient with.

    Everything is transposed, classes by rows, so that the softmax goes from registers into the second product.
    """
    place = (tl.program_id(0) // splits).to(tl.int64)
    split = tl.program_id(0) % splits
    chunk = tl.program_id(1)
    column = tl.program_id(2) * DEPTH + tl.arange(0, DEPTH)
    j = chunk * CLASSES + tl.arange(0, CLASSES)
    total = tl.zeros((CLASSES, DEPTH), tl.float32)
    location = place + first_location
    if chunk < chunks:
        if WIDTH == DEPTH:  # the scores of these classes stay on chip
            own_scores = load_columns(scores, place, column[None, :], j[:, None], c, WIDTH, False)  # (CLASSES, WIDTH)
            own_scores = round_operand(own_scores, OPERAND)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            source = place * stored + tl.minimum(row, rows - 1)  # weights of a row that exists
            own = tl.load(drawn.weights + source[:, None] * WIDTH + column[None, :])  # (R, DEPTH)
            logits = tl.zeros((CLASSES, R), tl.float32)
            if WIDTH == DEPTH:
                logits = dot(own_scores, tl.trans(own), logits, OPERAND)
            else:
                for start in range(0, WIDTH, DEPTH):
                    i = start + tl.arange(0, DEPTH)
                    w = tl.load(drawn.weights + source[None, :] * WIDTH + i[:, None])
                    s = load_columns(scores, place, i[None, :], j[:, None], c, WIDTH, False)
                    logits = dot(round_operand(s, OPERAND), w, logits, OPERAND)
            distance = (logits - tl.load(known.top + k)[None, :]) * tl.load(known.scale + k)[None, :]
            p = tl.exp2(distance - tl.load(known.level + k)[None, :])  # (CLASSES, R)
            if not LABELS:
                p *= (tl.load(known.share + k) * tl.load(drawn.inverse + k))[None, :]
            if upstream is not None:
                p *= row_factor(upstream, location, first, row, rows)[None, :]
            total = dot(round_operand(p, OPERAND), own, total, OPERAND)
        if LABELS:
            add_apart(apart_ptr, label_ptr, total, j, column, chunk, chunks, b, c, FIRST, WIDTH)
    else:
        i = (chunk - chunks) * CLASSES + tl.arange(0, CLASSES)
        for tile in range(split, tl.cdiv(rows, R), splits):
            row = tile * R + tl.arange(0, R)
            k = place * stored + row
            inverse = tl.load(drawn.inverse + k)
            factor = inverse * inverse * row_factor(upstream, location, first, row, rows)
            other = tl.load(drawn.weights + k[None, :] * WIDTH + i[:, None], mask=(i < WIDTH)[:, None], other=0.0)
            other = round_operand(other.to(tl.float32) * factor[None, :], OPERAND)  # (CLASSES, R)
            w = tl.load(drawn.weights + k[:, None] * WIDTH + column[None, :])
            total = dot(other, w, total, OPERAND)
    add_partial(partial_ptr, total, place, j, column, b, c, FIRST, HEIGHT, WIDTH, IN_PLACE)


@kernel(do_not_specialize=["stored", "rows", "tiles", "b", "c", "first_location", "first"])
def weights_gradient_kernel(
    scores, both_ways, examples, keep, uniform_part, drawn, known, upstream, out_ptr,
    first_location, first, rows, stored, tiles, b, c,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, R: tl.constexpr, CLASSES: tl.constexpr,
    OPERAND: tl.constexpr, LABELS: tl.constexpr,
):  # fmt: skip
    """out (places, stored, WIDTH): d loss / d mu, up to what centring removes and a common factor.

    both_ways is A + A^T.
    """
    place = (tl.program_id(0) // tiles).to(tl.int64)
    row = (tl.program_id(0) % tiles) * R + tl.arange(0, R)
    k = place * stored + row
    i = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = i < b
    inverse, lse, share = tl.load(drawn.inverse + k), tl.load(known.lse + k), tl.load(known.share + k)
    mass = tl.load(examples.mass + i, mask=inside, other=0.0)
    total = tl.zeros((R, DEPTH), tl.float32)
    for start in range(0, c, CLASSES):
        j = start + tl.arange(0, CLASSES)
        logits = mix_columns(drawn.weights, k, scores, place, j, c, WIDTH, DEPTH, R, CLASSES, OPERAND, False)
        p = (
            tl.exp2(logits * (inverse * score_unit(OPERAND) * LOG2E)[:, None] - (lse * LOG2E)[:, None]) * share[:, None]
        )  # (R, CLASSES)
        s = load_columns(scores, place, i[None, :], j[:, None], c, WIDTH, False)  # (CLASSES, DEPTH)
        total = dot(round_operand(p, OPERAND), round_operand(s, OPERAND), total, OPERAND)
    both = mix_columns(drawn.weights, k, both_ways, place, i, c, WIDTH, DEPTH, R, DEPTH, OPERAND, False)
    total = (total - both * (inverse * keep)[:, None]) * score_unit(OPERAND)
    if LABELS:
        spread, spread_row = mass * uniform_part, share * uniform_part
    else:
        spread, spread_row = mass * 0.0 + uniform_part, tl.where(inverse == 0, 0.0, uniform_part)
    sums = tl.load(examples.sums + place * WIDTH + i)
    total += lse[:, None] * mass[None, :]
    total -= tl.load(known.score_sum + k)[:, None] * spread[None, :] + spread_row[:, None] * sums[None, :]
    total *= row_factor(upstream, place + first_location, first, row, rows)[:, None]
    at = k[:, None] * WIDTH + i[None, :]
    tl.store(out_ptr + at, tl.where((c == 1) | ~inside[None, :], 0.0, total))


class Plan:
    """Tiles over rows, classes and examples, and how many locations go into a block."""

    def __init__(self, scores: Tensor, operand: str) -> None:
        _, b, c = scores.shape
        family = shapes.family(scores)
        self.operand, self.width = operand, width(b)
        self.large, self.two = family.large[operand], family.two_accumulators[operand]
        if not fits(c + self.width + 2 * self.large.classes, self.width):
            self.large = self.two
        self.depth = min(self.width, self.large.depth)
        self.classes = min(shapes.power_of_two(max(16, c)), self.large.classes)
        self.chunks, self.gram_chunks = shapes.ceil_div(c, self.classes), shapes.ceil_div(self.width, self.classes)
        height = (self.chunks + self.gram_chunks) * self.classes
        self.in_place = not fits(height, self.width)  # the gradient itself holds its partial sums
        self.height = self.gram_chunks * self.classes if self.in_place else height
        self.most = 1 if self.in_place else shapes.PARTIAL_BYTES // (4 * height * self.width)

    @property
    def tile(self) -> dict:
        """Constants of a launch."""
        sizes: dict = dict(WIDTH=self.width, DEPTH=self.depth, R=self.large.rows, CLASSES=self.classes)
        return sizes | dict(OPERAND=self.operand) | device.options(self.large.warps, self.large.stages)

    @property
    def small_tile(self) -> dict:
        """The same where two accumulators are held."""
        sizes: dict = dict(WIDTH=self.width, DEPTH=min(self.width, self.two.depth), R=self.two.rows)
        sizes |= dict(CLASSES=min(self.classes, self.two.classes), OPERAND=self.operand)
        return sizes | device.options(self.two.warps, self.two.stages)


class Normaliser:
    """Log-sum-exps and losses, block by block; `sums` are those of the programs, in float64.

    Few rows go in small tiles, as each is read by one program, with all classes.
    """

    def __init__(self, plan: Plan, target: Target, scores: Tensor, n: int, rows: Tensor | None) -> None:
        self.plan, self.target, self.n, self.rows = plan, target, n, rows
        r, _, self.c = scores.shape
        # By all rows and locations: so that a loss is the same whatever else is wanted.
        self.tile_rows = shapes.rows_that_fill(plan.large.rows, n * r, device.programs(scores))
        self.sums: Tensor | None = None

    def run(self, block: Block, ready: Prepared) -> Rows:
        """What the gradients of this block need."""
        target, tiles = self.target, block.stored // self.tile_rows
        if self.sums is None:
            self.sums = block.inverse.new_empty((block.places * tiles,), dtype=torch.float64)
        found = Rows(*block.inverse.new_empty((6, block.places, block.stored)).unbind())
        normaliser_kernel[(block.places * tiles,)](
            ready.scores, ready.on_target_columns, ready.examples, target.keep, target.uniform, block.drawn, found,
            self.rows, self.sums, block.first_location, block.first, block.rows, block.stored, tiles, self.n,
            target.values.shape[0], self.c, LABELS=target.by_label, **self.plan.tile | dict(R=self.tile_rows),
        )  # fmt: skip
        return found

    @property
    def given_sums(self) -> Tensor:
        """Once a block has run."""
        if self.sums is None:
            raise ValueError("sums: no block has run")
        return self.sums


class ScoresGradient:
    """dS of some locations, added up over their blocks."""

    def __init__(self, out: Tensor, plan: Plan, block: Block, target: Target, upstream: Upstream | None) -> None:
        """out (L, b, c) is that of the locations of this first block."""
        self.out, self.plan, self.target, self.upstream = out, plan, target, upstream
        self.columns = plan.width // plan.depth
        chunks = plan.chunks + plan.gram_chunks
        splits = device.programs(out) * plan.large.occupancy // (block.places * chunks * self.columns)
        tiles = block.stored // plan.large.rows
        self.splits = 1 if plan.in_place else max(1, min(splits, plan.most // block.places, tiles))
        self.partial = out.new_empty((block.places, self.splits, plan.height, plan.width))
        shape = (block.places, self.splits, plan.chunks, plan.width)
        self.apart = out.new_empty(shape) if target.by_label else None

    def add(self, block: Block, ready: Prepared, known: Rows) -> None:
        """The part of a block."""
        plan, (_, b, c) = self.plan, self.out.shape
        labels = self.target.values if self.target.by_label else None
        parts = [(self.partial, plan.chunks + plan.gram_chunks, plan.chunks)]
        if plan.in_place:
            parts = [(self.out, plan.chunks, plan.chunks), (self.partial, plan.gram_chunks, 0)]
        for out, some, of_classes in parts:
            gradient_kernel[(block.places * self.splits, some, self.columns)](
                ready.scores, block.drawn, known, self.upstream, out, self.apart, labels, block.first_location,
                block.first, block.rows, block.stored, self.splits, b, c, of_classes, HEIGHT=some * plan.classes,
                LABELS=self.target.by_label, FIRST=block.first == 0, IN_PLACE=out is not self.partial, **plan.tile,
            )  # fmt: skip

    def finish(self, scores: Tensor, mass: Tensor, scale, loss: Total | None) -> None:
        """Writes scale times the sum, and a loss; there is no gradient where scores (L, b, c) are -inf."""
        gram = self.partial[:, :, -self.plan.gram_chunks * self.plan.classes :]
        add_up(self.out if self.plan.in_place else self.partial, self.out, scale, gram, self.target, mass, self.apart,
               scores, loss)  # fmt: skip


class WeightsGradient:
    """d loss / d mu, and from it the attention's gradient, block by block."""

    def __init__(self, plan: Plan, target: Target, upstream: Upstream | None, found: AttentionGradient) -> None:
        self.plan, self.target, self.upstream, self.found = plan, target, upstream, found

    def add(self, block: Block, ready: Prepared, known: Rows, c: int) -> None:
        """The part of a block."""
        plan, target, tiles = self.plan, self.target, block.stored // self.plan.two.rows
        if block.first == 0:
            a = ready.on_target_columns
            self.both_ways = a._replace(pointer=a.pointer + a.pointer.mT)
        weights_gradient_kernel[(block.places * tiles, plan.width // min(plan.width, plan.two.depth))](
            ready.scores, self.both_ways, ready.examples, target.keep, target.uniform,
            block.drawn, known, self.upstream, block.gradient, block.first_location, block.first, block.rows,
            block.stored, tiles, target.values.shape[0], c, LABELS=target.by_label, **plan.small_tile,
        )  # fmt: skip
        self.found.add(block)


def launch(scores, target: Target, sampler: Sampler, operand, losses: Losses, upstream: Upstream | None, scale,
           gradient, grad_attention) -> None:  # fmt: skip
    """Fills losses, gradient (r, b, c), grad_attention (r, b), where given."""
    r, _, c = scores.shape
    plan = Plan(scores, operand)
    normaliser = Normaliser(plan, target, scores, sampler.draw.n, losses.rows)
    by_weights = None
    if grad_attention is not None:
        found = AttentionGradient(grad_attention, sampler.attended, scale)
        by_weights = WeightsGradient(plan, target, upstream, found)

    def prepare(here: slice) -> Preparation:
        """Of some locations."""
        stored = plan.chunks * plan.classes
        return preparation(scores[here], target, sampler.left_out, plan.width, stored, operand, on_target=True)

    with device.on_device(scores):
        for block in blocks(sampler, r, scores.dtype, operand, by_weights is not None, plan.most, prepare=prepare):
            here = slice(block.first_location, block.first_location + block.places)
            if block.first == 0:
                ready = block.preparation.finish()
            known = normaliser.run(block, ready)
            if gradient is not None:
                if block.first == 0:
                    by_scores = ScoresGradient(gradient[here], plan, block, target, upstream)
                by_scores.add(block, ready, known)
                if block.last:
                    loss = losses.total(normaliser.given_sums, ready.examples.mass) if here.stop == r else None
                    by_scores.finish(scores[here], ready.examples.mass, scale, loss)
            if by_weights is not None:
                by_weights.add(block, ready, known, c)
        if gradient is None:
            losses.finish(normaliser.given_sums, ready.examples.mass, sampler.b)
