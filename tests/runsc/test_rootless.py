"""The ways without root, kept apart: mappings in the bundle, the child's namespace, runsc's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Platform, UsageError, empty
from pytest_gvisor.programs.proc import words_of
from tests.runsc.conftest import Running, Start

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it chooses to be rootless")
needs_user = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: --rootless is for these"
)


def config_of(run: Running) -> Any:
    """The config.json that runsc was given."""
    argv = words_of(run.runsc)
    return json.loads(Path(argv[argv.index("--bundle") + 1], "config.json").read_text())


def namespaces_of(config: Any) -> set[str]:
    return {namespace["type"] for namespace in config["linux"]["namespaces"]}


@needs_root
def test_root_may_be_rootless(running: Start) -> None:
    """With `rootless=on` root's sandbox has mappings in its bundle, and no `--rootless`."""
    run = running(rootless="on")
    argv, config = words_of(run.runsc), config_of(run)
    assert "--rootless" not in argv
    assert "--ignore-cgroups" in argv
    assert "user" in namespaces_of(config)
    whole = [{"containerID": 0, "hostID": 0, "size": 4294967295}]
    assert (config["linux"]["uidMappings"], config["linux"]["gidMappings"]) == (whole, whole)
    inside = os.readlink(f"/proc/{run.child('boot')}/ns/user")
    assert inside != os.readlink("/proc/self/ns/user")
    run.end()


@needs_root
@pytest.mark.parametrize("rootless", ["auto", "off"])
def test_root_is_not_rootless_unless_asked(running: Start, rootless: str) -> None:
    """Root's sandbox has neither mappings nor --rootless."""
    run = running(rootless=rootless)
    config = config_of(run)
    assert "--rootless" not in words_of(run.runsc)
    assert "user" not in namespaces_of(config)
    assert not config["linux"].get("uidMappings")
    run.end()


@needs_user
@pytest.mark.parametrize("rootless", ["auto", "on"])
def test_an_unprivileged_user_is_rootless(running: Start, rootless: str) -> None:
    """The child makes the user namespace: no `--rootless`, and no mappings in the bundle."""
    run = running(rootless=rootless)
    argv, config = words_of(run.runsc), config_of(run)
    assert "--rootless" not in argv
    mapped = Path(f"/proc/{run.runsc}/uid_map").read_text().split()
    assert mapped == ["0", str(os.geteuid()), "1"]
    assert "user" not in namespaces_of(config)
    assert not config["linux"].get("uidMappings")
    run.end()


@needs_user
def test_runsc_makes_the_namespace_where_nothing_of_the_host_is_shown(gvisor: Gvisor) -> None:
    """A root of given files alone needs no mount of the child's."""
    root = empty({"bin/busybox": Path("/bin/busybox").read_bytes()})
    done = gvisor.run(["/bin/busybox", "id", "-u"], rootfs=root)
    assert done.stdout == "0\n"
    argv = gvisor.records[-1].argv
    assert argv.index("--rootless") < argv.index("run")


@needs_user
def test_an_unprivileged_user_has_no_privileged_way(gvisor: Gvisor) -> None:
    """rootless=off without root is an error before anything is started."""
    with pytest.raises(UsageError, match="rootless=off needs root"):
        gvisor.run(["true"], rootless="off")
    assert gvisor.records == []


INNER = """
import json, os
from pytest_gvisor import is_gvisor_kernel

def test_inside(gvisor):
    done = gvisor.run(["sh", "-c", "id -u; uname -r; cat"], input="through")
    uid, release, rest = done.stdout.split("\\n")
    assert (uid, is_gvisor_kernel(release), rest) == ("0", True, "through"), done
    argv = gvisor.records[-1].argv
    assert "--rootless" not in argv, argv
    assert "--ignore-cgroups" in argv

def test_config(oci_bundle):
    linux = oci_bundle(["true"]).spec.linux
    assert "user" in {namespace.type for namespace in linux.namespaces}
    uid_map = [list(map(int, line.split())) for line in open("/proc/self/uid_map")]
    assert [[m.container_id, m.size] for m in linux.uid_mappings] == [[a, c] for a, b, c in uid_map]
    assert all(m.host_id == m.container_id for m in linux.uid_mappings)

def test_host_network(gvisor):
    import socket, threading
    server = socket.create_server(("127.0.0.1", 0))
    def answer():
        server.accept()[0].sendall(b"hello")
    thread = threading.Thread(target=answer)
    thread.start()
    code = (
        "import socket, sys\\n"
        "print(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 10).recv(5).decode())"
    )
    port = str(server.getsockname()[1])
    done = gvisor.run(["python3", "-c", code, port], network="host")
    thread.join()
    server.close()
    assert done.stdout == "hello\\n", done

def test_deadline(gvisor):
    import pytest
    from pytest_gvisor import WorkloadTimeout
    with pytest.raises(WorkloadTimeout):
        gvisor.run(["sleep", "1000"], timeout=1)
"""


def test_a_process_in_a_mapped_user_namespace_is_mapped(
    gvisor_platform: Platform, tmp_path: Path
) -> None:
    """Root of an `unshare -r` gets mappings, also with the host's network."""
    (tmp_path / "test_inner.py").write_text(INNER)
    # fmt: off
    argv = [
        "unshare", "--user", "--map-root-user", sys.executable, "-m", "pytest", "-q",
        "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull,
        "--basetemp", str(tmp_path / "inner"),
        "--gvisor-platform", gvisor_platform, "--gvisor-strict", str(tmp_path / "test_inner.py"),
    ]
    # fmt: on
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
