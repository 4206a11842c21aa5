"""Timing that can be trusted: medians and quartiles of repetitions that are interleaved, as no library does.

On a CPU: a monotonic clock. On a GPU: events around each repetition, the L2 cache overwritten before it, and for small
steps a CUDA graph, so that the time is the GPU's and not the interpreter's.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

GRAPH_BELOW_SECONDS = 2e-3
SLOW_SECONDS = 1.0  # such a step is warm after one call, and three repetitions are enough


@dataclass
class Timing:
    """Repetitions of one step, in seconds."""

    seconds: list[float] = field(default_factory=list)
    graph: bool = False  # replayed from a CUDA graph
    error: str | None = None  # why it stopped, if it did

    @property
    def median(self) -> float:
        """Median repetition."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Budget:
    """How often to repeat: between the limits, until the seconds of one step's repetitions are spent."""

    seconds: float = 2.0
    least: int = 5
    most: int = 50


def describe_error(error: BaseException) -> str:
    """What a row says of an error: out of memory, or its first line."""
    text = str(error).strip()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out of memory"
    first = text.splitlines()[0] if text else ""
    return f"failed: {type(error).__name__}: {first}"[:200]


def too_slow(seconds: float) -> str:
    """What a row says of a step that was not tried."""
    return f"too slow (est. {seconds:.0f} s)"


def measure(
    steps: Mapping[str, Callable[[], object]],
    budget: Budget,
    device: torch.device,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Timing]:
    """Times of every step, interleaved: A B C A B C, so that a change of clock or load meets all of them.

    A step that raises is dropped, and its Timing says why. Warm-up (compilation too) is not counted.
    """
    timings = {name: Timing() for name in steps}
    clock = _cuda_clock(device) if device.type == "cuda" else _cpu_clock
    running = {}
    for name, step in steps.items():
        progress(name)
        try:
            running[name], timings[name].graph = _warm_up(step, device)
        except Exception as error:  # any failure of a peer is its row's answer
            timings[name].error = describe_error(error)
    while running:
        for name in list(running):
            timing = timings[name]
            progress(name)
            try:
                timing.seconds.append(clock(running[name]))
            except Exception as error:
                timing.error = describe_error(error)
                del running[name]
                continue
            spent, count = sum(timing.seconds), len(timing.seconds)
            least = min(budget.least, 3) if spent > count * SLOW_SECONDS else budget.least
            if count >= budget.most or (count >= least and spent >= budget.seconds):
                del running[name]
    return timings


def once(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of a warm step, roughly. What the step raises is raised."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _warm_up(step: Callable[[], object], device: torch.device) -> tuple[Callable[[], object], bool]:
    """What to time, warm, and whether it is a CUDA graph."""
    start = time.perf_counter()
    step()
    if device.type != "cuda":
        if time.perf_counter() - start < SLOW_SECONDS:
            step()
        return step, False
    if once(step, device) > GRAPH_BELOW_SECONDS:
        return step, False
    try:
        return _graph(step, device), True
    except Exception:  # a step that cannot be captured is timed as it is, and its row says so
        torch.cuda.synchronize(device)
        return step, False


def _graph(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The step as one CUDA graph."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()

    def replay():
        graph.replay()
        return kept  # the graph writes into these tensors: they must live as long as it does

    replay()
    torch.cuda.synchronize(device)
    return replay


def _cpu_clock(step: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - start) * 1e-9


def _cuda_clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(max(size, 2**22), dtype=torch.uint8, device=device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def clock(step):
        flush.zero_()
        start.record()
        step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    return clock


def peak_cuda_bytes(step: Callable[[], tuple], device: torch.device) -> int:
    """Peak of the allocator during a step, beyond what was allocated before and what the step returns."""
    step()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    results = step()
    torch.cuda.synchronize(device)
    kept = sum(x.numel() * x.element_size() for x in results)
    return max(0, torch.cuda.max_memory_allocated(device) - before - kept)
