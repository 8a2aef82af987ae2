"""docs/databases.md with PostgreSQL and Redis of Debian: run by ``make ecosystem``."""

from pathlib import Path

import pytest

from tests.site.test_pages import ran_as_shown


def test_the_page_of_databases_is_what_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both servers start in a sandbox and answer."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert ran_as_shown("databases.md", tmp_path) == 2
