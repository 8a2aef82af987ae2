"""Little projects that a test inside attacks from, and a file of the user."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inside.conftest import project, run_inside  # noqa: F401 -- fixtures

RunInside = Callable[..., pytest.RunResult]
SECRET = "token = 'of the user'\n"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's user, outside of the project, that coverage can show: it is Python."""
    path = tmp_path / "authorized_keys"
    path.write_text(SECRET)
    return path
