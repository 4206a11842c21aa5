from pathlib import Path

import pytest

from tests.simt.build import compile

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "csrc"


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """Builds files of this folder; all share the harness's objects."""
    folder = tmp_path_factory.mktemp("simt")

    def build(names, out, **options):
        return compile([HERE / name for name in names], [SOURCES], folder / out, cache=folder / "objects", **options)

    return build
