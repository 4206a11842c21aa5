"""Problems: sizes and options of one loss, its operands, the library's evaluation, and the oracle's."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

import multimix_kernels as mk
from multimix_kernels.backends.contract import Draw
from multimix_kernels.ops import OPERATORS

from . import oracle

IGNORE = -100


@dataclass(frozen=True)
class Problem:
    """One loss. attention: None (not dense), "gap", "cam", "uniform", or "given" (an operand)."""

    name: str = "plain"
    b: int = 7
    d: int = 6
    c: int = 5
    n: int = 11
    spatial: tuple[int, ...] = ()
    m: int | None = None
    alpha: float | tuple[float, ...] | str = (0.5, 2.0)  # "per example": b values
    smoothing: float = 0.0
    reduction: str = "mean"
    soft: bool = False
    ignored: int = 0
    attention: str | None = None
    activation: str = "relu"
    attention_grad: bool = False
    bias: bool = True
    seed: int = 20231109
    row_offset: int = 0

    def __str__(self) -> str:
        return self.name

    def but(self, name: str, **changes) -> "Problem":
        return replace(self, name=name, **changes)

    def concentrations(self, device="cpu"):
        if self.alpha == "per example":
            return torch.linspace(0.3, 3.0, self.b, device=device)
        return self.alpha

    def options(self, backend: str, device="cpu") -> dict:
        """Keyword arguments of every loss."""
        return dict(
            n=self.n, m=self.m, alpha=self.concentrations(device), label_smoothing=self.smoothing,
            reduction=self.reduction, seed=self.seed, row_offset=self.row_offset, backend=backend,
        )  # fmt: skip

    def target(self) -> Tensor:
        g = torch.Generator().manual_seed(self.seed + 1)
        if self.soft:
            # Multiples of 1/64 are exact in every dtype.
            counts = torch.rand(self.b, self.c, generator=g).multinomial(64, replacement=True, generator=g)
            return torch.nn.functional.one_hot(counts, self.c).sum(1).double() / 64
        target = torch.randint(self.c, (self.b,), generator=g)
        target[1 : 1 + self.ignored] = IGNORE
        return target

    def operands(self, dtype=torch.float64, device="cpu") -> dict[str, Tensor]:
        """Leaves that require grad: input, weight, bias, attention, as far as the problem has them."""
        g = torch.Generator().manual_seed(self.seed)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        found = {"input": draw(self.b, self.d, *self.spatial), "weight": draw(self.c, self.d)}
        if self.bias:
            found["bias"] = draw(self.c)
        if self.attention == "given":
            a = draw(self.b, *self.spatial).abs()
            a[0] = 0  # an example that never takes part
            found["attention"] = a
        return {k: v.to(device, dtype).requires_grad_() for k, v in found.items()}

    def scores(self, dtype=torch.float64, device="cpu") -> dict[str, Tensor]:
        """Leaves for mixed_cross_entropy: scores, attention."""
        operands = self.operands(dtype, device)
        g = torch.Generator().manual_seed(self.seed + 2)
        scores = 3 * torch.randn(self.b, self.c, *self.spatial, generator=g, dtype=torch.float64)
        found = {"scores": scores.to(device, dtype).requires_grad_()}
        return found | {k: v for k, v in operands.items() if k == "attention"}

    def loss(self, operands: dict[str, Tensor], backend: str, **changes) -> Tensor:
        """The public function for this problem."""
        x = operands["input"]
        target, options = self.target().to(x.device), self.options(backend, x.device) | changes
        if self.soft:
            target = target.to(x.dtype)
        if "attention" in operands:
            options |= dict(attention=operands["attention"], attention_grad=self.attention_grad)
        elif self.attention is not None:
            options |= dict(
                attention=self.attention, attention_activation=self.activation, attention_grad=self.attention_grad
            )
        loss = mk.multimix_cross_entropy if self.attention is None else mk.dense_multimix_cross_entropy
        return loss(x, target, operands["weight"], operands.get("bias"), **options)

    def score_loss(self, operands: dict[str, Tensor], backend: str, **changes) -> Tensor:
        """mixed_cross_entropy for this problem."""
        x = operands["scores"]
        target = self.target().to(x.device)
        options = self.options(backend, x.device) | changes
        return mk.mixed_cross_entropy(
            x, target.to(x.dtype) if self.soft else target, attention=operands.get("attention"), **options
        )

    def lam(self, backend: str, dtype: torch.dtype, device="cpu") -> Tensor:
        """The weights before attention (n, b, *spatial) that the backend draws, in the dtype it computes in."""
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        alpha = self.concentrations(device)
        per_example = alpha.double() if isinstance(alpha, Tensor) else None
        low, high = (alpha if isinstance(alpha, tuple) else (alpha, alpha)) if per_example is None else (1.0, 1.0)
        seed = torch.tensor([self.seed], device=device)
        m = self.b if self.m is None else self.m
        draw = Draw(seed, per_example, self.n, m, low, high, self.row_offset)
        target = self.target().to(device)
        ignored = None if self.soft else target == IGNORE
        r = torch.Size(self.spatial).numel()
        lam = OPERATORS[backend]["sample"](self.b, r, compute, None, ignored, *draw).double()
        return lam.permute(1, 2, 0).reshape(self.n, self.b, *self.spatial)

    def _mu(self, operands, lam, dtype) -> Tensor:
        x = operands.get("input", operands.get("scores"))
        target = self.target().to(x.device)
        if self.attention is None:
            return lam.to(dtype)
        if "attention" in operands:
            a = operands["attention"]
        else:
            a = oracle.attention(x, self.attention, self.activation, operands["weight"], target)
        # Scores with a given attention always pass gradients to it.
        return oracle.attended(lam.to(dtype), a if self.attention_grad or "scores" in operands else a.detach())

    def plain_loss(self, operands: dict[str, Tensor], lam: Tensor) -> Tensor:
        """The oracle, in the dtype of the operands."""
        x = operands.get("input", operands.get("scores"))
        y = oracle.probabilities(self.target().to(x.device), self.c, self.smoothing, IGNORE, x.dtype)
        mu = self._mu(operands, lam, x.dtype)
        if "scores" in operands:
            return oracle.score_loss(x, y, mu, self.reduction)
        return oracle.linear_loss(x, operands["weight"], operands.get("bias"), y, mu, self.reduction)


def upstream_of(loss: Tensor) -> Tensor:
    """An upstream gradient that is neither one nor the same everywhere."""
    g = torch.Generator().manual_seed(5)
    return (0.5 + torch.rand(loss.shape, generator=g, dtype=torch.float64)).to(loss.device, loss.dtype)


def loss_and_gradients(loss: Tensor, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss, and the gradient of every operand (zeros where none flows), by name."""
    gradients = torch.autograd.grad(loss, list(operands.values()), upstream_of(loss), allow_unused=True)
    found = {k: torch.zeros_like(x) if g is None else g for (k, x), g in zip(operands.items(), gradients, strict=True)}
    return {"loss": loss.detach()} | found


