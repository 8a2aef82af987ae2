"""Fixtures of the tests of bundles."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"


def change(value: dict[str, Any], place: str, entry: object) -> dict[str, Any]:
    """A specification with another entry at a place such as ``process.rlimits[0].soft``."""
    *way, last = (int(step) if step.isdigit() else step for step in re.findall(r"[^.[\]]+", place))
    target: Any = value
    for step in way:
        target = target.setdefault(step, {}) if isinstance(target, dict) else target[step]
    target[last] = entry
    return value


@pytest.fixture
def sample() -> Callable[[str], dict[str, Any]]:
    """Reads a config.json that another tool really wrote."""

    def read(name: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
        return made

    return read


@pytest.fixture
def value() -> dict[str, Any]:
    """A small specification that breaks no rule."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["true"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "env": ["A=1"],
            "capabilities": {"permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        },
        "root": {"path": "/srv/root"},
        "hostname": "name",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "uts"}]},
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[[object], str]:
    """Writes a bundle as another tool would, with a rootfs that has a busybox."""

    def write(value: object) -> str:
        folder = tmp_path / "elsewhere"
        for name in ("bin", "dev", "proc", "sys", "tmp"):
            (folder / "rootfs" / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", folder / "rootfs/bin/busybox")
        os.symlink("busybox", folder / "rootfs/bin/sh")
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        (folder / "config.json").write_bytes(data)
        return str(folder)

    return write


@pytest.fixture
def tree() -> Callable[[Path], list[tuple[Any, ...]]]:
    """A function that reads a folder: names, modes, owners, times, contents."""

    def read(folder: Path) -> list[tuple[Any, ...]]:
        found = []
        for path in sorted([folder, *folder.rglob("*")]):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            facts = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
            found.append((str(path), *facts, content))
        return found

    return read
