"""What the mixing step of the study costs: on each backend, and in plain PyTorch in the order of the paper."""

import torch

from ..cases import Case, make_problem
from ..demo.models import RESIDUAL
from ..demo.results import Cost
from ..speed.peers import all_peers, missing_reason
from ..speed.timing import Budget, measure

CASE = Case("dense-7x7", "dense, 7x7: the study's network", 128, RESIDUAL[-1], 10, (7, 7))
BUDGET = Budget(1.0, 3, 30)
BACKENDS = ("reference", "cpu", "triton", "cuda")
M = 2


def costs(n: int, device: str) -> list[Cost]:
    """Seconds of one step, forward and backward from feature maps, with n mixtures over all locations; m = 2 and b."""
    found, peers = [], all_peers()
    where = torch.device(device)
    names = [name for name in ("paper", *BACKENDS) if missing_reason(name, where, torch.float32) is None]
    for m in (M, None):
        problem = make_problem(CASE, max(1, n // CASE.r), "full", torch.float32, where, m)
        timings = measure({name: peers[name].prepare(problem) for name in names}, BUDGET, where)
        for name, timing in timings.items():
            if timing.error is None:
                found.append(Cost(f"{name}, m = {m or CASE.b}", n, timing.median, 0))
    return found
