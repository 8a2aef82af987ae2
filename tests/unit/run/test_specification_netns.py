"""The network namespaces that a sandbox may join."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.run.specification import check_netns

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: a network namespace, and init's"
)


def test_a_relative_path_is_refused() -> None:
    """A relative path would name another file in the keeper."""
    with pytest.raises(UsageError, match="not an absolute path"):
        check_netns("run/netns/x")


def test_a_path_that_is_not_there_is_refused_with_a_next_step() -> None:
    """The next step is the command of `ip netns` that makes the namespace."""
    with pytest.raises(UsageError, match="ip netns add"):
        check_netns("/run/netns/no-such-namespace")


@needs_root
def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path) -> None:
    """Only a file of nsfs is a namespace."""
    (tmp_path / "x").touch()
    with pytest.raises(UsageError, match="is not a network namespace"):
        check_netns(str(tmp_path / "x"))


@needs_root
@pytest.mark.parametrize("name", ["1", "self", "thread-self"])
def test_the_host_s_own_is_refused(name: str) -> None:
    """runsc would take its addresses away."""
    path = f"/proc/{name}/ns/net"
    # In a container root may not look at process 1's namespaces; then they cannot be used either.
    reason = "host's own network namespace" if os.path.exists(path) else "Permission denied"
    with pytest.raises(UsageError, match=reason):
        check_netns(path)


@needs_root
def test_another_one_is_accepted() -> None:
    """Another namespace is accepted, whatever its path is."""
    argv = ["unshare", "--net", "sh", "-c", "echo made; read wait"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        check_netns(f"/proc/{process.pid}/ns/net")
        process.kill()


@needs_root
def test_an_init_that_hides_its_namespace_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's first thread shows the host's namespace if init may not be read."""
    real = os.stat

    def stat(path: str, **how: Any) -> os.stat_result:
        if path == "/proc/1/ns/net":
            raise PermissionError(path)
        return real("/proc/thread-self/ns/net" if path == "/proc/2/ns/net" else path, **how)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(UsageError, match="host's own network namespace"):
        check_netns("/proc/self/ns/net")
