"""What every backend agrees on: the operators' arguments and schemas, the reductions, and the dtype of sums.

A backend's functions take the records below; in the schemas, which torch.library needs flat, a record's fields stand in
its place. `flat` packs a call's arguments, `records` unpacks them: nothing else knows the order.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

NONE, MEAN, SUM = range(3)  # the reductions, as the operators take them
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


class Draw(NamedTuple):
    """What names a draw of weights; the last argument of every operator."""

    seed: Tensor  # int64 (1,), the 64-bit key
    alpha: Tensor | None  # concentrations (b,), or None: alpha ~ Uniform[low, high] for each row
    n: int  # rows per location
    m: int  # examples in each row
    low: float  # these two, in a graph perhaps a Tensor () until the operator is called; see `scheduled`
    high: float
    row_offset: int  # rows row_offset ... row_offset + n - 1 of the stream


class LossOptions(NamedTuple):
    """How targets are read and row losses are reduced."""

    label_smoothing: float  # in a graph perhaps a Tensor () until the operator is called; see `scheduled`
    ignore_index: int
    reduction: int = NONE  # a backward operator is given d loss / d rows, whatever the reduction was


class Want(NamedTuple):
    """Which gradients an operator computes."""

    operand: bool
    attention: bool


_FIELDS: dict[type, tuple[str, ...]] = {
    Draw: (
        "Tensor seed", "Tensor? alpha", "SymInt n", "SymInt m", "float low", "float high", "SymInt row_offset",
    ),
    LossOptions: ("float label_smoothing", "int ignore_index", "int reduction"),
    Want: ("bool want_operand", "bool want_attention"),
}  # fmt: skip


class _Row(NamedTuple):
    """An operator's arguments, where a record stands for its fields, and its results."""

    arguments: tuple[str | type, ...]
    results: str
    left_out: tuple[str, ...] = ()  # fields of records that the operator does not take

    def fields(self, record: type) -> list[str]:
        return [field for field in _FIELDS[record] if field not in self.left_out]

    @property
    def schema(self) -> str:
        declared = [
            field
            for argument in self.arguments
            for field in ((argument,) if isinstance(argument, str) else self.fields(argument))
        ]
        return f"({', '.join(declared)}) -> {self.results}"


_DRAWN = ("Tensor? attention", "Tensor? ignored", Draw)
_ROWS = {
    "sample": _Row(("SymInt b", "SymInt r", "ScalarType dtype", *_DRAWN), "Tensor"),
    "mix": _Row(("Tensor values", *_DRAWN), "Tensor"),
    "mix_backward": _Row(("Tensor grad", "Tensor values", Want, *_DRAWN), "(Tensor, Tensor)"),
}
for _loss in ("mixed_cross_entropy", "soft_cross_entropy"):
    _operands = ("Tensor operand", "Tensor target", LossOptions, Want, *_DRAWN)
    _ROWS[_loss] = _Row(_operands, "(Tensor, Tensor, Tensor)")
    _ROWS[f"{_loss}_backward"] = _Row(("Tensor grad_rows", *_operands), "(Tensor, Tensor)", ("int reduction",))

SCHEMAS = {name: row.schema for name, row in _ROWS.items()}
# How many fields of each argument an operator takes; 0: it is no record.
_COUNTS = {
    name: tuple(0 if isinstance(declared, str) else len(row.fields(declared)) for declared in row.arguments)
    for name, row in _ROWS.items()
}


def _places(name: str) -> Iterator[tuple[type | None, Any]]:
    """For each argument of an operator its record and the slice of its fields, or None and its place."""
    first = 0
    for declared, count in zip(_ROWS[name].arguments, _COUNTS[name], strict=True):
        yield (None, first) if isinstance(declared, str) else (declared, slice(first, first + count))
        first += count or 1


_PLACES = {name: tuple(_places(name)) for name in _ROWS}


def flat(name: str, arguments: Sequence) -> list:
    """The arguments of an operator as its schema has them."""
    packed: list = []
    for count, argument in zip(_COUNTS[name], arguments, strict=True):
        if count:
            packed.extend(argument[:count])
        else:
            packed.append(argument)
    return packed


def records(name: str, arguments: Sequence) -> list:
    """The arguments of an operator as a backend's function takes them."""
    places = _PLACES[name]
    return [arguments[place] if record is None else record(*arguments[place]) for record, place in places]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of accumulations, losses and saved gradients."""
    return torch.float64 if dtype == torch.float64 else torch.float32
