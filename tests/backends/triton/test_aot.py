"""Kernels compiled ahead of time, without a GPU: no spills in the configurations used, matrix instructions present."""

import importlib.util

import pytest

from multimix_kernels.backends import triton as package

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)
if package.INTERPRET:
    pytest.skip("Triton interprets kernels and compiles none", allow_module_level=True)

from benchmarks.compiled import aot, cases

ALL = [(target, case) for target in cases.TARGETS for case in cases.cases_of(target)]


def name_of(value):
    return value if isinstance(value, str) else f"{value.name}-{value.operand}"


@pytest.mark.parametrize(("target", "case"), [pair for pair in ALL if pair[1].representative], ids=name_of)
def test_representative_kernels(target, case):
    report = aot.compile_case(case, target)
    assert not aot.faults(report), aot.row(report)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "case"), [pair for pair in ALL if not pair[1].representative], ids=name_of)
def test_other_kernels(target, case):
    report = aot.compile_case(case, target)
    assert not aot.faults(report), aot.row(report)


def test_faults_are_found():
    """A report that is wrong in every way."""
    case = next(case for target, case in ALL if target == "sm_90" and case.needs_matrix_instructions)
    good = dict(registers=255, spills=0, lanes=0, local=0, shared=227 << 10, instructions=9, counts={})
    good |= dict(matrix={"HGMMA": 1})
    changes = [{}, dict(matrix={}), dict(spills=24), dict(local=2, shared=1 << 30), dict(spills=16, local=4)]
    found = [len(aot.faults(aot.Report("sm_90", case, **(good | change)))) for change in changes]
    assert found == [0, 1, 1, 2, 0]
