"""What the tests of faults share: little projects, and processes to be looked at and killed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor.settings import Platform
from pytest_gvisor.state import settings_key
from tests.faults.little import Little

Make = Callable[[], Little]


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder with a path that is short enough for the sockets of a session."""
    folder = tempfile.mkdtemp(prefix="pgf-", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_little(tmp_path: Path, short_folder: str, gvisor_platform: Platform) -> Iterator[Make]:
    """Factory of little projects, which are ended with the test."""
    made: list[Little] = []

    def make() -> Little:
        number = len(made)
        base = f"{short_folder}/{number}"
        made.append(
            Little(
                folder=tmp_path / f"little-{number}",
                base=base,
                tag=f"test{os.getpid()}x{number}",
                platform=gvisor_platform.value,
            )
        )
        return made[-1]

    yield make
    for little in made:
        little.end()


@pytest.fixture
def little(make_little: Make) -> Little:
    """One little project."""
    return make_little()


@pytest.fixture
def is_first_platform(request: pytest.FixtureRequest, gvisor_platform: Platform) -> bool:
    """Whether this is the first of the platforms that the command line asks for.

    What does not depend on the platform is tried in full there, and as a sample on the others.
    """
    asked = request.config.stash[settings_key].platforms
    return not asked or gvisor_platform is asked[0]
