"""The end of the sandboxes for tests inside."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_gvisor.inside.session import InsideSession


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
