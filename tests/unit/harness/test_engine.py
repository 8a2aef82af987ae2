"""The findings of one pytest process, and the time for which it remembers them."""

from __future__ import annotations

import errno
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError, PytestGvisorWarning, RunscNotFound
from pytest_gvisor.harness import verdicts
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.runsc import kvm, locate
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.settings import Platform, Settings


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
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(tmp_path / "base"))
    engine, other = Engine("run"), Engine("run")
    seen = [LaunchError("kvm", "none", errno=errno.EAGAIN), None]

    def look(_device: str) -> None:
        if error := seen.pop(0):
            raise error

    monkeypatch.setattr(kvm, "look", look)
    known = Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)
    monkeypatch.setattr(verdicts, "recall", lambda *_: known)
    with pytest.raises(LaunchError):
        engine.availability(Platform.KVM, Settings())
    assert other.availability(Platform.KVM, Settings()) == known
    assert seen == []
    engine.close()
    other.close()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Engine, Availability]]:
    """An engine with shared verdicts, and its verdict on kvm, made without a run."""
    monkeypatch.setattr(session_folder, "base_folder", lambda: str(tmp_path / "base"))
    monkeypatch.setattr(kvm, "look", lambda _device: None)
    verdict = Availability(platform=Platform.KVM, cause=Cause.PROBE_HUNG)
    monkeypatch.setattr(verdicts, "recall", lambda *_: verdict)
    engine = Engine("run")
    yield engine, verdict
    engine.close()


def test_a_verdict_that_cannot_be_shared_is_one_all_the_same(
    hung: tuple[Engine, Availability], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs each process a question, and no test."""
    engine, verdict = hung

    class Full(io.FileIO):
        def write(self, _data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(fd: int, mode: str, **_: Any) -> Full:
        return Full(fd, mode)

    monkeypatch.setattr("pytest_gvisor.harness.platform_probe.open", full, raising=False)
    assert engine.availability(Platform.KVM, Settings()) == verdict


def test_a_verdict_s_file_that_cannot_be_opened_is_typed(
    hung: tuple[Engine, Availability],
) -> None:
    """The stage says which step it was."""
    engine, _ = hung
    assert engine.shared is not None
    runsc = engine.runsc(None)
    os.mkdir(os.path.join(engine.shared.path(), f"{runsc.fingerprint[:16]}-kvm.json"))
    with pytest.raises(LaunchError) as caught:
        engine.availability(Platform.KVM, Settings())
    assert (caught.value.stage, caught.value.errno) == ("shared_folder", errno.EISDIR)


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


@pytest.mark.fault("F13")
@pytest.mark.parametrize("step", ["shared", "launcher"])
def test_what_processes_share_does_not_stay_when_an_end_is_interrupted(
    hung: tuple[Engine, Availability], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The keeper, which is there for that, removes nothing that its pytest still holds."""
    engine, _ = hung
    assert engine.shared is not None
    engine.availability(Platform.KVM, Settings())
    path = engine.shared.path()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(getattr(engine, step), "close", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine.end()
    assert os.path.exists(path) is (step == "shared")
    engine.end()
    assert os.listdir(os.path.dirname(path)) == [".lock"]
