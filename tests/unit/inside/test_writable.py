"""Folders that tests inside write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import visible
from pytest_gvisor.programs.proc import IdRange
from pytest_gvisor.sessions import places

MAPS = {"0 0 4294967295": False, "0 1000 1": True, "0 100000 65536": True}


@pytest.mark.parametrize("line", MAPS)
def test_who_is_no_root_outside_may_hand_out_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Root in a user namespace leaves files of the user that it is on the host."""
    monkeypatch.setattr(places, "id_map", lambda: (IdRange(*map(int, line.split())),))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(visible, "harmful", lambda folder: folder)
    if MAPS[line]:
        visible.check_writable([str(tmp_path)])
        assert [mount.source for mount in visible.writable_mounts([str(tmp_path)])] == [
            str(tmp_path)
        ]
    else:
        for ask in (visible.check_writable, visible.writable_mounts):
            with pytest.raises(UsageError, match="set-uid"):
                ask([str(tmp_path)])


def test_a_folder_that_is_not_there_yet_is_judged_when_it_is(tmp_path: Path) -> None:
    """The start of the session passes it over; the first sandbox does not."""
    visible.check_writable([str(tmp_path / "missing")])
    with pytest.raises(UsageError, match="cannot mount"):
        visible.writable_mounts([str(tmp_path / "missing")])


def test_a_folder_that_cannot_be_asked_is_harmful(tmp_path: Path) -> None:
    """A file system with unknown options counts as harmful."""
    assert visible.harmful(str(tmp_path / "missing")) == str(tmp_path / "missing")
