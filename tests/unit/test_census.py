"""The checks of the fault tests: trees are compared to the last byte, and remains are seen."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import words_of
from tests.faults.census import census, facts
from tests.faults.little import eventually
from tests.leakcheck import Holdings

CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "d/f").write_text("y"),
    "mode": lambda root: (root / "d").chmod(0o700),
    "time": lambda root: os.utime(root / "d/f", ns=(0, 0)),
    "link": lambda root: os.replace(root / "other", root / "link"),
    "new": lambda root: (root / "d/new").touch(),
    "gone": lambda root: (root / "d/f").unlink(),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder, a file and links."""
    (tmp_path / "d").mkdir(mode=0o755)
    (tmp_path / "d/f").write_text("x")
    (tmp_path / "link").symlink_to("d/f")
    (tmp_path / "other").symlink_to("d")
    return tmp_path


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_change_of_a_tree_is_seen(tree: Path, change: Callable[[Path], object]) -> None:
    """A canary proves something only if each change is seen."""
    before = facts(tree)
    assert facts(tree) == before
    change(tree)
    assert facts(tree) != before


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a session's folder on its command line, as a sandbox that was left has."""
    argv = [
        sys.executable,
        "-c",
        "import time; time.sleep(100)",
        "--root=/nowhere/pytest-gvisor/s-1/g1",
    ]
    with subprocess.Popen(argv) as process:
        yield process
        process.kill()


def test_what_is_left_is_in_the_census(stray: subprocess.Popen[bytes]) -> None:
    """A process, a socket and a temporary file that were not there before."""
    with (
        tempfile.NamedTemporaryFile(dir=tempfile.gettempdir()) as file,
        tempfile.TemporaryDirectory(prefix="pgf-", dir="/tmp") as folder,
        socket.socket(socket.AF_UNIX) as bound,
    ):
        bound.bind(f"{folder}/a socket")
        expected = [
            f"process {stray.pid}: ", f"temporary {file.name}", f"socket {folder}/a socket",
        ]  # fmt: skip

        def all_seen() -> bool:
            found = census()
            return all(any(line.startswith(start) for line in found) for start in expected)

        assert eventually(all_seen) is not None, census()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runsc create")
def test_a_sandbox_of_a_session_that_is_over_is_in_the_census(runsc: Runsc) -> None:
    """The census calls ``runsc list`` with the session's folder, not only with the default one."""
    with tempfile.TemporaryDirectory(prefix="pgf-", dir="/tmp") as folder:
        root = Path(folder, "s-0123456789ab/g01234567/root")
        bundle = Path(folder, "bundle")
        (bundle / "rootfs").mkdir(parents=True)
        root.mkdir(parents=True)
        spec = {"ociVersion": "1.0.0", "root": {"path": "rootfs"},
                "process": {"args": ["x"], "cwd": "/"}}  # fmt: skip
        (bundle / "config.json").write_text(json.dumps(spec))
        argv = [str(runsc.path), "--root", str(root), "--ignore-cgroups", "--network=none"]
        try:
            subprocess.run([*argv, "create", "--bundle", str(bundle), "left"], check=True)
            assert f"runsc list: left {root}" in census()
        finally:
            subprocess.run([*argv, "delete", "--force", "left"], check=True)
            leftovers.unmount(folder)
        assert f"runsc list: left {root}" not in census()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mount")
def test_a_mount_is_in_the_census_and_in_the_look_after_each_test(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Runsc makes such a mount in its state folder; the kernel writes its path with escapes."""
    base = tmp_path_factory.getbasetemp()
    before, place = Holdings.now(base), tmp_path / "null netns"
    place.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", place], check=True)
    try:
        found = Holdings.now(base).beyond(before, before)
        assert f"mount {place}" in found
        assert f"mount {place} (nsfs)" in census()
    finally:
        leftovers.unmount(str(tmp_path))
    assert Holdings.now(base).beyond(before, before) == []


KEEPER = """
import subprocess, sys
words = ["/pytest_gvisor/keeper.py", "3", "/nowhere/s-1"]
argv = [sys.executable, "-c", "import time; time.sleep(100)", *words]
keeper = subprocess.Popen(argv)
print(keeper.pid, flush=True)
sys.stdin.read()
"""


def test_a_session_is_left_when_its_pytest_is_gone_and_not_before() -> None:
    """Another session of this machine does not count while its pytest lives."""
    argv = [sys.executable, "-c", KEEPER]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdin
        pid = int(process.stdout.readline())
        line = f"process {pid}: "
        try:
            assert eventually(lambda: "keeper.py" in " ".join(words_of(pid)), 10) is not None
            assert not [found for found in census() if found.startswith(line)]
            process.stdin.close()
            process.wait()
            assert [found for found in census() if found.startswith(line)]
        finally:
            os.kill(pid, 9)
