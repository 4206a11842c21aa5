"""The peers: the same loss by other means, and our backends by name.

Each peer is split into the draw of its weights and the loss for given weights, so that the loss can be checked apart.
Weights are (r, n, b), with r = 1 location when not dense; those of pairs are indices and shares (r, n).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import multimix_kernels as mk
from multimix_kernels.backends import TABLE

from ..cases import ALPHA, Case, Problem, our_loss

Step = Callable[[], tuple[Tensor, ...]]  # the loss, and with mode "full" the gradients of z, weight and bias


@dataclass(frozen=True)
class Peer:
    """One way to compute the step."""

    name: str
    label: str  # for plots and tables
    loss: Callable[..., Tensor]  # of (z, target, weight, bias, *rest)
    floats: Callable[[Case, str], int]  # floats of buffers per location and interpolated example
    fits: Callable[[Case, int | None], bool] = lambda case, m: True  # what it computes, by case and m
    presampled: bool = False
    compiled: bool = False
    backend: str | None = None  # of this library; None: not ours

    @property
    def ours(self) -> bool:
        """Whether it is this library."""
        return self.backend is not None

    def prepare(self, problem: Problem) -> Step:
        """The step, ready to be repeated. A compiled one is compiled at its first call."""
        if self.backend is not None:
            backend = self.backend
            return _step(lambda: our_loss(problem, backend), problem)
        case, n, m = problem.case, problem.n, problem.m
        weights = draw(case, n, problem.z.dtype, problem.device, m) if self.presampled else None
        function = torch.compile(self.loss, dynamic=False) if self.compiled else self.loss
        return _step(lambda: function(*_operands(problem), case, n, weights, m), problem)

    def bytes(self, problem: Problem) -> int:
        """Estimated size of the buffers that grow with n."""
        rows = problem.n * problem.case.r
        # Weights are drawn in float32 at least.
        return self.floats(problem.case, problem.mode) * rows * max(4, problem.z.element_size())


def draw(case: Case, n: int, dtype: torch.dtype, device: torch.device, m: int | None = None) -> Tensor:
    """Dirichlet weights (r, n, b) as a PyTorch user draws them, with one concentration for each row.

    With m only that many examples, a subset of each row's own, have a weight that is not zero.
    """
    alpha = _concentrations(case, n, dtype, device).unsqueeze(-1)
    drawn = torch.distributions.Dirichlet(alpha.expand(-1, -1, m or case.b), validate_args=False).sample()
    if m in (None, case.b):
        return drawn.to(dtype)
    chosen = torch.rand(case.r, n, case.b, device=device).topk(m, sorted=False).indices
    return torch.zeros(case.r, n, case.b, dtype=dtype, device=device).scatter(-1, chosen, drawn.to(dtype))


def interpolation_weights(z: Tensor, drawn: Tensor, case: Case) -> Tensor:
    """Weights as drawn, or if z is dense (b, d, *spatial) times attention (GAP, ReLU) and normalised."""
    if case.from_scores or not case.dense:
        return drawn
    weighted = drawn * _attention(z).unsqueeze(1)
    return weighted / weighted.sum(-1, keepdim=True)


def paper_loss(z, target, weight, bias, case, n, drawn=None, m=None) -> Tensor:
    """The order of the paper: mix embeddings and targets, apply the classifier, soft-target cross-entropy."""
    mixed, targets = _mixed(z, target, case, n, drawn, m)
    return F.cross_entropy(_head(mixed, weight, bias), targets)


def linear_ce_loss(z, target, weight, bias, case, n, drawn=None, m=None) -> Tensor:
    """Like `paper_loss`, with torch.nn.functional.linear_cross_entropy."""
    mixed, targets = _mixed(z, target, case, n, drawn, m)
    # Before torch 2.15 probability targets take the plain path, and options only warn.
    chunked = {"options": torch.nn.LinearCrossEntropyOptions()} if _torch_version() >= (2, 15) else {}
    return F.linear_cross_entropy(mixed, weight, targets, linear_bias=bias, **chunked)


def scores_loss(z, target, weight, bias, case, n, drawn=None, m=None) -> Tensor:
    """Scores of the examples once, then mix scores and targets: the same loss, without d in the loop over n."""
    mu = interpolation_weights(z, _drawn(z, case, n, drawn, m), case)
    scores = _head(_by_location(z, case), weight, bias)
    targets = mu @ F.one_hot(target, case.c).to(z.dtype)
    return F.cross_entropy((mu @ scores).flatten(0, 1), targets.flatten(0, 1))


def pairs_loss(z, target, weight, bias, case, n, drawn=None, m=2) -> Tensor:
    """Mixtures of two: gather the scores of each pair, mix, log-softmax, gather at the two labels.

    Drawn are, for each location and row, the first example, the second one, and the first one's share (r, n).
    """
    first, second, share = draw_pairs(case, n, z.dtype, z.device) if drawn is None else drawn
    scores = _head(_by_location(z, case), weight, bias).flatten(0, 1)
    location = torch.arange(case.r, device=z.device).unsqueeze(-1) * case.b
    at_first, at_second = location + first, location + second
    if case.dense and not case.from_scores:
        attention = _attention(z).flatten()
        one, other = share * attention[at_first], (1 - share) * attention[at_second]
        share = one / (one + other)
    share = share.unsqueeze(-1)
    mixed = share * scores[at_first] + (1 - share) * scores[at_second]
    losses = -F.log_softmax(mixed, -1)
    of_first, of_second = (losses.gather(-1, target[of].unsqueeze(-1)) for of in (first, second))
    return (share * of_first + (1 - share) * of_second).mean()


def draw_pairs(case: Case, n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of different examples and the share of the first one, each (r, n)."""
    first = torch.randint(case.b, (case.r, n), device=device)
    second = (first + torch.randint(1, case.b, (case.r, n), device=device)) % case.b
    alpha = _concentrations(case, n, dtype, device)
    return first, second, torch.distributions.Beta(alpha, alpha, validate_args=False).sample().to(dtype)


