"""Checks of the public functions' arguments. Every error names the argument, what was wrong, and what is accepted.

Values inside tensors are read on the CPU only: on a GPU that would stall the stream, and there a label out of range
makes the loss NaN. In a compiled graph nothing is read; the operators of the CPU check again. On device "meta", where
tensors have no values, shapes are propagated.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .backends import LOW, TABLE
from .backends.contract import REDUCTIONS, Draw
from .backends.scheduled import ALPHA_MAX, ALPHA_MIN, ROUNDING, within
from .scalars import as_integer, as_number, is_number, readable

MAX_LOCATIONS = 1 << 24  # the location has 24 bits of a counter word of the weight stream
DTYPES = (*LOW, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # of class indices
RANK = 0x9E3779B97F4A7C15  # odd, so that the seeds of all ranks differ


def check_tensor(x, name: str, expected: str) -> None:
    """A Tensor whose elements are stored one by one, in memory of its own shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected {expected}, got {type(x).__name__}")
    if x.is_nested or x.layout != torch.strided:
        kind = "a nested Tensor" if x.is_nested else f"a Tensor of layout {x.layout}"
        raise TypeError(f"{name}: expected {expected} that is dense (torch.strided), got {kind}")
    # Looked for by name: importing torch.distributed.tensor takes longer than all of this package.
    if type(x).__name__ == "DTensor":
        raise TypeError(
            f"{name}: expected {expected} of this rank, got a DTensor; pass its to_local() or full_tensor()"
        )


def check_input(x: Tensor, name: str, *, dense: bool) -> None:
    """A floating-point tensor (b, d), or (b, d, *spatial) if dense, with no empty dimension."""
    expected = "(b, d, *spatial)" if dense else "(b, d)"
    check_tensor(x, name, f"a Tensor {expected}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, bfloat16, float16 or float64, got {x.dtype}")
    if x.dim() < 2 or (x.dim() > 2 and not dense):
        hint = "; dense inputs go to dense_multimix_cross_entropy" if x.dim() > 2 else ""
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(x.shape)}{hint}")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected no empty dimension, got shape {tuple(x.shape)}")
    if x.dim() > 2 and x.shape[2:].numel() > MAX_LOCATIONS:
        raise ValueError(f"{name}: at most {MAX_LOCATIONS} spatial locations, got {x.shape[2:].numel()}")


def check_spatial(spatial: Sequence[int]) -> tuple[int, ...]:
    """A tuple of positive ints."""
    if not isinstance(spatial, (tuple, list)):
        raise TypeError(f"spatial: expected a tuple of ints, got {spatial!r}")
    spatial = tuple(as_integer(size, "spatial", "a tuple of ints") for size in spatial)
    if any(size < 1 for size in spatial) or torch.Size(spatial).numel() > MAX_LOCATIONS:
        raise ValueError(f"spatial: expected positive sizes, {MAX_LOCATIONS} locations at most, got {spatial}")
    return spatial


