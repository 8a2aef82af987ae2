"""Fixtures of the tests of faults: little projects, runs of a scripted runsc, and a canary."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Runsc
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.programs import leftovers
from pytest_gvisor.sessions.launcher import Launcher
from tests.fakes.fixtures import fake, runs  # noqa: F401 -- fixtures
from tests.faults.census import Facts, canary_tree, facts
from tests.faults.little import Little

Make = Callable[[], Little]


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder with a path that is short enough for the sockets of a session."""
    folder = tempfile.mkdtemp(prefix="pgf-", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


def littles(tmp_path: Path, short_folder: str, platform: str) -> Iterator[Make]:
    """A factory of little projects, which are ended with the test."""
    made: list[Little] = []

    def make() -> Little:
        number = len(made)
        made.append(
            Little(
                folder=tmp_path / f"little-{number}",
                base=f"{short_folder}/{number}",
                tag=f"test{os.getpid()}x{number}",
                platform=platform,
            )
        )
        return made[-1]

    yield make
    for little in made:
        little.end()


@pytest.fixture
def make_little(tmp_path: Path, short_folder: str, gvisor_platform: Platform) -> Iterator[Make]:
    """Factory of little projects on this test's platform."""
    yield from littles(tmp_path, short_folder, gvisor_platform.value)


@pytest.fixture
def little(make_little: Make) -> Little:
    """One little project on this test's platform."""
    return make_little()


@pytest.fixture
def any_little(tmp_path: Path, short_folder: str, runsc: Runsc) -> Iterator[Little]:
    """One little project, for tests that do not depend on the platform."""
    for make in littles(tmp_path, short_folder, Platform.SYSTRAP.value):
        yield make()


def sessions_in(folder: str) -> list[str]:
    """The remains in a folder of sessions: all but the locks."""
    return sorted(name for name in os.listdir(folder) if not name.startswith(".lock"))


@pytest.fixture
def launcher(short_folder: str) -> Iterator[Launcher]:
    """A launcher whose sessions are in a folder of their own."""
    made = Launcher(short_folder)
    yield made
    made.close()
    assert sessions_in(short_folder) == []


@pytest.fixture
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tree beside the test's files, which is the same afterwards to the last byte."""
    folder = tmp_path_factory.mktemp("canary")
    canary_tree(folder)
    before: Facts = facts(folder)
    yield folder
    assert facts(folder) == before


@pytest.fixture
def small_disk(short_folder: str) -> Iterator[Callable[[str], None]]:
    """A disk of its own at the folder; called with options, it has these from then on."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "small", short_folder], check=True)

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", short_folder], check=True)

    yield change
    subprocess.run(["umount", short_folder], check=True)


@pytest.fixture
def apart(runsc: Runsc, short_folder: str) -> Iterator[Callable[[], Gvisor]]:
    """Factory: the same with a launcher of its own, which the one before it has given up."""
    launchers: list[Launcher] = []

    def make() -> Gvisor:
        if launchers:
            launchers[-1].close()
        launchers.append(Launcher(short_folder))
        platform = Platform.SYSTRAP
        return Gvisor(runsc=runsc, platform=platform, launcher=launchers[-1])

    yield make
    launchers[-1].close()
    assert sessions_in(short_folder) == []


@contextlib.contextmanager
def on_disk(folder: str, runsc: Runsc) -> Iterator[tuple[Launcher, Gvisor]]:
    """A launcher whose sessions are in the folder; no run and no session leaves anything there."""
    launcher, platform = Launcher(folder), Platform.SYSTRAP
    with contextlib.closing(launcher):
        yield launcher, Gvisor(runsc=runsc, platform=platform, launcher=launcher)
        assert own_files(launcher) == []
    assert sessions_in(folder) == []


def until_well(attempt: Callable[[int], str], counts: Iterable[int], well: str) -> list[str]:
    """The errors of attempts, each with more than the one before, until one is well."""
    errors: list[str] = []
    for count in counts:
        if (seen := attempt(count)) == well:
            return errors
        errors.append(seen)
    pytest.fail(f"never well: {errors}")


def entries(folder: str) -> int:
    """How many inodes of the disk are in use, the root of the disk included."""
    state = os.statvfs(folder)
    return state.f_files - state.f_ffree


def used_bytes(folder: str) -> int:
    """How many bytes of the disk are in use."""
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def own_files(launcher: Launcher) -> list[str]:
    """The remains of single runs."""
    session = launcher.session().path
    left = [name for name in os.listdir(session) if name.startswith("g")]
    return left + [str(pid) for pid in leftovers.processes(session, everywhere=True)]
