"""What a check of one operator sees, and what it is measured by."""

import pytest
import torch

from multimix_kernels import ops
from multimix_kernels.backends.verdicts.plan import OPERATORS, Part
from multimix_kernels.verify import cases, checks, expected, formulas, problems, weights
from multimix_kernels.verify.guard import ZONE, Guard

from ..support import verify_device

KINDS = ("float32", "tf32", "bfloat16", "float16")
SMALL = [(o, case) for o in OPERATORS[1:] for case in cases.cases(o, thorough=True) if not case.own_weights]


def check(device, operator, kind="float32"):
    begun = []
    count, failed, _ = checks.check(device, Part(verify_device.BACKEND, operator, kind), False, begun.append)
    assert count == len(begun)
    return failed


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_right_passes(operator, simulated):
    for kind in ("float32", "bfloat16", "float16"):
        assert check(simulated, operator, kind) is None, kind


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("fault", "said"), [
    ("wrong", "error|missed by"), ("unwritten", "NaN|missed by"), ("beyond", "beyond the memory"),
    ("unsteady", "other bits"),
])  # fmt: skip
def test_planted_faults_are_seen(operator, fault, said, simulated, monkeypatch):
    monkeypatch.setenv(verify_device.FAULT, f"{fault}:{operator}")
    failed = check(simulated, operator)
    assert failed is not None
    assert any(text in failed for text in said.split("|")), failed


def test_an_operand_that_is_changed(simulated, monkeypatch):
    right = ops.OPERATORS[verify_device.BACKEND]["mix"]

    def changes(values, *others):
        found = right(values, *others)
        values.view(-1)[0] += 1
        return found

    monkeypatch.setitem(ops.OPERATORS[verify_device.BACKEND], "mix", changes)
    assert "changed its operands" in check(simulated, "mix")


def test_streams_and_graphs(simulated, monkeypatch):
    """Devices that have them, of which one forgets to read the seed."""

    def on_streams(runs):
        return [run() for run in runs]

    def captured(run):
        outputs = tuple(x.clone() for x in run())

        def replay():
            for x, y in zip(outputs, run(), strict=True):
                x.copy_(y)

        return (replay if right else lambda: None), outputs

    monkeypatch.setattr(simulated, "on_streams", on_streams, raising=False)
    monkeypatch.setattr(simulated, "captured", captured, raising=False)
    right = True
    assert check(simulated, "mix_backward") is None
    right = False
    assert "graph" in check(simulated, "mix_backward")
    monkeypatch.setattr(simulated, "on_streams", lambda runs: [tuple(x + 1 for x in run()) for run in runs])
    assert "two streams" in check(simulated, "mix_backward")


@pytest.mark.parametrize(("operator", "case"), SMALL, ids=lambda x: x if isinstance(x, str) else x.name)
def test_formulas_are_the_reference(operator, case):
    """In float64, within its rounding, where the bound is that of the terms."""
    found = expected.expected(operator, case, "float32")
    lam = expected._weights("reference", case, "cpu", torch.float64)
    plain = expected._plain(operator, case, torch.float64, False, "float32", lam)
    for x, y in zip(found, plain, strict=True):
        assert x.value.shape == y.value.shape
        assert (x.value - y.value).abs().max() <= 1e-13 * max(y.size, 1e-30)
        assert y.size >= 0.99 * x.value.abs().max()
        assert x.allowed <= 1e-4 * y.size, "a bound that proves nothing"


def test_precisions_differ():
    """The less precise the operands, the more is allowed; tf32 has the 10 bits of float16."""
    case = cases.cases("mixed_cross_entropy")[1]
    allowed = {kind: expected.expected("mixed_cross_entropy", case, kind)[1].allowed for kind in KINDS}
    assert 50 * allowed["float32"] < allowed["tf32"] < 3 * allowed["float16"] < allowed["bfloat16"]
    x = torch.tensor([[1 + 2.0**-11 + 2.0**-20]])
    plain = formulas.Plain(torch.float32, True, torch.ones(1, 1, 1), None)
    assert plain._product(x, torch.ones(1, 1)).item() == 1 + 2.0**-10


def test_zones_around_all_memory(simulated):
    """Scratch memory too; and what is not written is NaN."""
    call = cases.arguments("mixed_cross_entropy", cases.Case("any"), "float32")
    guard = Guard()
    with guard:
        x = call[0].new_empty(3, dtype=torch.bfloat16)
        ops.call(verify_device.BACKEND, "mixed_cross_entropy", *call)
    assert x.isnan().all()
    assert x.data_ptr() % 64 == guard._blocks[0].data_ptr() % 64
    assert len(guard._blocks) > 3
    assert guard.intact()
    guard._blocks[-1][ZONE - 1] = 0
    assert not guard.intact()


def test_flipped_acceptances_are_counted():
    drawn = weights.Drawn("any", b=64, n=4096)
    found = weights._exact(drawn).float()
    found[0, 5] = 1 / 64
    assert weights.compare(found, drawn) == (None, 1)
    found[0, 6:9] = 1 / 64
    assert weights.compare(found, drawn)[0] == "4 of 4096 rows differ, allowed 3"


def test_known_answers(simulated, monkeypatch):
    assert weights.philox_is_wrong(torch.device("cpu")) is None
    assert weights.known_is_wrong("reference", "float32", torch.device("cpu")) is None
    monkeypatch.setattr(weights, "PHILOX", (((0, 0, 0, 0), (0, 1), weights.PHILOX[0][2]),))
    assert "expected 6627e8d5" in weights.philox_is_wrong(torch.device("cpu"))


@pytest.mark.parametrize(("error", "said"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "too little memory"),
    (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "exclusive compute mode"),
    (RuntimeError("Failed to find C compiler. Please specify via CC"), "gcc or clang"),
    (OSError(30, "Read-only file system", "/home/.triton"), "TRITON_CACHE_DIR"),
    (RuntimeError("PassManager::run failed"), None),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
], ids=lambda x: None)  # fmt: skip
def test_what_says_nothing_about_the_kernels(error, said):
    found = problems.problem(error)
    assert found is None if said is None else said in found
    outer = RuntimeError("while compiling")
    outer.__cause__ = error
    assert problems.problem(outer) == found
