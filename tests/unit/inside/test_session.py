"""The host's work for tests inside, ahead of their turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.inside import session
from pytest_gvisor.inside.session import InsideSession


class Item:
    """Takes the place of a test; ``breaks`` is one whose project fails to say where it is."""

    def __init__(self, *, breaks: bool = False, refused: bool = False) -> None:
        self.breaks = breaks
        self.refused = refused
        self.did: list[str] = []

    @property
    def location(self) -> str:
        """Return the place of the test."""
        self.did.append("location")
        if self.breaks:
            raise OSError("of the project")
        return ""


def chores(items: list[Item], monkeypatch: pytest.MonkeyPatch, **config: object) -> list[list[str]]:
    """Return the work that is done for each test before its turn."""
    monkeypatch.setattr(session, "is_refused", lambda item: item.refused)
    cell_of = "pytest_gvisor.inside.session.cells.cell_of"
    monkeypatch.setattr(cell_of, lambda item: item.did.append("cell"))
    these = SimpleNamespace(_config=SimpleNamespace(**config))
    for _chore in InsideSession._chores(cast("Any", these), cast("Any", items)):
        pass
    return [item.did for item in items]


def test_each_test_is_prepared_while_the_pytest_inside_collects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A test that breaks does so again in its turn."""
    items = [Item(breaks=True), Item(refused=True), Item()]
    assert chores(items, monkeypatch) == [["location"], ["location"], ["location", "cell"]]


def test_a_worker_of_xdist_prepares_no_tests_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has collected all tests, and runs some."""
    assert chores([Item()], monkeypatch, workerinput={}) == [[]]


class Leaving:
    """Takes the place of the pytest of a sandbox, and of the sandbox that is being removed."""

    def __init__(self) -> None:
        self.patience = -1.0
        self.closed = False

    def finish(self, patience: float) -> Leaving:
        """End the pytest."""
        self.patience = patience
        return self

    def close(self) -> None:
        """Wait for the sandbox's removal."""
        self.closed = True


@pytest.mark.parametrize("writable", [(), ("/somewhere",)])
def test_the_last_sandbox_is_removed_while_the_session_ends(writable: tuple[str, ...]) -> None:
    """Each other one is waited for. A sandbox that writes to the host ends by itself."""
    sandboxes = [Leaving() for _ in range(3)]
    groups = [SimpleNamespace(worker=one, items=[]) for one in sandboxes]
    these = InsideSession.__new__(InsideSession)
    vars(these).update(
        _groups=groups,
        _leaving=None,
        _inside=SimpleNamespace(writable=writable),
        copies=SimpleNamespace(close=lambda: None),
        _config=SimpleNamespace(workerinput={"workerid": "gw1"}, stash={}),
        _bounds=SimpleNamespace(close=lambda: None),
    )
    these.close()
    assert [one.closed for one in sandboxes] == [True, True, False]
    assert all(bool(one.patience) == bool(writable) for one in sandboxes)
    these.end()
    assert sandboxes[-1].closed
