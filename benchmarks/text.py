"""Numbers and tables as people read them. Without tabulate, where nothing can be installed, columns are not aligned."""

from collections.abc import Container, Iterable, Sequence

try:
    import tabulate

    tabulate.MIN_PADDING = 0  # headers need no more room than cells
except ImportError:
    tabulate = None


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False, left: Container[str] = ("note",)
) -> str:
    """Columns: the first one and those named in `left` to the left, the others to the right."""
    if tabulate is None:
        return "\n".join(" | ".join(row) for row in [header, *rows])
    sides = ["left" if i == 0 or name in left else "right" for i, name in enumerate(header)]
    style = "pipe" if markdown else "simple"
    return tabulate.tabulate(rows, header, style, colalign=sides, disable_numparse=True)


def duration(seconds: float) -> str:
    """Three significant digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale or unit == "µs":
            value = seconds / scale
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    raise AssertionError


def size(count: float) -> str:
    """Bytes in a binary unit."""
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 999.5 or unit == "GiB":
            return f"{count:.3g} {unit}"
    raise AssertionError


def number(n: int) -> str:
    """1000, 10⁴, 3·10⁵."""
    if n < 10**4 or n % 10**3:
        return str(n)
    digits = str(n).rstrip("0")
    exponent = str(len(str(n)) - 1).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"10{exponent}" if mantissa == "1" else f"{mantissa}·10{exponent}"


def ratio(value: float | None) -> str:
    """How many times as fast."""
    return "-" if value is None else f"{value:.2f}x" if value < 9.995 else f"{value:.0f}x"
