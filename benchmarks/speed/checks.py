"""The check that precedes every speed-up: is the loss the same, and are its gradients?

The rule: given the same weights, the error against float64 is at most twice that of plain PyTorch in the same
precision, plus 1e-6 relative, for the loss and every gradient. And the weights are those of the reference stream within
1e-5 relative, except at most 1e-5 of them, where rounding flips an acceptance.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import multimix_kernels as mk

from ..cases import ALPHA, Problem, our_loss
from .peers import paper_loss

SEED = 2024
ROWS = 523  # about this many rows, and a multiple of no tile
NAMES = ("loss", "gradient of z", "gradient of weight", "gradient of bias")  # z: scores where there is no head


@dataclass
class Check:
    """Errors relative to the largest value of the float64 result; ours, plain PyTorch's, and what is allowed."""

    ours: dict[str, float] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    loss: float = math.nan  # in float64
    deviation: float = math.nan  # standard deviation of the rows' losses
    rows: int = 0

    @property
    def passed(self) -> bool:
        """Whether a speed-up may be shown."""
        return not self.failures

    def expects(self, loss: float, rows: int, dtype: torch.dtype) -> bool:
        """Whether a loss of other random weights, over this many rows, is what the law of large numbers allows."""
        noise = 6 * self.deviation * math.sqrt(1 / rows + 1 / self.rows)
        rounding = (0.02 if torch.finfo(dtype).bits == 16 else 1e-4) * abs(self.loss)
        return abs(loss - self.loss) <= noise + rounding


def check_rows(problem: Problem) -> Problem:
    """The problem at a size that is checked quickly."""
    return replace(problem, n=min(problem.n, max(16, math.ceil(ROWS / problem.case.r))), mode="full").detached()


def check(problem: Problem, backend: str) -> Check:
    """Loss, gradients and weights of a backend against float64, at the problem's sizes and options."""
    problem = check_rows(problem)
    dtype = problem.z.dtype
    drawn = _weights(problem, backend)
    result = Check(rows=problem.n * problem.case.r)
    truth = _plain(problem.detached(torch.float64), drawn)
    plain = _plain(problem, drawn.to(dtype))
    loss = our_loss(problem, backend, seed=SEED)
    ours = (loss.detach(), *torch.autograd.grad(loss, problem.parameters))
    result.loss = truth[0].item()
    for name, x, y, reference in zip(NAMES[: len(ours)], ours, plain, truth, strict=True):
        result.ours[name], result.plain[name] = _error(x, reference), _error(y, reference)
        allowed = 2 * result.plain[name] + 1e-6
        if not result.ours[name] <= allowed:  # also when it is NaN
            result.failures.append(f"{name}: error {result.ours[name]:.1e}, allowed {allowed:.1e}")
    result.failures += _weight_failures(problem, drawn, backend)
    rows = our_loss(problem, "reference", seed=SEED, reduction="none")
    result.deviation = rows.detach().double().std().item() if rows.numel() > 1 else 0.0
    return result


def _weights(problem: Problem, backend: str) -> Tensor:
    """The backend's own weights (r, n, b), normalised in float64."""
    case = problem.case
    dtype = torch.float64 if problem.z.dtype == torch.float64 else torch.float32
    weights = mk.sample_dirichlet(
        problem.n, case.b, m=problem.m, alpha=ALPHA, spatial=case.spatial, seed=SEED,
        dtype=dtype, device=problem.device, backend=backend,
    ).double()  # fmt: skip
    weights = weights.reshape(problem.n, case.b, case.r).permute(2, 0, 1)
    return weights / weights.sum(-1, keepdim=True)


def _weight_failures(problem: Problem, drawn: Tensor, backend: str) -> list[str]:
    if backend == "reference":
        return []
    expected = _weights(replace(problem, z=problem.z.double()), "reference")
    wrong = ((drawn - expected).abs() > 1e-5 * expected).sum().item()
    # One flipped acceptance changes the sum, and so all the weights of its row.
    rows = ((drawn - expected).abs() > 1e-5 * expected).any(-1).sum().item()
    allowed = max(1, math.ceil(1e-5 * drawn.numel()))
    if rows > allowed:
        return [f"weights: {wrong} of {drawn.numel()} differ from the reference stream, in {rows} rows"]
    return []


def _plain(problem: Problem, drawn: Tensor) -> tuple[Tensor, ...]:
    loss = paper_loss(problem.z, problem.target, problem.weight, problem.bias, problem.case, problem.n, drawn)
    return (loss.detach(), *torch.autograd.grad(loss, problem.parameters))


def _error(x: Tensor, truth: Tensor) -> float:
    return ((x.double() - truth).abs().max() / truth.abs().max()).item()
