"""What the study trains: methods on training sets, and ablations of the method that the paper has none of."""

from dataclasses import dataclass

FEW = "alpha=1"  # concentration of mixtures of few examples: uniform over their simplex
PAIRS, DENSE_PAIRS = f"multimix:m=2,{FEW}", f"dense:m=2,{FEW}"
DENSE_PAIRS_OR_PLAIN = f"{DENSE_PAIRS},with=plain"
METHODS = (
    "plain",
    "mixup",
    "manifold",
    "multimix",  # the paper's recipe: m = b, input mixup on half of the steps
    "dense",
    "multimix-plain",
    "dense-plain",
    "multimix-sparse",
    "dense-sparse",
    PAIRS,
    f"multimix:m=4,{FEW}",
    DENSE_PAIRS,
    f"dense:m=3,{FEW}",
    f"dense:m=4,{FEW}",
    f"dense:m=8,{FEW}",
    DENSE_PAIRS_OR_PLAIN,
)
SHORT = ("plain", "mixup", "manifold", "dense", PAIRS, DENSE_PAIRS, DENSE_PAIRS_OR_PLAIN)
SEARCHED = tuple(m for m in METHODS if ":" not in m) + (PAIRS, DENSE_PAIRS, DENSE_PAIRS_OR_PLAIN)
LEARNING_RATES = (3e-3, 6e-3, 1.2e-2)
STEPS = 1000  # plain training fits 1,000 examples then: with fewer, nothing that regularises has work to do


@dataclass(frozen=True)
class Experiment:
    """Methods on one training set."""

    title: str
    examples: int | None  # None: all
    steps: int
    seeds: int
    methods: tuple[str, ...]
    wrong_labels: float = 0.0  # part of the training examples


@dataclass(frozen=True)
class Ablation:
    """One option varied, all else as in the method it is compared with: a panel of the picture."""

    title: str
    lines: dict[str, tuple[tuple[str, str], ...]]  # by label: (tick, method)
    logarithmic: bool = True


def _line(base: str, key: str, values: tuple[str, ...], rest: str) -> tuple[tuple[str, str], ...]:
    """Points of a line; the default n is left out of a method's name, which is one of METHODS then."""
    named = {value: "" if (key, value) == ("n", "1000") else f"{key}={value}," for value in values}
    return tuple((value, f"{base}:{rest.format(option).strip(',')}") for value, option in named.items())


_N = ("1", "10", "100", "1000", "1e4", "1e5")
_DENSE_N = ("49", "490", "1000", "4900", "49000", "1e5")  # one mixture for each of 49 locations, or more
_M = ("2", "3", "4", "8", "16", "32", "64", "128")
_ALPHA = ("0.1", "0.2", "0.5", "1", "2", "5")
ABLATIONS = (
    Ablation("interpolated examples per step, n", {
        "MultiMix, m = 2": _line("multimix", "n", _N, f"m=2,{{}}{FEW}"),
        "Dense MultiMix, m = 2": _line("dense", "n", _DENSE_N, f"m=2,{{}}{FEW}"),
    }),
    Ablation("examples in each mixture, m", {
        "MultiMix": _line("multimix", "m", _M, f"{{}}{FEW}"),
        "Dense MultiMix": _line("dense", "m", _M, f"{{}}{FEW}"),
    }),
    Ablation("Dirichlet concentration, α", {
        "Dense MultiMix, m = 2": _line("dense", "alpha", _ALPHA, "m=2,{}"),
        "Dense MultiMix, m = 128": _line("dense", "alpha", _ALPHA, "m=128,{}"),
    }),
    Ablation("attention and frequency (Dense MultiMix, m = 2)", {
        "": (
            ("GAP, ReLU", DENSE_PAIRS),
            ("GAP, softmax", f"{DENSE_PAIRS},activation=softmax"),
            ("CAM, ReLU", f"{DENSE_PAIRS},attention=cam"),
            ("uniform", f"{DENSE_PAIRS},attention=uniform"),
            ("half with plain", DENSE_PAIRS_OR_PLAIN),
            ("half with mixup", f"{DENSE_PAIRS},with=mixup"),
        ),
    }, logarithmic=False),
)  # fmt: skip


def experiments(quick: bool = False) -> tuple[Experiment, ...]:
    """The comparison and the ablations; quick: a few steps of some, to see that all works."""
    ablated = tuple(dict.fromkeys(m for ablation in ABLATIONS for line in ablation.lines.values() for _, m in line))
    if quick:
        return (
            Experiment("few examples", 120, 6, 2, ("plain", "dense", DENSE_PAIRS)),
            Experiment("few examples", 120, 6, 1, ablated[:3]),
        )
    return (
        Experiment("1,000 training examples", 1000, STEPS, 5, METHODS),
        Experiment("4,000 training examples", 4000, STEPS, 5, SHORT),
        Experiment("1,000, a fifth of the labels wrong", 1000, STEPS, 5, SHORT, 0.2),
        Experiment("all 60,000 training examples", None, STEPS, 5, (*SHORT[:3], DENSE_PAIRS, DENSE_PAIRS_OR_PLAIN)),
        Experiment("1,000 training examples", 1000, STEPS, 2, ablated),
    )


def family(method: str) -> str:
    """The method whose learning rate was searched for: of those that differ in m or n it is that with m = 2."""
    if method in SEARCHED:
        return method
    return DENSE_PAIRS if method.startswith("dense") else PAIRS
