"""Kernels compiled ahead of time, without a GPU: no spills in the configurations used, matrix instructions present."""

import importlib.util

import pytest

from multimix_kernels.backends import triton as package

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)
if package.INTERPRET:
    pytest.skip("Triton interprets kernels and compiles none", allow_module_level=True)

from multimix_kernels.backends.triton import aot

ALL = [(target, case) for target in aot.TARGETS for case in aot.cases(aot.family_of(target), aot.operands(target))]


def name_of(value):
    return value if isinstance(value, str) else f"{value.name}-{value.operand}"


def check(target, case):
    report = aot.compile_case(case, target)
    assert report.shared <= 1024 * aot.SHARED_LIMIT[target], aot.row(report)
    if case.needs_matrix_instructions:
        assert report.matrix, aot.row(report)
    if target in ("sm_80", "sm_90"):
        assert not report.spills, aot.row(report)
        assert not report.local, aot.row(report)


@pytest.mark.parametrize(("target", "case"), [pair for pair in ALL if pair[1].representative], ids=name_of)
def test_representative_kernels(target, case):
    check(target, case)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "case"), [pair for pair in ALL if not pair[1].representative], ids=name_of)
def test_other_kernels(target, case):
    check(target, case)
