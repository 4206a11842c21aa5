"""How large the terms are that a loss and its gradients are sums of: what their rounding is relative to.

Where terms cancel, the result is smaller than its rounding, and plain PyTorch may be exact by luck: the rule of
`bounds`, relative to the largest element, asks too much of a single small example. Here the same sums are taken of the
terms' absolute values, in float64.
"""

import torch
from torch import Tensor

from . import oracle
from .cases import IGNORE, Problem, upstream_of


def _scores(problem: Problem, operands: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores (b, c, r), and the sums of their absolute terms."""
    if "scores" in operands:
        s = oracle.flat(operands["scores"])
        return s, s.abs()
    z, w = oracle.flat(operands["input"]), operands["weight"]
    bias = operands.get("bias", w.new_zeros(problem.c))[:, None]
    return torch.einsum("bdr,cd->bcr", z, w) + bias, torch.einsum("bdr,cd->bcr", z.abs(), w.abs()) + bias.abs()


def sizes(problem: Problem, operands: dict[str, Tensor], lam: Tensor, attention: Tensor | None) -> dict[str, float]:
    """The largest sum of absolute terms of the loss and of each operand's gradient."""
    operands = {name: x.detach().double() for name, x in operands.items()}
    s, size_s = _scores(problem, operands)
    lam = oracle.flat(lam.unsqueeze(1)).squeeze(1) if lam.dim() == 2 else lam.reshape(*lam.shape[:2], -1)
    lam = lam.reshape(problem.n, problem.b, -1)
    a = None if attention is None else attention.detach().double().reshape(problem.b, -1)
    mu = oracle.attended(lam, a)
    y = oracle.probabilities(problem.target(), problem.c, problem.smoothing, IGNORE, torch.float64)
    y = y[:, :, None].expand_as(s)
    mixed = oracle.mixed(mu, y)
    log_q = oracle.mixed(mu, s).log_softmax(1)
    size_l = oracle.mixed(mu, size_s)
    delta = mixed + log_q.exp() * (1 + size_l)  # of d row / d logits, with the rounding of the logits
    rows = (-mixed * log_q).sum(1) + (delta * size_l).sum(1)
    g = torch.ones_like(rows)
    if problem.reduction == "mean":
        g = g / g.numel()
    g = g * upstream_of(torch.ones(())).item() if problem.reduction != "none" else 1.5 * g
    loss = rows.max() if problem.reduction == "none" else (rows.mean() if problem.reduction == "mean" else rows.sum())
    of_scores = torch.einsum("nr,nbr,ncr->bcr", g, mu, delta)
    found = {"loss": loss, "scores": of_scores}
    if "weight" in operands:
        z = oracle.flat(operands["input"])
        found |= {
            "input": torch.einsum("bcr,cd->bdr", of_scores, operands["weight"].abs()),
            "weight": torch.einsum("bcr,bdr->cd", of_scores, z.abs()),
            "bias": of_scores.sum((0, 2)),
        }
    if a is not None:
        sigma = (lam * a).sum(1, keepdim=True)
        share = torch.where(sigma > 0, lam / torch.where(sigma > 0, sigma, 1), 0)
        term = torch.einsum("ncr,bcr->nbr", delta, size_s) + torch.einsum("ncr,bcr->nbr", -log_q, y)
        found["attention"] = (g[:, None] * share * (term + (mu * term).sum(1, keepdim=True))).sum(0)
    return {name: x.max().item() for name, x in found.items()}
