"""Approximate functions: special values by the tables of the PTX ISA, others to half a unit in the last place, and the
error that is asked for within the documented bound."""

import numpy as np
import pytest

from . import written

INF, NAN = np.inf, np.nan
FUNCTIONS = {
    "ex2": np.exp2, "lg2": np.log2, "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
}  # fmt: skip
ULP = lambda y: np.spacing(np.abs(y).astype(np.float32)).astype(np.float64)  # noqa: E731
BOUNDS = {
    "ex2": lambda x, y: 2 * ULP(y), "lg2": lambda x, y: np.where((x > 0.5) & (x < 2), 1, np.abs(y)) * 2.0**-22,
    "rcp": lambda x, y: ULP(y), "sqrt": lambda x, y: y * 2.0**-23, "rsqrt": lambda x, y: y * 2.0**-22.9,
    "sin": lambda x, y: np.full_like(x, 2.0**-20.5), "cos": lambda x, y: np.full_like(x, 2.0**-20.5),
    "tanh": lambda x, y: np.abs(y) * 2.0**-11,
}  # fmt: skip
SPECIAL = {  # arguments, results
    "ex2": ([-INF, -0.0, 0.0, INF, 200.0, -200.0], [0, 1, 1, INF, INF, 0]),
    "lg2": ([-INF, -1.0, -0.0, 0.0, INF, 1.0], [NAN, NAN, -INF, -INF, INF, 0]),
    "rcp": ([-INF, -0.0, 0.0, INF], [-0.0, -INF, INF, 0.0]),
    "sqrt": ([-INF, -1.0, -0.0, 0.0, INF], [NAN, NAN, -0.0, 0.0, INF]),
    "rsqrt": ([-INF, -1.0, -0.0, 0.0, INF], [NAN, NAN, -INF, INF, 0.0]),
    "sin": ([-INF, -0.0, 0.0, INF], [NAN, -0.0, 0.0, NAN]),
    "cos": ([-INF, -0.0, 0.0, INF], [NAN, 1, 1, NAN]),
    "tanh": ([-INF, -0.0, 0.0, INF], [-1, -0.0, 0.0, 1]),
}
TINY = np.float32(2.0**-127)


def run(instruction: str, *sources: np.ndarray, **options) -> np.ndarray:
    """d = f(a) or f(a, b) of 32 lanes at a time."""
    many = len(sources[0])
    x = [np.ascontiguousarray(np.resize(s, -(-many // 32) * 32), np.float32) for s in sources]
    out = np.zeros_like(x[0])
    operands = ", ".join(f"%f{i + 1}" for i in range(len(x)))
    text = written.kernel(
        "\n".join([
            "mov.u32 %r1, %ctaid.x; shl.b32 %r1, %r1, 7; cvt.u64.u32 %rd9, %r1;",
            *(f"add.s64 %rd{i}, %rd{i}, %rd9;" for i in range(len(x) + 1)),
            *(written.load_registers([f"%f{i + 1}"], i) for i in range(len(x))),
            f"{instruction} %f0, {operands};", written.store_registers(["%f0"], len(x)),
        ]), pointers=len(x) + 1,
    )  # fmt: skip
    assert not written.run(text, *x, out, blocks=len(out) // 32, **options).faults
    return out[:many]


def arguments(name: str) -> np.ndarray:
    generator = np.random.default_rng(0)
    if name in ("sin", "cos"):
        return generator.uniform(-6, 6, 512).astype(np.float32)
    if name in ("ex2", "tanh"):
        return generator.uniform(-100 if name == "ex2" else -4, 100 if name == "ex2" else 4, 512).astype(np.float32)
    return np.exp(generator.uniform(-60, 60, 512)).astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exact(name):
    x = arguments(name)
    exact = FUNCTIONS[name](x.astype(np.float64))
    y = run(f"{name}.approx.f32", x).astype(np.float64)
    assert (np.abs(y - exact) <= 0.51 * ULP(exact)).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_error(name, seed):
    """Most results are as far off as may be."""
    x = arguments(name)
    exact = FUNCTIONS[name](x.astype(np.float64))
    y = run(f"{name}.approx.f32", x, seed=seed, approximate_error=1.0).astype(np.float64)
    bound = BOUNDS[name](x.astype(np.float64), exact)
    error = y - exact
    assert (np.abs(error) <= bound * (1 + 1e-9)).all()
    far = np.abs(error) > 0.4 * bound
    assert far.mean() > 0.4
    signs = np.sign(error[far])
    assert {1: (signs == 1).all(), 2: (signs == -1).all(), 3: len(set(signs)) == 2}[seed]


@pytest.mark.parametrize("error", [0.0, 1.0])
@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, error):
    x, wanted = (np.array([*side, NAN], np.float32) for side in SPECIAL[name])
    y = run(f"{name}.approx.f32", x, seed=1, approximate_error=error)
    if name == "tanh":
        y[np.isinf(x)] = np.sign(y[np.isinf(x)])  # moved
    assert np.array_equal(y, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(y[~np.isnan(y)]), np.signbit(wanted[~np.isnan(y)]))


def test_flushed_to_zero():
    assert run("rcp.approx.ftz.f32", np.array([TINY, 2.0**127], np.float32)).tolist() == [INF, 0.0]
    assert run("rcp.approx.f32", np.array([TINY, 2.0**127], np.float32)).tolist() == [2.0**127, TINY]
    assert run("lg2.approx.ftz.f32", np.array([TINY], np.float32)).tolist() == [-INF]
    assert run("lg2.approx.f32", np.array([TINY], np.float32)).tolist() == [-127]
    assert run("ex2.approx.ftz.f32", np.array([-127, -126], np.float32)).tolist() == [0, 2.0**-126]
    assert run("ex2.approx.f32", np.array([-127], np.float32)).tolist() == [TINY]


@pytest.mark.parametrize("form", ["full", "approx"])
def test_div(form):
    x = arguments("rcp")
    y = np.exp(np.random.default_rng(1).uniform(-20, 20, len(x))).astype(np.float32)
    exact = x.astype(np.float64) / y
    assert (np.abs(run(f"div.{form}.f32", x, y) - exact) <= 0.51 * ULP(exact)).all()
    off = run(f"div.{form}.f32", x, y, seed=1, approximate_error=1.0) - exact
    assert (np.abs(off) <= 2 * ULP(exact)).all()
    assert (off > ULP(exact)).mean() > 0.5
    large = np.float32([2.0**127])
    assert run(f"div.{form}.f32", large, large).tolist() == [1.0 if form == "full" else 0.0]


def test_reciprocal_of_double():
    """Of the upper word, and in the upper word."""
    x = np.random.default_rng(0).uniform(-9, 9, 32)
    out = np.zeros(32)
    text = written.kernel(
        """mul.wide.u32 %rd4, %r0, 8; add.s64 %rd5, %rd0, %rd4; add.s64 %rd6, %rd1, %rd4; ld.global.f64 %fd1, [%rd5];
        rcp.approx.ftz.f64 %fd0, %fd1; st.global.f64 [%rd6], %fd0;""",
        pointers=2,
    )  # fmt: skip
    assert not written.run(text, x, out).faults
    assert (out.view(np.uint64) & 0xFFFFFFFF == 0).all()
    assert (np.abs(out * x - 1) < 2.0**-18).all()
