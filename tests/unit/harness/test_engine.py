"""The findings of one pytest process, and the time for which it remembers them."""

import errno
import warnings
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import LaunchError, PytestGvisorWarning, RunscNotFound
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.runsc import locate, platforms
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability


@pytest.mark.fault("G6")
def test_a_shortage_is_not_remembered_as_the_binary_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing binary stays missing; after a shortage of descriptors the engine looks again."""
    engine, path = Engine(), str(tmp_path / "runsc")

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(locate, "follow", refuse)
        with pytest.raises(LaunchError):
            engine.runsc(path)
    for _ in range(2):
        with pytest.raises(RunscNotFound):
            engine.runsc(path)
    engine.close()


@pytest.mark.fault("G6")
def test_a_shortage_is_not_remembered_as_the_platform_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next question probes again, and the verdict of that is remembered."""
    engine = Engine()
    seen = [LaunchError("kvm", "none", errno=errno.EAGAIN), None]
    known = Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)

    def probe(*_args: object, **_options: object) -> Availability:
        if error := seen.pop(0):
            raise error
        return known

    monkeypatch.setattr(platforms, "probe", probe)
    with pytest.raises(LaunchError):
        engine.availability(Platform.KVM, Settings())
    for _ in range(2):
        assert engine.availability(Platform.KVM, Settings()) == known
    assert seen == []
    engine.close()


def test_what_stays_of_the_session_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stays is a warning, and no failure."""
    engine = Engine()
    monkeypatch.setattr(engine.launcher, "close", lambda: ["/sys/fs/cgroup/x: busy"])
    with pytest.warns(PytestGvisorWarning, match="not removed: /sys/fs/cgroup/x: busy"):
        engine.close()


def test_where_warnings_are_errors_the_end_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The warning is printed as a line, and pytest's other cleanups follow."""
    engine = Engine()
    monkeypatch.setattr(engine.launcher, "close", lambda: ["/x: busy", "/y: busy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.close()
    assert capsys.readouterr().err == "PytestGvisorWarning: not removed: /x: busy; /y: busy\n"
