"""What is checked: the sizes and options of each operator's cases, and their operands.

Sizes are odd, so that no tile is full, and as small as reaches every kernel: few and many classes (the mixed loss on
chip, and in super-blocks), labels and probabilities, one location and several.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..backends.contract import MEAN, NONE, SUM, Draw, LossOptions, Want
from ..backends.verdicts.plan import DTYPES

SEED = 20231109
FAR = 2**40 + 2**32 - 9  # rows whose low word overflows
IGNORE = -100


@dataclass(frozen=True)
class Case:
    """One call of an operator. c is the number of classes, of `mix` that of dimensions."""

    name: str
    b: int = 33
    c: int = 19
    n: int = 67
    r: int = 1
    m: int | None = None
    alpha: float | None = None  # None: a range
    probabilities: bool = False
    ignored: int = 0
    attended: bool = False  # with attention, and its gradient
    masked: bool = False  # a class whose scores are all -inf
    unaligned: bool = False  # the operand is a view that begins anywhere and has gaps
    reduction: int = SUM
    smoothing: float = 0.1
    own_weights: bool = False  # too many to draw in float64: the backend's own are taken as given

    def but(self, name: str, **changes) -> "Case":
        """Another one, for the most part the same."""
        return replace(self, name=name, **changes)

    @property
    def draw(self) -> Draw:
        """The weights, on the CPU."""
        low, high = (0.5, 2.0) if self.alpha is None else (self.alpha, self.alpha)
        return Draw(torch.tensor([SEED]), None, self.n, self.m or self.b, low, high, FAR)

    @property
    def labels(self) -> Tensor:
        """(b,), some ignored; never the masked class, which is the last."""
        y = torch.arange(self.b) * 7 % max(1, self.c - self.masked)
        y[1 : 1 + self.ignored] = IGNORE
        return y


_FEW = Case("few classes")
_MANY = Case("many classes", b=37, c=301, n=45)
_SUPER = Case("two super-blocks", b=512, c=16, n=16300, own_weights=True)  # 16 MiB of weights, and a little
_LOSS = (
    _FEW,
    _MANY,
    _FEW.but("locations and attention", b=17, n=23, r=3, attended=True),
    _FEW.but("subsets, ignored examples, the mean", n=41, m=5, ignored=3, reduction=MEAN),
    _FEW.but("probabilities, row losses", n=35, probabilities=True, reduction=NONE),
    _MANY.but("probabilities of many classes", probabilities=True),
    _FEW.but("a masked class", masked=True, smoothing=0.0),
    _MANY.but("a masked class of many", masked=True, smoothing=0.0),
    _FEW.but("an unaligned view", unaligned=True),
)
_LOSS_MORE = (
    _MANY.but("attention, many classes", r=2, attended=True),
    _FEW.but("one example", b=1),
    _FEW.but("one class", c=1),
    _FEW.but("many examples", b=150, c=70, n=130),
    _FEW.but("very many examples", b=700, c=33, n=60),
    _FEW.but("alpha 0.05", alpha=0.05),
    _FEW.but("alpha 50, probabilities", alpha=50.0, probabilities=True),
    _FEW.but("49 locations", b=19, n=7, r=49, attended=True),
)
_MIX = (
    Case("embeddings", c=70),
    Case("locations and attention", b=17, c=70, n=23, r=3, attended=True),
    Case("subsets, ignored examples", c=70, m=5, ignored=3),
    Case("an unaligned view", c=70, unaligned=True),
)
_MIX_MORE = (
    Case("one example", b=1, c=70),
    Case("one dimension", c=1),
    Case("many examples", b=700, c=130, n=150),
    Case("alpha 0.05", c=70, alpha=0.05),
)


def cases(operator: str, thorough: bool = False) -> tuple[Case, ...]:
    """Those of an operator other than `sample`; `thorough`: more of them."""
    if operator in ("mix", "mix_backward"):
        return (*_MIX, _SUPER, *(_MIX_MORE if thorough else ()))
    large = (_SUPER,) if operator == "mixed_cross_entropy" else ()
    return (*_LOSS, *large, *(_LOSS_MORE if thorough else ()))


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unaligned(x: Tensor) -> Tensor:
    """The same values, one element into a buffer, in rows with gaps."""
    r, rows, width = x.shape
    strides = (rows * (width + 3), width + 3, 1)
    buffer = x.new_zeros(r * rows * (width + 3) + 1)
    return buffer[1:].as_strided(x.shape, strides, 1).copy_(x)


def arguments(operator: str, case: Case, kind: str, device: torch.device | str = "cpu") -> list:
    """Of the operator, records as they are, in the dtype of the kind."""
    dtype, (r, b, c, n) = DTYPES[kind], (case.r, case.b, case.c, case.n)
    rows = n if operator.startswith("soft") else b
    x = ((3 if "entropy" in operator else 1) * _randn(r, rows, c, seed=1)).to(dtype)
    if case.masked:
        x[..., -1] = -torch.inf
    x = x.to(device)
    if case.unaligned:
        x = _unaligned(x)
    y = case.labels.to(device)
    ignored = y == IGNORE if case.ignored else None
    attention = None
    if case.attended:
        attention = _randn(r, b, seed=3).abs()
        attention[:, 0] = 0  # an example that takes no part
        if r > 1:
            attention[-1] = 0  # a location without any
        attention = attention.float().to(device)
    tail = [attention, ignored, case.draw._replace(seed=case.draw.seed.to(device))]
    want = Want(True, case.attended)
    if operator == "mix":
        return [x, *tail]
    if operator == "mix_backward":
        return [_randn(r, n, c, seed=2).to(dtype).to(device), x, want, *tail]
    target = y
    if case.probabilities:
        target = _randn(b, c, seed=5).softmax(1).to(dtype).to(device)
    options = LossOptions(case.smoothing, IGNORE, case.reduction)
    if operator.endswith("backward"):
        return [1e2 * _randn(r, n, seed=9).float().to(device), x, target, options, want, *tail]
    return [x, target, options, want, *tail]
