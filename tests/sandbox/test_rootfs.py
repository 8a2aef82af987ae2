"""Warm sandboxes in root file systems that have no Python, or nothing at all."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import (
    Gvisor,
    InsideError,
    UsageError,
    WorkloadTimeout,
    bind,
    directory,
    empty,
    is_gvisor_kernel,
    tmpfs,
)
from tests.sandbox.conftest import sentries

BB = "/bin/busybox"


def test_a_static_binary_is_enough(gvisor: Gvisor, busybox: bytes) -> None:
    """Everything works where there is neither a Python, nor a library, nor a shell."""
    with gvisor.sandbox(rootfs=empty({"bin/busybox": busybox}), env={"A": "1,2"}) as sandbox:
        done = sandbox.exec([BB, "sh", "-c", "echo $A; exit 3"])
        assert (done.returncode, done.stdout, done.exact) == (3, "1,2\n", True)
        assert sandbox.exec([BB, "id", "-u"], user=1000).stdout == "1000\n"
        assert is_gvisor_kernel(sandbox.exec([BB, "uname", "-r"]).stdout.removesuffix("\n"))
        sandbox.put("/www/index.html", "hello")
        with sandbox.popen([BB, "httpd", "-f", "-p", "127.0.0.1:80", "-h", "/www"]):
            sandbox.wait_for_port(80)
            with sandbox.forward(80) as forward:
                import urllib.request

                url = f"http://{forward.host}:{forward.port}/index.html"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    assert answer.read() == b"hello"
        with pytest.raises(WorkloadTimeout):
            sandbox.exec([BB, "sleep", "60"], timeout=0.2)
        assert sandbox.exec([BB, "true"]).returncode == 0
        with pytest.raises(InsideError, match="ENOENT"):
            sandbox.exec(["python3"])


@pytest.mark.parametrize("place", [".pytest-gvisor", "boot", "media", "srv"])
def test_a_folder_with_an_empty_folder_has_a_place_for_the_guest(
    gvisor: Gvisor, folder: Path, tree_of: Callable[[Path], list[str]], place: str
) -> None:
    """The host's Python is mounted there; in the folder itself nothing is made."""
    (folder / place).mkdir()
    before = tree_of(folder)
    with gvisor.sandbox(rootfs=directory(folder)) as sandbox:
        assert sandbox.exec([BB, "echo", "hi"]).stdout == "hi\n"
        sandbox.put("/new", "x")
        assert sandbox.get("/new") == b"x"
    assert tree_of(folder) == before


def test_a_folder_without_a_place_for_the_guest_is_refused(
    gvisor: Gvisor, folder: Path, tree_of: Callable[[Path], list[str]]
) -> None:
    """The error names the folder to make; nothing is started, and nothing is made there."""
    (folder / "boot").mkdir()
    (folder / "boot/kernel").touch()  # not empty, so it stays as it is
    before = tree_of(folder)
    with pytest.raises(UsageError, match=r"Make an empty folder \.pytest-gvisor in it"):
        gvisor.sandbox(rootfs=directory(folder))
    assert sentries(gvisor) == []
    assert gvisor.sandboxes == []
    assert tree_of(folder) == before


def test_mounts_and_settings_are_as_for_a_run(gvisor: Gvisor, tmp_path: Path) -> None:
    """Binds, a tmpfs, the host name, a read-only root, and the runsc flags of the settings."""
    tmp_path.chmod(0o777)
    (tmp_path / "file").write_text("shared")
    mounts = [bind(tmp_path, "/shared", readonly=False), tmpfs("/scratch", size="1M")]
    with gvisor.sandbox(mounts=mounts, hostname="warm", readonly=True) as sandbox:
        assert sandbox.get("/shared/file") == b"shared"
        sandbox.put("/shared/back", "there")
        assert (tmp_path / "back").read_text() == "there"
        sandbox.put("/scratch/x", "x")
        assert sandbox.exec(["hostname"]).stdout == "warm\n"
        with pytest.raises(InsideError, match="EROFS"):
            sandbox.put("/root/x", "x")


def test_a_mount_over_the_python_does_not_matter(gvisor: Gvisor, busybox: bytes) -> None:
    """The guest has a Python of its own if mounts cover the interpreter."""
    with gvisor.sandbox(mounts=[tmpfs("/usr/lib")]) as sandbox:
        sandbox.put("/tmp/b", busybox, mode=0o755)
        assert sandbox.exec(["/tmp/b", "ls", "/usr/lib"]).stdout == ""
