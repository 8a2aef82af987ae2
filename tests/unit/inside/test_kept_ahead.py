"""When a kept sandbox is started before it is planned, and how long that is tried."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.inside import kept_ahead
from pytest_gvisor.run.recorded import Recorded

FOLDER = "a" * 64 + "-12345678"
RECORD = Recorded(order={}, config="", events="", max_output=1, runsc="/runsc", states={})


class Config:
    """A configuration whose options are ``options``."""

    def __init__(self, **options: Any) -> None:
        self.option = SimpleNamespace(plugins=[], **options)
        self.invocation_params = SimpleNamespace(dir="/project")
        self.rootpath, self.inipath = "/project", None
        self.pluginmanager = SimpleNamespace(hasplugin=lambda name: name == "cacheprovider")
        self.stash = pytest.Stash()
        self.cleanups: list[Callable[[], None]] = []
        self.add_cleanup = self.cleanups.append

    def getoption(self, name: str, default: object) -> object:
        """Return the value of an option."""
        return getattr(self.option, name, default)


class Session:
    """Sessions of one user with a kept sandbox; `started` counts what is started ahead."""

    def __init__(self, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.image = str(image)
        self.started = self.closed = 0
        monkeypatch.setattr(kept_ahead, "Launched", self._launch)
        self.launcher: Any = SimpleNamespace(begun=lambda: SimpleNamespace(session="/s"))

    def _launch(self, _record: Recorded, _keeper: object, _session: str, lock: int) -> object:
        os.close(lock)
        self.started += 1

        def close() -> None:
            self.closed += 1

        return SimpleNamespace(close=close, release=lambda: None)

    def run(self, *, adopted: bool, env: dict[str, str] | None = None, **options: Any) -> bool:
        """Run one session; return whether it has started the sandbox ahead."""
        config: Any = Config(**options)
        before = self.started
        kept_ahead.begin(config, self.launcher, env or {})
        ahead = kept_ahead.take(config, self.image)
        used = adopted and ahead is not None
        kept_ahead.note(config, env or {}, self.image, RECORD, adopted=used)
        return self.started > before


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """Sessions with a kept sandbox."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image = tmp_path / "pytest-gvisor/sandboxes-1" / FOLDER / "image"
    image.mkdir(mode=0o700, parents=True)
    for folder in image.parents[:3]:
        folder.chmod(0o700)
    (image.parent / "lock").touch()
    return Session(image, monkeypatch)


def test_a_session_starts_what_the_last_one_has_started(session: Session) -> None:
    """Its record stays as it is, while it is right."""
    assert not session.run(adopted=True)
    record = Path(session.image).parent / "start.json"
    before = record.stat().st_ino
    assert session.run(adopted=True)
    assert session.run(adopted=True)
    assert record.stat().st_ino == before


@pytest.mark.parametrize("change", [{"env": {"CI": "1"}}, {"verbose": 1}, {"gvisor_user": "x"}])
def test_other_options_and_variables_lead_elsewhere(
    change: dict[str, Any], session: Session
) -> None:
    """A sandbox that would not be used is not started."""
    session.run(adopted=True)
    assert not session.run(adopted=True, **change)


def test_it_is_given_up_after_three_sessions_in_vain(session: Session) -> None:
    """A start that is never the right one costs each session a processor's time."""
    assert [session.run(adopted=False) for _ in range(6)] == [False, True, True, True, False, False]


def test_one_that_was_right_is_tried_again(session: Session) -> None:
    """Only sessions in a row count."""
    runs = [session.run(adopted=adopted) for adopted in (False, False, True, False, False, False)]
    assert runs == [False, True, True, True, True, True]
    assert not session.run(adopted=False)


def test_one_that_nobody_takes_is_removed_and_counts(session: Session) -> None:
    """With another image it is none of this session's."""
    session.run(adopted=True)
    for number in (1, 2, 3):
        config: Any = Config()
        kept_ahead.begin(config, session.launcher, {})
        assert kept_ahead.take(config, "/another/image") is None
        assert session.closed == number
    config = Config()
    kept_ahead.begin(config, session.launcher, {})
    assert session.started == 3


def test_it_is_removed_with_the_session(session: Session) -> None:
    """A usage error after the start is such an end."""
    session.run(adopted=True)
    config: Any = Config()
    kept_ahead.begin(config, session.launcher, {})
    (cleanup,) = config.cleanups
    cleanup()
    cleanup()
    assert session.closed == 1


@pytest.mark.parametrize("part", ["start.json", "lock", ""])
def test_nothing_is_started_from_what_others_can_write(part: str, session: Session) -> None:
    """Nor without the lock, which says that the image stays."""
    session.run(adopted=True)
    path = Path(session.image).parent / part
    if part == "lock":
        path.unlink()
    elif part:
        path.chmod(0o666)
    else:
        path.parent.chmod(0o777)
    config: Any = Config()
    kept_ahead.begin(config, session.launcher, {})
    assert session.started == 0


def test_reprobe_starts_nothing_ahead(session: Session) -> None:
    """The option drops the kept sandbox."""
    session.run(adopted=True, gvisor_reprobe=True)
    assert not session.run(adopted=True, gvisor_reprobe=True)


def test_the_lock_is_let_go_where_no_keeper_comes_up(session: Session) -> None:
    """Another session may remove the sandbox then."""
    session.run(adopted=True)

    def begun() -> None:
        raise LaunchError("keeper", "it does not come up")

    config: Any = Config()
    launcher: Any = SimpleNamespace(begun=begun)
    kept_ahead.begin(config, launcher, {})
    with open(Path(session.image).parent / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
