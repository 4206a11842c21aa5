"""Processes that train beside each other, each on its share of the threads: small networks gain little from several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

_shared: list[Any] = []  # in a worker: what all tasks are given


def each(function: Callable, shared: Any, tasks: Sequence[tuple], workers: int) -> Iterator[tuple[tuple, Any]]:
    """Each task with function(shared, *task), as they end; with one worker in this process, in order, when asked for.

    Leaving early, by Ctrl-C too, ends the workers.
    """
    if workers == 1:
        for task in tasks:
            yield task, function(shared, *task)
        return
    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")  # a fork would take OpenMP's threads for alive
    pool = ProcessPoolExecutor(workers, context, _begin, (shared, threads))
    try:
        running = {pool.submit(_run, function, task): task for task in tasks}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _begin(shared: Any, threads: int) -> None:
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    torch.set_num_threads(threads)
    _shared[:] = [shared]


def _end_with_the_first() -> None:
    """However the first process ends: what waits in the queue would go on for long."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _run(function: Callable, task: tuple) -> Any:
    return function(_shared[0], *task)
