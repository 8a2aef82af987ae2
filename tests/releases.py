"""The releases of runsc in tests: the one that the search finds, and that of 2024."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from pytest_gvisor.runsc import locate

OF_DEBIAN_13 = Path(__file__).parents[1] / ".build/runsc-2024/usr/bin/runsc"
"""That of 2024, if scripts/older-runsc has fetched it."""


def found() -> str:
    """The canonical path of the runsc that the default search finds, with nothing left open."""
    judged = locate.find()
    judged.close()
    return judged.path


@pytest.fixture(params=["current", "2024"])
def each_release(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Pytest's option for one release: the found one or Debian 13's."""
    path = _path(request)
    return (f"--gvisor-runsc={path}",) if path else ()


@pytest.fixture(params=["current", "2024"])
def each_runsc(request: pytest.FixtureRequest) -> Iterator[Runsc]:
    """The binary of one release after the other."""
    path = _path(request)
    runsc = Runsc.find(path) if path else Runsc.find()
    yield runsc
    runsc.close()


def _path(request: pytest.FixtureRequest) -> str:
    """The path of a release, or an empty text for the one that the search finds."""
    if request.param == "current":
        return ""
    if not OF_DEBIAN_13.exists():
        pytest.skip(
            f"no Debian archive: scripts/older-runsc could not fetch that of {request.param}"
        )
    return str(OF_DEBIAN_13)
