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
