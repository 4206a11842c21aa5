"""What a mixing step costs in time and memory: plain PyTorch in the order of the paper, and this library."""

from collections.abc import Callable, Sequence

import torch

from ..cases import CASES, make_problem
from ..speed.memory import measure_point
from ..speed.peers import all_peers
from ..speed.timing import Budget, measure
from ..system import available_bytes
from .results import Cost, backend_name
from .settings import Settings

CASE = CASES["cifar10-r18"]  # ten classes and 128 examples, as the demonstration has them
PAPER = "paper"
BUDGET = Budget(0.5, 3, 20)
LIMIT = 60.0  # seconds of one process


def measure_costs(
    settings: Settings, sizes: Sequence[int], progress: Callable[[str], object] = lambda text: None
) -> list[Cost]:
    """Costs at several n; those that cannot be had are left out. Memory is seen from a process of its own."""
    device, peers, found = torch.device(settings.device), all_peers(), []
    names = (PAPER, backend_name(settings))
    for n in sizes:
        problem = make_problem(CASE, n, "full", torch.float32, device)
        fitting = [name for name in names if peers[name].bytes(problem) <= available_bytes(device)]
        progress(f"time and memory of a step, n {n:,}")
        times = measure({name: peers[name].prepare(problem) for name in fitting}, BUDGET, device)
        for name, timing in times.items():
            row = measure_point(CASE, n, "full", "float32", settings.device, name, torch.get_num_threads(), LIMIT)
            if timing.error is None and row["status"] == "ok":
                found.append(Cost(name, n, timing.median, row["peak_bytes"]))
    return found