def missing_reason(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a peer or backend cannot run here; None if it can."""
    if name == "linear-ce" and not hasattr(F, "linear_cross_entropy"):
        return f"torch {torch.__version__} has no linear_cross_entropy"
    if name not in TABLE:
        return None
    if not TABLE[name].accepts(device, dtype):
        return f"does not take {dtype} on {device.type}"
    return mk.available_backends()[name].reason


def all_peers() -> dict[str, Peer]:
    """Every peer by name; our backends last."""
    ours = (
        Peer(name, f"multimix_kernels ({name})", our_loss, _reference_floats if name == "reference" else _no_floats,
             backend=name)
        for name in mk.available_backends()
    )  # fmt: skip
    return {peer.name: peer for peer in (*_PEERS, *ours)}


def default_peers(device: torch.device, dtype: torch.dtype) -> tuple[list[str], list[str]]:
    """Names of the peers that run by default, and of our backends for this device, best first."""
    usable = [name for name in mk.available_backends() if missing_reason(name, device, dtype) is None]
    # The specification is timed only where nothing faster of ours exists.
    ours = [name for name in usable if name != "reference"] or usable
    return [peer.name for peer in _PEERS], ours


def _step(loss: Callable[[], Tensor], problem: Problem) -> Step:
    def forward():
        with torch.no_grad():
            return (loss(),)

    def full():
        value = loss()
        return (value.detach(), *torch.autograd.grad(value, problem.parameters))

    return full if problem.mode == "full" else forward


def _operands(problem: Problem) -> tuple[Tensor, ...]:
    return problem.z, problem.target, problem.weight, problem.bias


def _concentrations(case: Case, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One for each location and row (r, n)."""
    low, high = ALPHA
    # torch draws gammas in float32 or float64 only.
    return torch.rand(case.r, n, device=device, dtype=torch.promote_types(dtype, torch.float32)) * (high - low) + low


def _drawn(z: Tensor, case: Case, n: int, drawn: Tensor | None, m: int | None) -> Tensor:
    return draw(case, n, z.dtype, z.device, m) if drawn is None else drawn


@torch.no_grad()
def _attention(z: Tensor) -> Tensor:
    """Attention (r, b) of feature maps (b, d, *spatial): GAP, ReLU."""
    maps = z.flatten(2)
    attention = torch.einsum("bdr,bd->rb", maps, maps.mean(2)).relu()
    return attention / attention.sum(0)


def _by_location(z: Tensor, case: Case) -> Tensor:
    """What is mixed, as (r, b, d)."""
    return z.flatten(2).permute(2, 0, 1) if case.dense else z.unsqueeze(0)


def _head(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return x if weight is None else F.linear(x, weight, bias)


def _mixed(z, target, case, n, drawn, m) -> tuple[Tensor, Tensor]:
    """Mixed embeddings (r * n, d) and targets (r * n, c)."""
    mu = interpolation_weights(z, _drawn(z, case, n, drawn, m), case)
    targets = mu @ F.one_hot(target, case.c).to(z.dtype)
    return (mu @ _by_location(z, case)).flatten(0, 1), targets.flatten(0, 1)


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


# Floats alive at the peak for each row. Drawing holds concentrations, float64 gammas and the result; the loss and its
# gradient hold weights, what was mixed, and four of targets, logits, log-probabilities and their gradients at a time.
def _paper_floats(case: Case, mode: str) -> int:
    kept = (2 if case.dense else 1) * case.b + case.d
    backward = kept + case.d + case.c if mode == "full" else 0
    return max(_draw_floats(case), kept + 4 * case.c, backward)


def _scores_floats(case: Case, mode: str) -> int:
    return max(_draw_floats(case), (2 if case.dense else 1) * case.b + 4 * case.c)


def _draw_floats(case: Case) -> int:
    return (5 if case.dense else 4) * case.b  # of subsets: keys, and weights twice while they are scattered


def _reference_floats(case: Case, mode: str) -> int:
    return 2 * (25 * case.b + case.d + 4 * case.c)


def _pairs_floats(case: Case, mode: str) -> int:
    return 16 + (6 if mode == "full" else 4) * case.c  # two gathered rows, mixed, log-probabilities, gradients


def _has_head(case: Case, m: int | None) -> bool:
    """From scores the paper's order is that of `scores`."""
    return not case.from_scores


def _is_pairs(case: Case, m: int | None) -> bool:
    return m == 2


def _no_floats(case: Case, mode: str) -> int:
    return 0


_PEERS = (
    Peer("paper", "paper's order", paper_loss, _paper_floats, _has_head),
    Peer("paper-compiled", "paper's order, torch.compile", paper_loss, _paper_floats, _has_head, compiled=True),
    Peer("linear-ce", "paper's order, linear_cross_entropy", linear_ce_loss, _paper_floats, _has_head),
    Peer("scores", "mixed scores", scores_loss, _scores_floats),
    Peer("scores-compiled", "mixed scores, torch.compile", scores_loss, _scores_floats, compiled=True),
    Peer("scores-presampled", "mixed scores, weights given", scores_loss, _scores_floats, presampled=True),
    Peer("pairs", "gathered pairs (m = 2)", pairs_loss, _pairs_floats, _is_pairs),
    Peer("pairs-compiled", "gathered pairs, torch.compile", pairs_loss, _pairs_floats, _is_pairs, compiled=True),
)
