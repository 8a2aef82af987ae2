"""The fixtures of a scripted runsc; they need a `launcher`, which each folder's conftest has."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions.launcher import Launcher
from tests.fakes.fake import FakeRunsc
from tests.fakes.runs import Runs


@pytest.fixture
def fake(tmp_path: Path) -> FakeRunsc:
    """A runsc that follows a script."""
    return FakeRunsc.make(tmp_path / "fake")


@pytest.fixture
def runs(fake: FakeRunsc, launcher: Launcher) -> Iterator[Runs]:
    """Runs of the fake runsc as it is scripted at that moment."""
    binary = Runsc.find(str(fake.path))
    yield Runs(launcher=launcher, binary=binary)
    binary.close()
