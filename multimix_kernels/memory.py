"""A clear error where there is no memory for a large result."""

from collections.abc import Sequence

import torch

LARGE = 1 << 26  # bytes; what is smaller is not asked for twice


def reserve(what: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """Asks for the memory of a large result before its operator does, and gives it back at once.

    An allocator's error loses its type and its words on its way out of a compiled library.

    Raises:
        torch.OutOfMemoryError on a GPU, RuntimeError on the CPU, as torch does: what, its shape, and its bytes.
    """
    if torch.compiler.is_compiling():
        return
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < LARGE:
        return
    try:
        torch.empty(tuple(shape), dtype=dtype, device=device)
    except RuntimeError as error:
        text = f"{what}: no memory for {tuple(shape)} {dtype}, {size:,} bytes ({size / 2**30:,.1f} GiB), on {device}"
        raise type(error)(text) from error
