"""The device that a verdict is about: its name, and what a check needs of it.

All that knows CUDA is here. The tests put another `Device`, whose tensors are on the CPU, in the place of `find`.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter

import torch
from torch import Tensor

from .. import native

Run = Callable[[], Sequence[Tensor]]


class Device:
    """A GPU by its index in torch."""

    simulated = False  # whether every thread is simulated: small sizes then
    least_memory = 1 << 30  # bytes that a check needs
    version_file = f"/sys/module/{'amdgpu' if torch.version.hip else 'nvidia'}/version"  # of the kernel module

    def __init__(self, index: int) -> None:
        self.index = index
        self.torch_device = torch.device("cuda", index)

    @property
    def name(self) -> str:
        """As torch has it."""
        return torch.cuda.get_device_name(self.index)

    @property
    def capability(self) -> str:
        """Of NVIDIA's GPUs the compute capability, of AMD's the architecture."""
        if torch.version.hip:
            return torch.cuda.get_device_properties(self.index).gcnArchName
        return ".".join(map(str, torch.cuda.get_device_capability(self.index)))

    @property
    def driver(self) -> str:
        """The kernel module's version, or the newest CUDA that it can run."""
        try:
            file = os.open(self.version_file, os.O_RDONLY)
        except OSError:
            newest = native.driver_version()
            return f"for CUDA {newest[0]}.{newest[1]}" if newest else "unknown"
        try:
            return os.read(file, 100).decode().strip()
        finally:
            os.close(file)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The precisions of operands that differ here."""
        return ("float32", "bfloat16", "float16") if torch.version.hip else ("float32", "tf32", "bfloat16", "float16")

    def free_memory(self) -> int:
        """Bytes."""
        return torch.cuda.mem_get_info(self.index)[0]

    def synchronise(self) -> None:
        """Waits for the device, and raises what its kernels raised."""
        torch.cuda.synchronize(self.index)

    def on_streams(self, runs: Sequence[Run]) -> list[Sequence[Tensor]] | None:
        """The results of runs at once, each on a stream of its own; None if the device has one only."""
        streams = [torch.cuda.Stream(self.index) for _ in runs]
        self.synchronise()
        results = []
        for stream, run in zip(streams, runs, strict=True):
            with torch.cuda.stream(stream):
                results.append(run())
        self.synchronise()
        return results

    def captured(self, run: Run) -> tuple[Callable[[], None], Sequence[Tensor]] | None:
        """A replay of a run recorded in a graph, and the results that it fills; None if the device has no graphs."""
        side = torch.cuda.Stream(self.index)
        side.wait_stream(torch.cuda.current_stream(self.index))
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream(self.index).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = run()
        return graph.replay, results

    def active(self) -> AbstractContextManager:
        """Makes it the current device."""
        return torch.cuda.device(self.index)

    def seconds(self, run: Callable[[], object], repeats: int = 7) -> float:
        """The median time of a run, after two that are not counted."""
        for _ in range(2):
            run()
        found = []
        for _ in range(repeats):
            self.synchronise()
            start = perf_counter()
            run()
            self.synchronise()
            found.append(perf_counter() - start)
        return sorted(found)[repeats // 2]


def find(device_type: str, index: int | None) -> Device | None:
    """The device that tensors of this type and index are on, if backends have to be verified there."""
    if device_type != "cuda" or not torch.cuda.is_available():
        return None
    return Device(torch.cuda.current_device() if index is None else index)
