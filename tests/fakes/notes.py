"""Verdicts on platforms in a folder of a test's own, apart from those of other tests' sessions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.harness import verdicts
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.sessions.boot_notes import Note
from pytest_gvisor.settings import Platform


def keep_verdicts_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the verdicts of this test in a private folder below this one."""
    path = str(folder / "verdicts")

    def note(fingerprint: str, platform: Platform) -> Note:
        return Note(folder=path, kind="v", digest=fingerprint, name=platform.value)

    monkeypatch.setattr(verdicts, "_note", note)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    """An engine that has found out nothing yet, nor any other before it."""
    keep_verdicts_in(tmp_path, monkeypatch)
    made = Engine()
    yield made
    made.close()
