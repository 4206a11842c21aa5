"""The peers: the same loss by other means, and our backends by name.

Each peer is split into the draw of its weights and the loss for given weights, so that the loss can be checked apart.
Weights are (r, n, b), with r = 1 location when not dense.
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
        weights = draw(problem.case, problem.n, problem.z.dtype, problem.device) if self.presampled else None
        function = torch.compile(self.loss, dynamic=False) if self.compiled else self.loss
        return _step(lambda: function(*_operands(problem), problem.case, problem.n, weights), problem)

    def bytes(self, problem: Problem) -> int:
        """Estimated size of the buffers that grow with n."""
        rows = problem.n * problem.case.r
        # Weights are drawn in float32 at least.
        return self.floats(problem.case, problem.mode) * rows * max(4, problem.z.element_size())


def draw(case: Case, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Dirichlet weights (r, n, b) as a PyTorch user draws them, with one concentration for each row."""
    low, high = ALPHA
    # torch draws gammas in float32 or float64 only.
    alpha = torch.rand(case.r, n, 1, device=device, dtype=torch.promote_types(dtype, torch.float32))
    alpha = alpha * (high - low) + low
    return torch.distributions.Dirichlet(alpha.expand(-1, -1, case.b), validate_args=False).sample().to(dtype)


def interpolation_weights(z: Tensor, drawn: Tensor) -> Tensor:
    """Weights as drawn, or if z is dense (b, d, *spatial) times attention (GAP, ReLU) and normalised."""
    if z.dim() == 2:
        return drawn
    with torch.no_grad():
        maps = z.flatten(2)
        attention = torch.einsum("bdr,bd->br", maps, maps.mean(2)).relu()
        attention = attention / attention.sum(1, keepdim=True)
        weighted = drawn * attention.T.unsqueeze(1)
        return weighted / weighted.sum(-1, keepdim=True)


def paper_loss(z, target, weight, bias, case, n, drawn=None) -> Tensor:
    """The order of the paper: mix embeddings and targets, apply the classifier, soft-target cross-entropy."""
    mixed, targets = _mixed(z, target, weight, case, n, drawn)
    return F.cross_entropy(F.linear(mixed, weight, bias), targets)


def linear_ce_loss(z, target, weight, bias, case, n, drawn=None) -> Tensor:
    """Like `paper_loss`, with torch.nn.functional.linear_cross_entropy."""
    mixed, targets = _mixed(z, target, weight, case, n, drawn)
    # Before torch 2.15 probability targets take the plain path, and options only warn.
    chunked = {"options": torch.nn.LinearCrossEntropyOptions()} if _torch_version() >= (2, 15) else {}
    return F.linear_cross_entropy(mixed, weight, targets, linear_bias=bias, **chunked)


def scores_loss(z, target, weight, bias, case, n, drawn=None) -> Tensor:
    """Scores of the examples once, then mix scores and targets: the same loss, without d in the loop over n."""
    mu = interpolation_weights(z, _drawn(z, case, n, drawn))
    scores = F.linear(z.flatten(2).permute(2, 0, 1) if case.dense else z.unsqueeze(0), weight, bias)
    targets = mu @ F.one_hot(target, case.c).to(z.dtype)
    return F.cross_entropy((mu @ scores).flatten(0, 1), targets.flatten(0, 1))


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


def _drawn(z: Tensor, case: Case, n: int, drawn: Tensor | None) -> Tensor:
    return draw(case, n, z.dtype, z.device) if drawn is None else drawn


def _mixed(z, target, weight, case, n, drawn) -> tuple[Tensor, Tensor]:
    """Mixed embeddings (r * n, d) and targets (r * n, c)."""
    mu = interpolation_weights(z, _drawn(z, case, n, drawn))
    values = z.flatten(2).permute(2, 0, 1) if case.dense else z.unsqueeze(0)
    targets = mu @ F.one_hot(target, case.c).to(z.dtype)
    return (mu @ values).flatten(0, 1), targets.flatten(0, 1)


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
    return (5 if case.dense else 4) * case.b


def _reference_floats(case: Case, mode: str) -> int:
    return 2 * (25 * case.b + case.d + 4 * case.c)


def _no_floats(case: Case, mode: str) -> int:
    return 0


_PEERS = (
    Peer("paper", "paper's order", paper_loss, _paper_floats),
    Peer("paper-compiled", "paper's order, torch.compile", paper_loss, _paper_floats, compiled=True),
    Peer("linear-ce", "paper's order, linear_cross_entropy", linear_ce_loss, _paper_floats),
    Peer("scores", "mixed scores", scores_loss, _scores_floats),
    Peer("scores-compiled", "mixed scores, torch.compile", scores_loss, _scores_floats, compiled=True),
    Peer("scores-presampled", "mixed scores, weights given", scores_loss, _scores_floats, presampled=True),
)
