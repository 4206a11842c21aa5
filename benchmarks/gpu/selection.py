"""A pytest plugin, `-p benchmarks.gpu.selection --backends NAME`: only what tests the backends that are named.

That is every test that takes the `backend` fixture, with those backends, and the backends' own test files. A test file
that needs a package which is not installed is skipped: nothing can be installed on some machines.
"""

from pathlib import Path

import pytest

OURS = ("benchmarks", "multimix_kernels", "tests")


def pytest_addoption(parser):
    """--backends."""
    parser.addoption("--backends", nargs="+", default=[], metavar="BACKEND", help="only tests of these backends")


def pytest_collection_modifyitems(config, items):
    """Leaves out what tests something else."""
    names = config.getoption("backends")
    if not names:
        return
    chosen = [item for item in items if _tests(item, names)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Makes a missing package a reason to skip."""
    report = yield
    if report.failed and report.call.excinfo is not None:
        package = _missing_package(report.call.excinfo.value)
        if package is not None:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), None, f"Skipped: the package {package} is not installed")
    return report


def _tests(item, names) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "backend" in parameters:
        return parameters["backend"] in names
    path = Path(item.path)
    return path.parent.name in names or path.stem in {f"test_{name}" for name in names}


def _missing_package(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.split(".")[0]
            return None if package in OURS else package
        error = error.__cause__ or error.__context__
    return None
