"""Kernels compiled ahead of time, without a GPU: no spills in the configurations used, matrix instructions present."""

import importlib.util

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

from multimix_kernels.backends.triton import aot

FAST = [
    (target, case)
    for target in ("sm_80", "sm_90")
    for case in aot.cases(aot.family_of(target), ("bf16",))
    if case.name in ("sample, hardware", "mixed_small c=100", "normaliser", "gradient")
]
ALL = [
    (target, case)
    for target in aot.TARGETS
    for case in aot.cases(aot.family_of(target), aot.operands(target))
    if (target, case) not in FAST
]


def check(target, case):
    report = aot.compile_case(case, target)
    assert report.shared <= 1024 * aot.SHARED_LIMIT[target], aot.row(report)
    if case.needs_matrix_instructions:
        assert report.matrix, aot.row(report)
    if target in ("sm_80", "sm_90"):
        assert not report.spills, aot.row(report)
        assert not report.local, aot.row(report)


def name_of(value):
    return value if isinstance(value, str) else f"{value.name}-{value.operand}"


@pytest.mark.parametrize(("target", "case"), FAST, ids=name_of)
def test_compiled_for_common_cases(target, case):
    check(target, case)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "case"), ALL, ids=name_of)
def test_compiled(target, case):
    check(target, case)
