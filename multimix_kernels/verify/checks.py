"""Checks one operator of one backend at one precision: case by case, and why the first that fails does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from .. import ops
from ..backends.verdicts.device import Device
from ..backends.verdicts.plan import DTYPES, Part
from . import weights
from .cases import Case, arguments, cases
from .expected import Expected, expected, expected_of_weights
from .guard import Guard

Run = Callable[[], tuple[Tensor, ...]]


@contextmanager
def precision(kind: str) -> Iterator[None]:
    """PyTorch's setting of float32 products."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def check(device: Device, part: Part, thorough: bool, begin: Callable[[str], None]) -> tuple[int, str | None, dict]:
    """How many cases were checked, why the last one failed, and what else is worth a word.

    begin is told of each case before it runs. Raises what the operator raises.
    """
    with precision(part.kind), device.active():
        if part.operator == "sample":
            return _check_weights(device, part, thorough, begin)
        found = cases(part.operator, thorough)
        for number, case in enumerate(found, 1):
            if device.simulated and case.own_weights:
                case = replace(case, b=40, n=140)
            begin(case.name)
            why = _check_case(device, part, case, first=number == 1)
            if why is not None:
                return number, f"{case.name}: {why}", {}
        return len(found), None, {}


def _check_weights(device: Device, part: Part, thorough: bool, begin) -> tuple[int, str | None, dict]:
    flips = elements = 0
    begin("known answers")
    why = weights.philox_is_wrong(device.torch_device) or weights.known_is_wrong(
        part.backend, part.kind, device.torch_device
    )
    if why is not None:
        return 1, f"known answers: {why}", {}
    drawn = weights.draws(device.simulated, thorough)
    for number, draw in enumerate(drawn, 2):
        begin(draw.name)
        call = draw.arguments(DTYPES[part.kind], device.torch_device)
        found, why = _run_twice(device, part, call, first=number == 2)
        if why is None:
            why, count = weights.compare(found[0], draw)
            flips, elements = flips + count, elements + found[0].numel()
        if why is not None:
            return number, f"{draw.name}: {why}", {}
    return 1 + len(drawn), None, {"flipped_rows": flips, "weights": elements}


def _check_case(device: Device, part: Part, case: Case, first: bool) -> str | None:
    call = arguments(part.operator, case, part.kind, device.torch_device)
    found, why = _run_twice(device, part, call, first)
    if why is not None:
        return why
    if case.own_weights:
        right = expected_of_weights(part.operator, case, part.kind, part.backend, device.torch_device)
    else:
        right = expected(part.operator, case, part.kind)
    return _compare([x for x in found if x.numel()], right)


def _compare(found: list[Tensor], right: list[Expected]) -> str | None:
    for number, (x, y) in enumerate(zip(found, right, strict=True)):
        if x.shape != y.value.shape:
            return f"output {number} has shape {tuple(x.shape)}, expected {tuple(y.value.shape)}"
        difference = x.cpu().double() - y.value
        if difference.isnan().any():
            return f"output {number} has NaN in {int(difference.isnan().sum())} of {x.numel()} elements"
        error = difference.abs().max().item()
        if error > y.allowed:
            return f"output {number} has error {error:.3g}, allowed {y.allowed:.3g}"
    return None


def _run_twice(device: Device, part: Part, call: list, first: bool) -> tuple[tuple[Tensor, ...], str | None]:
    """The results, and what is wrong with how they came about; the first case also tries streams and a graph."""

    def run() -> tuple[Tensor, ...]:
        found = ops.call(part.backend, part.operator, *call)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    before = [x.clone() for x in call if isinstance(x, Tensor)]
    guard = Guard()
    with guard:
        found = run()
    device.synchronise()
    if not guard.intact():
        return found, "it wrote beyond the memory that it allocated"
    if not _same(before, [x for x in call if isinstance(x, Tensor)]):
        return found, "it changed its operands"
    if not _same(found, run()):
        return found, "a second run gave other bits"
    return found, _with_streams_and_graph(device, run, found, call[-1].seed) if first else None


def _with_streams_and_graph(device: Device, run: Run, found: tuple[Tensor, ...], seed: Tensor) -> str | None:
    results = device.on_streams([run, run])
    if results is not None and not all(_same(x, found) for x in results):
        return "on two streams at once it gave other bits"
    recorded = device.captured(run)
    if recorded is None:
        return None
    replay, outputs = recorded
    for value in (7, int(seed)):
        seed.fill_(value)
        replay()
        device.synchronise()
        if not _same(outputs, run()):
            return f"a graph that was captured and replayed with seed {value} gave other bits"
    return None


def _same(some, others) -> bool:
    """Equal bits, NaN among them."""
    return all(torch.equal(_bits(x), _bits(y)) for x, y in zip(some, others, strict=True))


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8) if x.dim() else x.reshape(1).view(torch.uint8)
