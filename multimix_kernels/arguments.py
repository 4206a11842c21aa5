"""Checks of the public functions' arguments. Every error names the argument, what was wrong, and what is accepted.

Values inside tensors are read on the CPU only: on a GPU that would stall the stream, and there a label out of range
makes the loss NaN. In a compiled graph nothing is read; the operators of the CPU check again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .backends import LOW
from .backends.contract import REDUCTIONS, Draw

ALPHA_MIN, ALPHA_MAX = 0.01, 1000.0
MAX_LOCATIONS = 1 << 24  # the location has 24 bits of a counter word of the weight stream
DTYPES = (*LOW, torch.float64)


def _readable(x: Tensor) -> bool:
    """Whether x has values that may be read: a fake tensor has none, and a mode (make_fx) may record what is done."""
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    return type(x) in (Tensor, torch.nn.Parameter) and not torch._C._len_torch_dispatch_stack()


def is_integer(x) -> bool:
    """Whether x is an int (bool is not), perhaps a symbolic one."""
    return isinstance(x, (int, torch.SymInt)) and not isinstance(x, bool)


def check_input(x: Tensor, name: str, *, dense: bool) -> None:
    """A floating-point tensor (b, d), or (b, d, *spatial) if dense, with no empty dimension."""
    expected = "(b, d, *spatial)" if dense else "(b, d)"
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor {expected}, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, bfloat16, float16 or float64, got {x.dtype}")
    if x.dim() < 2 or (x.dim() > 2 and not dense):
        hint = "; dense inputs go to dense_multimix_cross_entropy" if x.dim() > 2 else ""
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(x.shape)}{hint}")
    if x.numel() == 0:
        raise ValueError(f"{name}: expected no empty dimension, got shape {tuple(x.shape)}")
    if x.shape[2:].numel() > MAX_LOCATIONS:
        raise ValueError(f"{name}: at most {MAX_LOCATIONS} spatial locations, got {x.shape[2:].numel()}")


def check_spatial(spatial: Sequence[int]) -> None:
    """A tuple of positive ints."""
    if not isinstance(spatial, (tuple, list)) or not all(is_integer(size) for size in spatial):
        raise TypeError(f"spatial: expected a tuple of ints, got {spatial!r}")
    if any(size < 1 for size in spatial) or torch.Size(spatial).numel() > MAX_LOCATIONS:
        raise ValueError(f"spatial: expected positive sizes, {MAX_LOCATIONS} locations at most, got {spatial}")


def check_classifier(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """The weight as (c, d): that of a linear layer, or of a convolution with kernel size 1."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight: expected a Tensor (c, d), got {type(weight).__name__}")
    if weight.dim() < 2 or any(size != 1 for size in weight.shape[2:]) or weight.shape[0] == 0:
        raise ValueError(f"weight: expected shape (c, d), or (c, d, 1, ...), got {tuple(weight.shape)}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"weight: expected {x.shape[1]} columns to match input {tuple(x.shape)}, got {weight.shape[1]}"
        )
    if bias is not None and not isinstance(bias, Tensor):
        raise TypeError(f"bias: expected a Tensor (c,) or None, got {type(bias).__name__}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected shape ({weight.shape[0]},) to match weight, got {tuple(bias.shape)}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        if parameter.device != x.device:
            raise ValueError(f"{name}: expected device {x.device} like input, got {parameter.device}")
        if parameter.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{name}: expected dtype {x.dtype} like input (or use autocast), got {parameter.dtype}")
    return weight.flatten(1)


def check_target(target: Tensor, b: int, c: int, device: torch.device, ignore_index: int) -> Tensor:
    """Class indices (b,) int64, or probabilities (b, c)."""

    # A function, because torch.compile does not format symbolic sizes; it is called only for an error.
    def accepted() -> str:
        return f"class indices ({b},) int64 or probabilities ({b}, {c})"

    if not isinstance(target, Tensor):
        raise TypeError(f"target: expected {accepted()}, got {type(target).__name__}")
    if not is_integer(ignore_index):
        raise TypeError(f"ignore_index: expected an int, got {ignore_index!r}")
    if target.dim() == 2 and not target.is_floating_point():
        raise TypeError(f"target: expected {accepted()}; probabilities have a floating-point dtype, got {target.dtype}")
    if target.dim() != 2 and target.dtype != torch.int64:
        raise TypeError(f"target: expected {accepted()}, got {target.dtype} of shape {tuple(target.shape)}")
    if target.shape != ((b, c) if target.dim() == 2 else (b,)):
        raise ValueError(f"target: expected {accepted()}, got shape {tuple(target.shape)}")
    if target.device != device:
        raise ValueError(f"target: expected device {device} like input, got {target.device}")
    if target.requires_grad:
        raise ValueError("target: must not require grad; pass target.detach()")
    if target.dim() == 1 and _readable(target):
        _check_labels(target, c, ignore_index)
    return target


def _check_labels(target: Tensor, c: int, ignore_index: int) -> None:
    low, high = torch.aminmax(target)
    if low.item() >= 0 and high.item() < c:
        return
    wrong = target[((target < 0) | (target >= c)) & (target != ignore_index)]
    if wrong.numel():
        raise ValueError(f"target: expected classes in [0, {c}) or ignore_index={ignore_index}, got {wrong[0].item()}")


def ignored_examples(target: Tensor, ignore_index: int) -> Tensor | None:
    """The mask (b,) of examples that have no label; None for probabilities."""
    return None if target.is_floating_point() else target == ignore_index


def check_attention(attention: Tensor, b: int, spatial: Sequence[int], x: Tensor) -> None:
    """Non-negative weights (b, *spatial)."""
    if not isinstance(attention, Tensor):
        raise TypeError(f"attention: expected a Tensor (b, *spatial), got {type(attention).__name__}")
    if not attention.is_floating_point():
        raise TypeError(f"attention: expected a floating-point dtype, got {attention.dtype}")
    if attention.shape != (b, *spatial):
        raise ValueError(f"attention: expected shape {(b, *spatial)}, got {tuple(attention.shape)}")
    if attention.device != x.device:
        raise ValueError(f"attention: expected device {x.device} like input, got {attention.device}")
    if _readable(attention):
        values = attention.detach()
        if not bool(((values >= 0) & values.isfinite()).all()):
            raise ValueError("attention: expected finite values that are not negative, got others")


def check_loss_options(label_smoothing: float, reduction: str) -> None:
    """Label smoothing in [0, 1], and a known reduction."""
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected a float in [0, 1], got {label_smoothing!r}")
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', got {reduction!r}")


def make_draw(
    n: int,
    m: int | None,
    alpha: float | tuple[float, float] | Tensor,
    seed: int | Tensor | None,
    generator: torch.Generator | None,
    row_offset: int,
    b: int,
    device: torch.device,
) -> Draw:
    """The checked names of a draw. Draws the seed if none is given."""
    if not is_integer(n):
        raise TypeError(f"n: expected an int, got {n!r}")
    if n < 1:
        raise ValueError(f"n: expected at least 1 interpolated example, got {n}")
    if m is not None and not is_integer(m):
        raise TypeError(f"m: expected an int or None, got {m!r}")
    if m is not None and not 1 <= m <= b:
        raise ValueError(f"m: expected an int in [1, b] = [1, {b}], or None for all, got {m}")
    if not is_integer(row_offset):
        raise TypeError(f"row_offset: expected an int, got {row_offset!r}")
    if row_offset < 0 or row_offset + n > 2**63 - 1:
        raise ValueError(f"row_offset: expected an int in [0, 2**63 - 1 - n], got {row_offset}")
    per_example, low, high = _concentrations(alpha, b, device)
    return Draw(_seed(seed, generator, device), per_example, n, b if m is None else m, low, high, row_offset)


def _concentrations(alpha, b: int, device: torch.device) -> tuple[Tensor | None, float, float]:
    def accepted() -> str:
        return f"a float, a (low, high) pair or a Tensor ({b},), within [{ALPHA_MIN}, {ALPHA_MAX}]"

    if isinstance(alpha, Tensor):
        if alpha.requires_grad:
            raise ValueError("alpha: must not require grad; the draw is not differentiable; pass alpha.detach()")
        if alpha.is_complex() or alpha.dtype == torch.bool:
            raise TypeError(f"alpha: expected {accepted()}, got {alpha.dtype}")
        if alpha.shape not in ((), (b,)):
            raise ValueError(f"alpha: expected {accepted()}, got shape {tuple(alpha.shape)}")
        if alpha.device != device:
            raise ValueError(f"alpha: expected device {device} like input, got {alpha.device}")
        if _readable(alpha) and not bool(((alpha >= ALPHA_MIN) & (alpha <= ALPHA_MAX)).all()):
            raise ValueError(f"alpha: expected {accepted()}, got values in [{alpha.min()}, {alpha.max()}]")
        return alpha.double().expand(b).contiguous(), 1.0, 1.0
    pair = alpha if isinstance(alpha, (tuple, list)) else (alpha, alpha)
    if len(pair) != 2 or not all(isinstance(a, (int, float)) and not isinstance(a, bool) for a in pair):
        raise TypeError(f"alpha: expected {accepted()}, got {alpha!r}")
    low, high = map(float, pair)
    if not ALPHA_MIN <= low <= high <= ALPHA_MAX:
        raise ValueError(f"alpha: expected {accepted()} with low <= high, got {alpha!r}")
    return None, low, high


def _seed(seed, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if seed is None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
        if generator is not None and generator.device.type != device.type:
            raise ValueError(f"generator: expected a generator on {device} like input, got {generator.device}")
        return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device, generator=generator)
    if generator is not None:
        raise ValueError("generator: cannot be given together with seed")
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"seed: expected an int or an int64 Tensor with one element, got {seed.dtype}")
        if seed.numel() != 1:
            raise ValueError(
                f"seed: expected an int or an int64 Tensor with one element, got shape {tuple(seed.shape)}"
            )
        if seed.device != device:
            raise ValueError(f"seed: expected device {device} like input, got {seed.device}")
        return seed.reshape(1)
    if not is_integer(seed):
        raise TypeError(f"seed: expected an int or an int64 Tensor with one element, got {seed!r}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed: expected an int that fits in 64 bits, got {seed}")
    # A fill, not a copy from the host, so that no stream stalls.
    return torch.full((1,), seed - 2**64 if seed >= 2**63 else seed, dtype=torch.int64, device=device)
