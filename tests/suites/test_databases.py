"""docs/databases.md with Debian's PostgreSQL and Redis, from ``scripts/setup databases``."""

import shutil
from pathlib import Path

import pytest

from tests.site.test_pages import ran_as_shown


def test_the_page_of_databases_is_what_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers start in a sandbox, and clients beside them, on the host and in another sandbox."""
    if not shutil.which("redis-server") or not Path("/usr/lib/postgresql").exists():
        pytest.skip("no PostgreSQL or Redis: run scripts/setup databases")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert ran_as_shown("databases.md", tmp_path) == 3
