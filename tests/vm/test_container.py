"""The VM in docker's default container, where the profile forbids each sandbox of runsc's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.dockerd import own_daemon
from pytest_gvisor.runsc import locate

CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534
FOLDERS = ("dev", "home", "opt", "proc", "root", "run", "srv", "sys", "var")


@pytest.fixture(scope="module")
def container(
    vm_options: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """The command of a container with this machine's /usr, and no option for its rights."""
    tree = tmp_path_factory.mktemp("container")
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / name).symlink_to(f"usr/{name}")
    for name in FOLDERS:
        (tree / name).mkdir()
    (tree / "tmp").mkdir()
    (tree / "tmp").chmod(0o1777)
    (tree / "home/secret").write_text("root's own")
    (tree / "home/secret").chmod(0o600)
    packed = subprocess.run(["tar", "-C", tree, "-c", "."], capture_output=True, check=True)
    shown = {"/usr", "/etc", sys.prefix, sys.base_prefix, str(CHECKOUT)}
    if not vm_options:
        shown.add("/boot")
    with own_daemon() as address:
        docker = ["docker", "--host", address]
        imported = subprocess.run(
            [*docker, "import", "-", "vm:test"], input=packed.stdout, capture_output=True
        )
        assert imported.returncode == 0, imported.stderr
        run = [*docker, "run", "--rm", "--network", "none", f"--workdir={CHECKOUT}"]
        yield [*run, *(f"--volume={path}:{path}:ro" for path in sorted(shown))]


def in_the_vm(
    container: list[str], vm_options: list[str], uid: int, *command: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a VM in a container, as this user there."""
    vm = [sys.executable, "-m", "pytest_gvisor", "vm", *vm_options, "--timeout=800", "--"]
    return subprocess.run(
        [*container, f"--user={uid}:{uid}", "vm:test", *vm, *command],
        capture_output=True, text=True, timeout=850, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_workload_runs_there(container: list[str], vm_options: list[str]) -> None:
    """A workload runs as the container's root, whose own kernel refuses namespaces and mounts.

    Without pytest, whose import takes half a minute there: scripts/suite-in-vm runs it in a VM.
    """
    refused = subprocess.run(
        [*container, "vm:test", "unshare", "--mount", "true"], capture_output=True, text=True
    )
    assert "Operation not permitted" in refused.stderr
    runsc = locate.find()
    runsc.close()
    # Its first start reads much of it through 9p, which takes longer than it may take to answer.
    first = f'{runsc.path} --version >&2; {runsc.path} flags >/dev/null 2>&1; exec "$@"'
    # fmt: off
    done = in_the_vm(
        container, vm_options, 0, "sh", "-c", first, "sh", sys.executable, "-m", "pytest_gvisor",
        "run", "--platform=systrap", "--timeout=360", "echo", "hello",
    )
    # fmt: on
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_a_user_of_the_container_has_a_vm(container: list[str], vm_options: list[str]) -> None:
    """The user's command is root in the VM, and reads no file that the user may not read."""
    script = "uname -r; id -u; cat /home/secret"
    done = in_the_vm(container, vm_options, NOBODY, "sh", "-c", script)
    assert done.returncode == 1, done.stderr
    release, uid = done.stdout.split()
    assert uid == "0"
    assert release != os.uname().release
    assert done.stderr == "cat: /home/secret: Permission denied\n"
