"""``pytest-gvisor sweep``: the remains of dead sessions."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.cli import main as cli
from pytest_gvisor.programs import leftovers
from pytest_gvisor.sessions import session_folder
from pytest_gvisor.sessions.session_folder import SessionDir


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder for sessions that no other process sweeps, and a cache that no other uses."""
    folder = tempfile.mkdtemp()  # a session's path may not be long
    monkeypatch.setattr(session_folder, "session_bases", lambda: iter([f"{folder}/base"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield f"{folder}/base"
    shutil.rmtree(folder)


def test_a_dead_session_is_removed_and_a_living_one_stays(
    base: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The sweep names each folder that it removes."""
    assert session_folder.base_folder() == base
    living = SessionDir.create(SessionDir.new_path(base))
    dead = SessionDir.create(SessionDir.new_path(base))
    dead.release()
    try:
        assert session_folder.dead(base) == [dead.path]
        assert cli.main(["sweep"]) == 0
        assert capfd.readouterr() == (f"removed {dead.path}\n", "")
        assert os.path.isdir(living.path)
        assert not os.path.exists(dead.path)
    finally:
        living.remove()


def test_the_sweep_says_what_it_found_and_what_is_left(
    base: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its whole text and status: with nothing there, with remains that stay, and after them."""
    nothing = "found no dead session of this user\n"
    assert (cli.main(["sweep"]), *capfd.readouterr()) == (0, nothing, "")
    assert session_folder.base_folder() == base
    dead = SessionDir.create(SessionDir.new_path(base))
    dead.release()
    with monkeypatch.context() as stuck:
        stuck.setattr(leftovers, "clear_session", lambda *_, **__: ["busy"])
        assert (cli.main(["sweep"]), *capfd.readouterr()) == (1, f"not removed: {dead.path}\n", "")
    assert (cli.main(["sweep"]), *capfd.readouterr()) == (0, f"removed {dead.path}\n", "")
    assert (cli.main(["sweep"]), *capfd.readouterr()) == (0, nothing, "")
