"""The real runsc with a sentry beside it: which one is booted, and which one never is."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, InsecureRunsc, MixedReleases, Platform, Runsc, Settings
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.sessions.launcher import Launcher
from tests.sidecars import Canary, canary, has_sidecars, start_bare

NONE = "no sentry beside this release of runsc"


@pytest.fixture(scope="module")
def copied(runsc: Runsc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this machine's runsc, with the programs beside it."""
    if not has_sidecars(runsc):
        pytest.skip(NONE)
    folder = tmp_path_factory.mktemp("release")
    shutil.copy2(runsc.path, folder / "runsc")
    shutil.copytree(runsc.sidecars.folder, folder / "gvisor-bin")
    return folder / "runsc"


@pytest.fixture
def sentry(copied: Path) -> Iterator[Path]:
    """The copy's sentry, as it was again after the test."""
    path = copied.parent / "gvisor-bin" / "gvisor_sentry"
    kept = path.rename(copied.parent / "kept")
    shutil.copy2(kept, path)
    yield path
    path.unlink()
    kept.rename(path)


@pytest.fixture
def bird() -> Iterator[Canary]:
    """A sentry that tells whether it was started."""
    with canary() as made:
        yield made


@contextlib.contextmanager
def started(path: Path, platform: Platform, **settings: object) -> Iterator[Gvisor]:
    """Yield a harness for the runsc at this path."""
    launcher = Launcher()
    try:
        with contextlib.closing(Runsc.find(str(path))) as runsc:
            gvisor = Gvisor(
                runsc=runsc,
                platform=platform,
                launcher=launcher,
                settings=Settings(**settings),  # type: ignore[arg-type]
            )
            with contextlib.closing(gvisor):
                yield gvisor
    finally:
        assert launcher.close() == []


def test_the_sentry_beside_runsc_is_booted(copied: Path, gvisor_platform: Platform) -> None:
    """Runsc boots the checked sentry, and enforces that its release matches."""
    with started(copied, gvisor_platform, debug=True) as gvisor:
        assert gvisor.run(["echo", "hello"]).stdout == "hello\n"
        record = gvisor.records[-1]
        assert "--sidecar-release-enforcement-policy=ALWAYS" in record.argv
        beside = copied.parent / "gvisor-bin" / "gvisor_sentry"
        assert f"booting sandbox with {beside}" in record.debug_logs["run"]
        assert "matches the expected release" in record.debug_logs["boot"]


@pytest.mark.fault("A1")
def test_a_sentry_that_others_may_write_is_not_started(
    sentry: Path, copied: Path, bird: Canary, gvisor_platform: Platform
) -> None:
    """Bare runsc starts it, with all rights of its own; here nothing is started."""
    shutil.copy2(bird.program, sentry)
    sentry.chmod(0o777)
    start_bare(str(copied))
    assert bird.mark.exists()
    bird.mark.unlink()
    with (
        pytest.raises(InsecureRunsc, match="its group or others may write it") as caught,
        started(copied, gvisor_platform) as gvisor,
    ):
        gvisor.run(["true"])
    assert (caught.value.path, caught.value.mode) == (str(sentry), 0o777)
    assert not bird.mark.exists()


@pytest.mark.fault("A7")
@pytest.mark.parametrize("way", ["a run", "a warm sandbox"])
def test_a_sentry_that_is_replaced_between_two_runs_is_not_started(
    way: str, sentry: Path, copied: Path, bird: Canary, gvisor_platform: Platform
) -> None:
    """A replaced sentry is refused, although its owner and mode are good."""
    with started(copied, gvisor_platform) as gvisor:
        assert gvisor.run(["true"]).returncode == 0
        shutil.copy2(bird.program, sentry.parent.parent / "new")
        (sentry.parent.parent / "new").rename(sentry)
        start = gvisor.run if way == "a run" else lambda args: gvisor.sandbox().exec(args)
        with pytest.raises(InsecureRunsc, match="it changed after it was checked"):
            start(["true"])
    assert not bird.mark.exists()


def test_a_sentry_of_another_release_is_said_to_be_one(
    sentry: Path, copied: Path, runsc: Runsc, gvisor_platform: Platform
) -> None:
    """The error names both builds and the remedy, for a run, a warm sandbox and the probe."""
    text = sentry.read_bytes()
    label = runsc.version.encode()
    other = label[:-1] + b"~"
    assert label in text
    sentry.write_bytes(text.replace(label, other))
    with started(copied, gvisor_platform) as gvisor:
        for start in (gvisor.run, lambda args: gvisor.sandbox().exec(args)):
            with pytest.raises(MixedReleases) as caught:
                start(["true"])
            assert f"beside it is {other.decode()}, and runsc is " in caught.value.message
            assert "pytest-gvisor install" in caught.value.next_step
    engine = Engine()
    with pytest.raises(MixedReleases):
        engine.availability(gvisor_platform, Settings(runsc=str(copied)))
    assert engine.end() == []


def test_a_build_without_sidecars_boots_itself(
    copied: Path, tmp_path: Path, gvisor_platform: Platform
) -> None:
    """A build without sidecars gets no flag for one release, which it would ignore."""
    os.link(copied, tmp_path / "runsc")
    with started(tmp_path / "runsc", gvisor_platform, debug=True) as gvisor:
        assert gvisor.run(["true"]).returncode == 0
        assert "booting sandbox with runsc itself" in gvisor.records[-1].debug_logs["run"]
        assert not any("enforcement" in word for word in gvisor.records[-1].argv)