def check_classifier(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """The weight as (c, d): that of a linear layer, or of a convolution with kernel size 1."""
    check_tensor(weight, "weight", "a Tensor (c, d)")
    shape = weight.shape
    if len(shape) < 2 or (len(shape) > 2 and any(size != 1 for size in shape[2:])) or shape[0] == 0:
        raise ValueError(f"weight: expected shape (c, d), or (c, d, 1, ...), got {tuple(shape)}")
    if shape[1] != x.shape[1]:
        raise ValueError(f"weight: expected {x.shape[1]} columns to match input {tuple(x.shape)}, got {shape[1]}")
    if bias is not None:
        check_tensor(bias, "bias", "a Tensor (c,) or None")
        if bias.dim() != 1 or bias.shape[0] != shape[0]:
            raise ValueError(f"bias: expected shape ({shape[0]},) to match weight, got {tuple(bias.shape)}")
    device, dtype = x.device, x.dtype
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.device != device:
            raise ValueError(f"{name}: expected device {device} like input, got {parameter.device}")
        if parameter.dtype not in DTYPES:
            raise TypeError(f"{name}: expected float32, bfloat16, float16 or float64, got {parameter.dtype}")
        if parameter.dtype != dtype and (x.is_meta or not torch.is_autocast_enabled(device.type)):
            raise TypeError(f"{name}: expected dtype {dtype} like input (or use autocast), got {parameter.dtype}")
    return weight if len(shape) == 2 else weight.flatten(1)


def check_target(
    target: Tensor, b: int, c: int | str, device: torch.device, ignore_index: int | None
) -> tuple[Tensor, Tensor | None]:
    """Class indices (b,) as int64, from any integer dtype, or probabilities (b, c); and the mask of `ignored_examples`.

    Without an ignore_index the values of the indices are not checked, c may be a name, and there is no mask.
    """

    # A function, because torch.compile does not format symbolic sizes; it is called only for an error.
    def accepted() -> str:
        return f"class indices ({b},) int64 or probabilities ({b}, {c})"

    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected {accepted()}, got {type(target).__name__}")
    check_tensor(target, "target", "a Tensor")
    if target.dim() == 2 and target.dtype not in DTYPES:
        wanted = "probabilities are float32, bfloat16, float16 or float64"
        raise TypeError(f"target: expected {accepted()}; {wanted}, got {target.dtype}")
    if target.dim() != 2 and target.dtype not in INTEGERS:
        raise TypeError(f"target: expected {accepted()}, got {target.dtype} of shape {tuple(target.shape)}")
    if target.shape != ((b, c) if target.dim() == 2 else (b,)):
        raise ValueError(f"target: expected {accepted()}, got shape {tuple(target.shape)}")
    if target.device != device:
        raise ValueError(f"target: expected device {device} like input, got {target.device}")
    if target.requires_grad:
        raise ValueError("target: must not require grad; pass target.detach()")
    if target.dim() == 2:
        return target, None
    if target.dtype != torch.int64:
        target = target.to(torch.int64)
    if ignore_index is None:
        return target, None
    if not isinstance(c, str) and readable(target) and not _has_others(target, c, ignore_index):
        return target, None
    return target, ignored_examples(target, ignore_index)


def _has_others(target: Tensor, c: int, ignore_index: int) -> bool:
    """Whether there may be ignored examples among the labels, all of which are checked."""
    extremes = torch.aminmax(target)
    low, high = extremes.min.item(), extremes.max.item()
    if low >= 0 and high < c:
        return low <= ignore_index <= high
    wrong = target[((target < 0) | (target >= c)) & (target != ignore_index)]
    if wrong.numel():
        raise ValueError(f"target: expected classes in [0, {c}) or ignore_index={ignore_index}, got {wrong[0].item()}")
    return True


def ignored_examples(target: Tensor, ignore_index: int) -> Tensor | None:
    """The mask (b,) of examples that have no label; None for probabilities."""
    return None if target.is_floating_point() else target == ignore_index


def check_attention(attention: Tensor, b: int, spatial: Sequence[int], x: Tensor) -> None:
    """Non-negative weights (b, *spatial)."""
    check_tensor(attention, "attention", "a Tensor (b, *spatial)")
    if attention.dtype not in DTYPES:
        raise TypeError(f"attention: expected float32, bfloat16, float16 or float64, got {attention.dtype}")
    if attention.shape != (b, *spatial):
        raise ValueError(f"attention: expected shape {(b, *spatial)}, got {tuple(attention.shape)}")
    if attention.device != x.device:
        raise ValueError(f"attention: expected device {x.device} like input, got {attention.device}")
    if readable(attention):
        values = attention.detach()
        if not bool(((values >= 0) & values.isfinite()).all()):
            raise ValueError("attention: expected finite values that are not negative, got others")


def check_loss_options(label_smoothing: float | Tensor, reduction: str) -> Any:
    """Label smoothing in [0, 1], and a known reduction. Returns the label smoothing; a Tensor has no value yet."""
    number = as_number(label_smoothing, "label_smoothing")
    if number is None or not (isinstance(number, Tensor) or 0 <= number <= 1):
        raise ValueError(f"label_smoothing: expected a float in [0, 1], got {label_smoothing!r}")
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")
    return number


def check_ignore_index(ignore_index: int) -> int:
    """An int of 64 bits."""
    number = as_integer(ignore_index, "ignore_index")
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"ignore_index: expected an int in [-2**63, 2**63 - 1], got {number}")
    return number


def check_choice(value, name: str, accepted: Sequence[str], alternative: str = "") -> None:
    """One of some names."""
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name}: expected one of {tuple(accepted)}{alternative}, got {value!r}")


def check_backend(backend: str | None) -> None:
    """None, or the name of a backend, available here or not."""
    if backend is not None:
        check_choice(backend, "backend", tuple(TABLE), " or None")


def check_rows(n: int) -> int:
    """A number of interpolated examples."""
    n = as_integer(n, "n")
    if n < 1:
        raise ValueError(
            f"n: expected at least 1 interpolated example, got {int(n)}"
        )  # int: torch.compile does not format symbols
    if n > 2**63 - 1:
        raise ValueError(f"n: expected at most 2**63 - 1 interpolated examples, got {n}")
    return n


def check_subset(m: int | None, b: int | None) -> int | None:
    """How many of b examples are mixed; None: all. Where b is None it is not known yet."""
    if m is None:
        return b
    m = as_integer(m, "m", "an int or None")
    if m < 1 and b is None:
        raise ValueError(f"m: expected at least 1 example, or None for all, got {m}")
    if b is not None and not 1 <= m <= b:
        raise ValueError(
            f"m: expected an int in [1, b] = [1, {b}], or None for all, got {m}; where the last mini-batch of an epoch "
            f"is smaller: drop_last=True of the DataLoader, m=min(m, len(input)), or MultiMixHead(clamp_m=True)"
        )
    return m


