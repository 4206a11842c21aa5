"""Starts the suites that run in processes of their own, beside the other tests."""

import pytest

from ..support import beside as processes


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)  # what waits comes last


def pytest_collection_finish(session):
    if not session.config.option.collectonly:
        processes.start(session.items)


def pytest_sessionfinish():
    processes.end()


@pytest.fixture
def beside(request):
    """Waits for what the test's mark `beside` started."""
    return lambda: processes.wait(request.node)
