"""Little projects that a test inside attacks from, and a file of the user."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inside.conftest import apart, project  # noqa: F401 -- a fixture

RunInside = Callable[..., pytest.RunResult]
SECRET = "token = 'of the user'\n"


@pytest.fixture
def run_inside(project: pytest.Pytester) -> RunInside:  # noqa: F811 -- the fixture
    """Run the tests of a project inside, attacked in a process that is not this one."""
    return functools.partial(apart, project)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's user, outside of the project, that coverage can show: it is Python."""
    path = tmp_path / "authorized_keys"
    path.write_text(SECRET)
    return path