def make_draw(
    n: int,
    m: int | None,
    alpha: float | tuple[float | Tensor, float | Tensor] | Tensor,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    row_offset: int,
    b: int,
    device: torch.device,
) -> Draw:
    """The checked names of a draw. Draws the seed if none is given."""
    n = check_rows(n)
    m = check_subset(m, b)
    row_offset = as_integer(row_offset, "row_offset")
    if row_offset < 0 or row_offset + n > 2**63 - 1:
        raise ValueError(f"row_offset: expected an int in [0, 2**63 - 1 - n], got {row_offset}")
    per_example, low, high = check_alpha(alpha, b, device)
    return Draw(_seed(seed, generator, device), per_example, n, b if m is None else m, low, high, row_offset)


def check_alpha(alpha, b: int | None, device: torch.device | None) -> tuple[Tensor | None, Any, Any]:
    """Concentrations of the examples (b,) float64 or None, and the range of one for all. b, device None: not known yet.

    The range is of Tensors where they have no value yet. A number that float32 cannot tell from a bound counts as the
    bound: 0.01 in float32 is less than 0.01.
    """
    if isinstance(alpha, Tensor):
        check_tensor(alpha, "alpha", "a Tensor (b,)")
        if not is_number(alpha):
            return _concentrations(alpha, b, device), 1.0, 1.0
    pair = alpha if isinstance(alpha, (tuple, list)) else (alpha, alpha)
    if len(pair) == 2 and type(pair[0]) is type(pair[1]) is float and not torch.compiler.is_compiling():
        nearest = _within(*pair)
        if nearest is not None:
            return None, *nearest
    found = [as_number(a, "alpha") for a in pair]
    if len(found) != 2 or found[0] is None or found[1] is None:
        raise TypeError(f"alpha: expected {_accepted_alpha(b)}, got {alpha!r}")
    low, high = found[0], found[1]
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None, low, high
    nearest = within(low, high)
    if nearest is None:
        raise ValueError(f"alpha: expected {_accepted_alpha(b)} with low <= high, got {alpha!r}")
    return None, *nearest


_within = lru_cache(within)  # the alphas of a training are few


def _accepted_alpha(b: int | None) -> str:
    return f"a float, a (low, high) pair or a Tensor ({'b' if b is None else b},), within [{ALPHA_MIN}, {ALPHA_MAX}]"


def _concentrations(alpha: Tensor, b: int | None, device: torch.device | None) -> Tensor:
    """Those of all examples, float64."""
    if alpha.requires_grad:
        raise ValueError("alpha: must not require grad; the draw is not differentiable; pass alpha.detach()")
    if alpha.dtype not in (*DTYPES, *INTEGERS):
        raise TypeError(f"alpha: expected {_accepted_alpha(b)}, got {alpha.dtype}")
    if alpha.dim() > 1 or (b is not None and alpha.shape not in ((), (b,))):
        raise ValueError(f"alpha: expected {_accepted_alpha(b)}, got shape {tuple(alpha.shape)}")
    if device is not None and alpha.device != device:
        raise ValueError(f"alpha: expected device {device} like input, got {alpha.device}")
    values = alpha.double()
    inside = (values >= ALPHA_MIN * (1 - ROUNDING)) & (values <= ALPHA_MAX * (1 + ROUNDING))
    if readable(alpha) and not bool(inside.all()):
        raise ValueError(f"alpha: expected {_accepted_alpha(b)}, got values in [{alpha.min()}, {alpha.max()}]")
    # What is outside stays so, for the operators that check again.
    values = torch.where(inside, values.clamp(ALPHA_MIN, ALPHA_MAX), values)
    return values if b is None else values.expand(b).contiguous()


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """A generator on the device of the operands, or None."""
    if generator is not None and torch.compiler.is_compiling():
        raise TypeError(
            "generator: cannot be used inside a compiled graph; draw the seed outside, "
            "seed = torch.randint(2**63 - 1, (1,), generator=generator), and pass it as seed"
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"generator: expected a generator on {device} like input, got {generator.device}")


def _seed(seed, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if seed is None:
        check_generator(generator, device)
        drawn = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)
        return drawn if generator is not None else _of_this_rank(drawn)
    if generator is not None:
        raise ValueError("generator: cannot be given together with seed")
    if isinstance(seed, Tensor):
        check_tensor(seed, "seed", "an int or an int64 Tensor with one element")
        if seed.dtype != torch.int64:
            raise TypeError(f"seed: expected an int or an int64 Tensor with one element, got {seed.dtype}")
        if seed.numel() != 1:
            raise ValueError(
                f"seed: expected an int or an int64 Tensor with one element, got shape {tuple(seed.shape)}"
            )
        if seed.device != device:
            raise ValueError(f"seed: expected device {device} like input, got {seed.device}")
        return seed.reshape(1)
    seed = as_integer(seed, "seed", "an int or an int64 Tensor with one element")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed: expected an int that fits in 64 bits, got {seed}")
    # A fill, not a copy from the host, so that no stream stalls.
    return torch.full((1,), seed - 2**64 if seed >= 2**63 else seed, dtype=torch.int64, device=device)


def _of_this_rank(seed: Tensor) -> Tensor:
    """Ranks that were given the same torch.manual_seed, as everybody writes it, must not draw the same weights."""
    if not (dist.is_available() and dist.is_initialized()):
        return seed
    rank = dist.get_rank()
    return seed if rank == 0 else seed ^ (rank * RANK % 2**63)
