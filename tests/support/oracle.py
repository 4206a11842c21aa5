"""The losses from given weights, in plain differentiable PyTorch, in the dtype of the input.

In float64 this is the truth; in any other dtype it is the plain PyTorch evaluation that the truth judges too.
Shapes are the public ones: input (b, d, *spatial), weights lam (n, b, *spatial), attention (b, *spatial).
"""

import torch
from torch import Tensor


def flat(x: Tensor) -> Tensor:
    """(x, y, *spatial) -> (x, y, r)."""
    return x.reshape(x.shape[0], x.shape[1], -1)


def probabilities(target: Tensor, c: int, smoothing: float, ignore_index: int, dtype: torch.dtype) -> Tensor:
    """Targets (b, c): an ignored example has none."""
    if target.is_floating_point():
        return (1 - smoothing) * target.to(dtype) + smoothing / c
    y = torch.zeros(len(target), c, dtype=dtype, device=target.device)
    for i, label in enumerate(target.tolist()):
        if label != ignore_index:
            y[i] = smoothing / c
            y[i, label] += 1 - smoothing
    return y


def attention(z: Tensor, kind: str, activation: str, weight: Tensor | None, target: Tensor | None) -> Tensor:
    """a (b, *spatial), one example at a time."""
    maps = []
    for i, example in enumerate(flat(z)):  # (d, r)
        r = example.shape[1]
        if kind == "uniform":
            maps.append(torch.full_like(example[0], 1 / r))
            continue
        if kind == "gap":
            u = example.sum(1) / r
        elif target.is_floating_point():
            u = sum(target[i, j].to(weight.dtype) * weight[j] for j in range(len(weight)))
        else:
            u = weight[target[i]] if 0 <= target[i] < len(weight) else weight[0]
        score = (example * u.unsqueeze(1)).sum(0)
        h = score.clamp(min=0) if activation == "relu" else (score - score.max()).exp()
        maps.append(h / h.sum() if h.sum() > 0 else torch.zeros_like(h))
    return torch.stack(maps).reshape(z.shape[0], *z.shape[2:])


def attended(lam: Tensor, a: Tensor | None) -> Tensor:
    """mu = a lambda, normalised over examples; lambda itself where that is all zero."""
    if a is None:
        return lam
    product = lam * a
    total = product.sum(1, keepdim=True)
    dead = total == 0
    return torch.where(dead, lam, product / torch.where(dead, 1, total))


def mixed(mu: Tensor, x: Tensor) -> Tensor:
    """(n, b, *spatial), (b, k, *spatial) -> (n, k, *spatial)."""
    spatial = mu.shape[2:]
    return torch.einsum("nbr,bkr->nkr", flat(mu), flat(x)).reshape(len(mu), x.shape[1], *spatial)


def cross_entropy(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """H(y, softmax(logits)); both (n, c, *spatial)."""
    rows = -(y * torch.log_softmax(logits, 1)).sum(1)
    return {"none": lambda: rows, "sum": rows.sum, "mean": rows.mean}[reduction]()


def per_location(y: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """(b, c) -> (b, c, *spatial): the same target everywhere."""
    return y.reshape(*y.shape, *(1,) * len(spatial)).expand(*y.shape, *spatial)


def linear_loss(input, weight, bias, y, mu, reduction="mean") -> Tensor:
    """The loss in the order of the paper: mix embeddings, then classify."""
    z = mixed(flat(mu), flat(input))
    logits = torch.nn.functional.linear(z.transpose(1, 2), weight.flatten(1), bias).transpose(1, 2)
    rows = logits.reshape(len(mu), -1, *mu.shape[2:])
    return cross_entropy(rows, mixed(mu, per_location(y, mu.shape[2:])), reduction)


def score_loss(scores, y, mu, reduction="mean") -> Tensor:
    """The loss of scores (b, c, *spatial)."""
    return cross_entropy(mixed(mu, scores), mixed(mu, per_location(y, mu.shape[2:])), reduction)
