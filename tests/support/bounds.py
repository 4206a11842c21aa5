"""How near is near enough.

Numbers: |error| against float64 is at most twice that of the same-precision plain PyTorch evaluation, plus 1e-6
relative to the largest element (1e-12 for float64, whose plain evaluation is the truth itself).

Weights: 1e-5 relative, and an absolute floor where float32 underflows. A rounding that flips an acceptance changes one
whole row, so the elements allowed to differ are counted in rows.
"""

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-12}
SMALLEST = 2.0**-120


def assert_as_accurate(actual: Tensor, plain: Tensor, exact: Tensor, name: str = "") -> None:
    """actual is as accurate as plain, both measured against exact; its dtype decides the bound."""
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert not exact.isnan().any(), f"{name}: the exact value has NaN"
    exact = exact.detach().cpu()
    error = (actual.detach().cpu().double() - exact).abs().max().item()
    allowed = 2 * (plain.detach().cpu().double() - exact).abs().max().item()
    allowed += RELATIVE.get(plain.dtype, 1e-6) * exact.abs().max().item()
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def assert_close(actual: Tensor, exact: Tensor, relative: float = 1e-12, name: str = "") -> None:
    """actual equals exact, relative to the largest element."""
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    error = (actual.detach().double() - exact.detach().double()).abs().max().item()
    assert error <= relative * exact.detach().abs().max().item(), f"{name}: error {error:.3g}"


def assert_same_weights(actual: Tensor, expected: Tensor, rows: int = 0) -> None:
    """Weights (n, b, ...) within 1e-5 relative of the expected, but for the given number of rows."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    assert actual.shape == expected.shape
    wrong = ~((actual - expected).abs() <= 1e-5 * expected + SMALLEST)
    count = int(wrong.any(1).sum())
    assert count <= rows, f"{count} rows differ, allowed {rows}; largest {(actual - expected).abs().max():.3g}"
