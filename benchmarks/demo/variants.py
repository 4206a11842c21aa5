"""Methods by name: those of the demonstration, and variants of them."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from .methods import METHODS, Method, dense_multimix, manifold_mixup, mixup, multimix

_VARIED = {
    "mixup": ("input mixup", mixup),
    "manifold": ("manifold mixup", manifold_mixup),
    "multimix": ("MultiMix", multimix),
    "dense": ("Dense MultiMix", dense_multimix),
}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "m": int,
    "n": lambda text: int(float(text)),
    "alpha": lambda text: tuple(map(float, text.split("-"))) if "-" in text else float(text),
    "attention": str,
    "activation": str,
}
_TAKES = {"mixup": ("alpha",), "manifold": ("alpha",), "multimix": ("m", "n", "alpha"), "dense": tuple(_OPTIONS)}
_WORDS = {"m": "m = {}", "n": "n = {}", "alpha": "α = {}", "attention": "{} attention", "activation": "{} activation"}


@cache
def find_method(name: str) -> Method:
    """One of METHODS, or a variant: `dense:m=2,alpha=1,with=plain` is Dense MultiMix of pairs on half of the steps.

    Raises:
        ValueError: there is no such method or option.
    """
    if name in METHODS:
        return METHODS[name]
    base, _, rest = name.partition(":")
    if base not in _VARIED or not rest:
        raise ValueError(
            f"methods: there is no {name!r}; there are {', '.join(METHODS)}, and variants such as dense:m=2,alpha=1"
        )
    label, loss = _VARIED[base]
    options, otherwise = {}, None
    for option in rest.split(","):
        key, _, value = option.partition("=")
        if key == "with" and value in ("plain", "mixup"):
            otherwise = METHODS[value]
            continue
        if key not in _TAKES[base]:
            raise ValueError(f"methods: {base} takes {', '.join(_TAKES[base])} and with=plain or mixup, got {option!r}")
        try:
            options[key] = _OPTIONS[key](value)
        except ValueError:
            raise ValueError(f"methods: {option!r} in {name!r} is not a number") from None
        label += f", {_WORDS[key].format(value)}"
    if otherwise is None:
        return Method(label, partial(loss, **options))
    return Method(f"{label} / {otherwise.label}", partial(loss, **options), otherwise.loss)
