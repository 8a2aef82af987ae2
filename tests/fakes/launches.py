"""Fixtures for tests of runs and sessions: a launcher of their own, and runs of a fake runsc."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs import linux
from pytest_gvisor.sessions.launcher import Launcher
from tests.mounts import masked


@pytest.fixture
def base() -> Iterator[str]:
    """A folder for sessions, with a path that is short enough for their sockets."""
    folder = tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def umask(base: str) -> Iterator[None]:
    """A test that has taken every permission away, when the base folder was there."""
    with masked(0o777):
        yield


@pytest.fixture
def launcher(base: str) -> Iterator[Launcher]:
    """A launcher with a base folder of its own, closed at the end."""
    made = Launcher(base)
    yield made
    made.close()


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., Any]:
    """Factory: runs Python in a process of its own, as the keeper is run, and gives its `result`.

    The code has `linux`, `child`, `order`, `leftovers`, `os` and `signal`, and nothing but the
    standard library can be imported. Keyword arguments are variables of the code; ``before`` comes
    first.
    """

    def run(code: str, *, before: str = "", **values: object) -> Any:
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        program = "\n".join([PROLOGUE, before, *lines, textwrap.dedent(code), EPILOGUE])
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, LAUNCH],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


LAUNCH = os.path.dirname(linux.__file__)
PROLOGUE = """\
import json, os, signal, sys
for name in ("pytest_gvisor", "pytest_gvisor.programs"):  # as bootstrap.py does
    sys.modules[name] = package = type(sys)(name)
    package.__path__ = [sys.argv[1]]
from pytest_gvisor.programs import linux, child, order, leftovers, proc
"""
EPILOGUE = "print(json.dumps(result))"
