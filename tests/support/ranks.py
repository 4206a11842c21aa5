"""Runs a function on several processes of a gloo group; a hang is a failure after a time limit."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT = 120  # seconds for all processes together, far beyond what they need


def _work(rank: int, function: Callable, size: int, folder: Path, arguments: tuple) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=LIMIT))
    try:
        torch.save(function(rank, size, *arguments), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run(function: Callable, size: int, folder: Path, *arguments) -> list:
    """What function(rank, size, *arguments) returns on each rank."""
    context = mp.spawn(_work, (function, size, folder, arguments), nprocs=size, join=False)
    try:
        end = time.monotonic() + LIMIT
        while not context.join(max(1, end - time.monotonic()), grace_period=5):  # returns when one process ends
            assert time.monotonic() < end, f"the {size} processes did not end within {LIMIT} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def refusal(call: Callable) -> str:
    """The name and text of the error that a call raises; empty if none."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