PLAIN = Problem()
DENSE = Problem("dense", spatial=(2, 3), attention="gap")

LINEAR = [
    PLAIN,
    PLAIN.but("sum", reduction="sum"),
    PLAIN.but("none", reduction="none", row_offset=2**32 - 5),
    PLAIN.but("no bias", bias=False),
    PLAIN.but("subset", m=3),
    PLAIN.but("one of each", m=1),
    PLAIN.but("per example", alpha="per example"),
    PLAIN.but("per example subset", alpha="per example", m=4, reduction="none"),
    PLAIN.but("smoothing", smoothing=0.1),
    PLAIN.but("smoothing one", smoothing=1.0, reduction="sum"),
    PLAIN.but("soft", soft=True),
    PLAIN.but("soft smoothing", soft=True, smoothing=0.2, reduction="none"),
    PLAIN.but("ignored", ignored=2),
    PLAIN.but("ignored subset", ignored=3, m=3, reduction="none"),
    PLAIN.but("ignored beyond subset", ignored=5, m=4, smoothing=0.1),
    PLAIN.but("one row", n=1),
    PLAIN.but("one example", b=1),
    PLAIN.but("one class", c=1),
    PLAIN.but("two classes", c=2),
    PLAIN.but("one of everything", b=1, d=1, c=1, n=1),
    PLAIN.but("odd sizes", b=33, d=17, c=67, n=129, alpha=0.7),
    PLAIN.but("many classes", b=19, d=5, c=1003, n=37),
]
ATTENDED = [
    DENSE,
    DENSE.but("dense none", reduction="none"),
    DENSE.but("dense gap softmax", activation="softmax", reduction="sum"),
    DENSE.but("dense cam", attention="cam"),
    DENSE.but("dense cam softmax", attention="cam", activation="softmax"),
    DENSE.but("dense cam soft", attention="cam", soft=True, smoothing=0.1),
    DENSE.but("dense uniform", attention="uniform", spatial=(4,)),
    DENSE.but("dense given", attention="given"),
    DENSE.but("dense given none", attention="given", reduction="none", m=3),
    DENSE.but("dense ignored", ignored=2, m=3),
    DENSE.but("dense odd sizes", b=17, d=9, c=37, n=31, spatial=(3, 1, 3), alpha="per example"),
    DENSE.but("no location", spatial=(), reduction="none"),
]
# Gradients flow through the attention.
DIFFERENTIABLE = [
    replace(p, name=f"{p.name}, attention grad", attention_grad=True) for p in ATTENDED if p.attention != "uniform"
]
SCORES = [p for p in LINEAR if p.bias] + [p for p in DIFFERENTIABLE if p.attention == "given"] + [
    DENSE.but("scores dense", attention=None),
    DENSE.but("given ignored", attention="given", ignored=2, reduction="sum"),
    DENSE.but("given soft", attention="given", soft=True, smoothing=0.1, reduction="none"),
]  # fmt: skip
