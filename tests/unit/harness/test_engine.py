"""The findings of one pytest process, and the time for which it remembers them."""

import errno
import fcntl
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import LaunchError, PytestGvisorWarning, RunscNotFound
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.harness import platform_probe
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
def test_a_shortage_is_not_remembered_as_the_platform_s(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No process of the run remembers it, and the next question probes again."""
    engine, other = Engine(str(tmp_path)), Engine(str(tmp_path))
    seen = [LaunchError("kvm", "none", errno=errno.EAGAIN), None]
    known = Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)

    def probe(*_args: object, **_options: object) -> Availability:
        if error := seen.pop(0):
            raise error
        return known

    monkeypatch.setattr(platforms, "probe", probe)
    with pytest.raises(LaunchError):
        engine.availability(Platform.KVM, Settings())
    assert other.availability(Platform.KVM, Settings()) == known
    assert seen == []
    engine.close()
    other.close()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Engine, Availability]]:
    """An engine with shared verdicts, and its verdict on kvm, made without a run."""
    verdict = Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)
    monkeypatch.setattr(platforms, "probe", lambda *_args, **_options: verdict)
    engine = Engine(str(tmp_path))
    yield engine, verdict
    engine.close()


@pytest.mark.parametrize("step", ["open", "write"])
def test_a_verdict_that_cannot_be_shared_is_one_all_the_same(
    hung: tuple[Engine, Availability], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A full disk costs each worker a question, and no test."""
    engine, verdict = hung

    class Full(io.FileIO):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if step == "open":
                self.close()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(io, "FileIO", Full)
    assert engine.availability(Platform.KVM, Settings()) == verdict


def test_a_verdict_is_not_shared_in_a_folder_of_others(
    monkeypatch: pytest.MonkeyPatch, hung: tuple[Engine, Availability], tmp_path: Path
) -> None:
    """Another user's verdict would decide which tests are skipped."""
    tmp_path.chmod(0o777)
    engine, verdict = hung
    assert engine.availability(Platform.KVM, Settings()) == verdict
    assert list(tmp_path.glob("gvisor-*")) == []


def test_a_worker_waits_for_another_worker_s_verdict_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, hung: tuple[Engine, Availability], tmp_path: Path
) -> None:
    """A worker that is stopped in the midst of a probe stops no other."""
    engine, verdict = hung
    other = Engine(str(tmp_path))
    monkeypatch.setattr(platform_probe, "_LOCK_PATIENCE", 0.0)
    monkeypatch.setattr(platforms, "deadline_for", lambda _timeout: 0.0)
    assert engine.availability(Platform.KVM, Settings()) == verdict
    (kept,) = tmp_path.glob("gvisor-*")
    with open(kept) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept.write_text("")
        assert other.availability(Platform.KVM, Settings()) == verdict
    assert kept.read_text() == ""
    other.close()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"platform": "kvm", "cause": "a whim", "detail": ""}']
)
def test_a_file_that_holds_no_verdict_is_written_anew(
    hung: tuple[Engine, Availability], tmp_path: Path, text: str
) -> None:
    """A worker that was killed in the midst of its write leaves half a verdict."""
    engine, verdict = hung
    other = Engine(str(tmp_path))
    assert engine.availability(Platform.KVM, Settings()) == verdict
    (kept,) = tmp_path.glob("gvisor-*")
    whole = kept.read_text()
    kept.write_text(text)
    assert other.availability(Platform.KVM, Settings()) == verdict
    assert kept.read_text() == whole
    other.close()


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
