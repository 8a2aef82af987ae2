"""The fixture images as archives of `make images`, and the expected result of each."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest

from fixtures.make import ARCHIVES


def archive(name: str) -> Path:
    """The archive of a fixture image. Skips if it has not been made; `make images` makes them."""
    path = ARCHIVES / f"{name}.tar"
    if not path.exists():
        pytest.skip("no archives of the fixture images: run make images")
    return path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A run of a fixture image, and all that it must say."""

    name: str
    args: tuple[str, ...] = ()
    input: str = ""
    stdout: str
    stderr: str = ""
    status: int = 0


CASES = (
    Case(name="busybox", stdout="hello\n"),
    Case(
        name="users",
        stdout="hello /home/app\nuid=1000(app) gid=1001(app) groups=1001(app),2000(more)\n/data\n",
        status=3,
    ),
    Case(
        name="python",
        args=("main.py", "a b"),
        input="given",
        stdout=json.dumps(
            {
                "ids": [1234, 5678, [5678]],
                "folder": "/app",
                "home": "/",
                "greeting": "hello",
                "arguments": ["a b"],
                "input": "given",
                "modules": [hashlib.sha256(b"").hexdigest()[:8], 2363233923, "/usr"],
            }
        )
        + "\n",
        stderr="to standard error\n",
        status=5,
    ),
    Case(name="server", stdout="answered: a page from inside\nrefused: nothing\n"),
    Case(
        name="volumes",
        stdout="/state 755 1000:1000\nkept\n/made is root's\n/state is mounted\n/made is mounted\n",
        status=3,
    ),
)


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """The entries of a folder by path: kind and mode, owner, time, and content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        owner = status.st_uid, status.st_gid
        found[str(path.relative_to(folder))] = (status.st_mode, owner, status.st_mtime_ns, content)
    return found
