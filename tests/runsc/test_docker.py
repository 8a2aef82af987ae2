"""Images of a real docker daemon, and the same in ``docker run --runtime=runsc``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.dockerd import own_daemon
from fixtures.make import context
from pytest_gvisor import Gvisor, ImageError, PytestGvisorWarning
from pytest_gvisor.images import docker
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")


@pytest.fixture(scope="module")
def address(gvisor_runsc: str) -> Iterator[str]:
    """A dockerd of this module's own, with runsc as a runtime."""
    with own_daemon(gvisor_runsc, "systrap") as found:
        yield found


@pytest.fixture(scope="module")
def gvisor_runsc(request: pytest.FixtureRequest) -> str:
    """The path of the binary."""
    return str(request.getfixturevalue("runsc").path)


@pytest.fixture
def images(
    gvisor: Gvisor, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Images]:
    """What this test has of the daemon, with a cache of its own."""
    monkeypatch.setenv("DOCKER_HOST", address)
    made = Images(Cache(str(tmp_path / "cache")))
    gvisor._images = lambda: made
    yield made
    made.close()


def test_an_image_is_built_exported_and_run_as_docker_runs_it(
    gvisor: Gvisor, images: Images, address: str, tmp_path: Path
) -> None:
    """The same output, identity and exit status; the second time it comes from the cache."""
    rootfs = images.build(context("users", tmp_path / "users"), args={"GREETING": "hi"})
    with pytest.warns(PytestGvisorWarning, match=r"dev\.gvisor\.internal\.x"):
        ours = gvisor.run(rootfs=rootfs)
    argv = ["docker", "--host", address, "run", "--rm", "--runtime=runsc", "--network", "none",
            f"sha256:{rootfs.id}"]  # fmt: skip
    theirs = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    lines = ours.stdout.splitlines()
    assert lines[:3] == [
        "hi /home/app",
        "uid=1000(app) gid=1001(app) groups=1001(app),2000(more)",
        "/data",
    ]
    assert theirs.stdout.splitlines()[:3] == lines[:3]
    assert (ours.returncode, theirs.returncode) == (3, 3)


def test_a_name_is_looked_up_and_exported_once(
    gvisor: Gvisor,
    images: Images,
    address: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later session finds it in the cache, and exports nothing."""
    built = images.build(context("busybox", tmp_path / "busybox"))
    tag = ["docker", "--host", address, "tag", f"sha256:{built.id}", "ours:1"]
    subprocess.run(tag, check=True, timeout=60)
    monkeypatch.setattr(docker.Daemon, "export", None)
    assert gvisor.run(image="ours:1").stdout == "hello\n"
    assert gvisor.run(image="docker:ours:1").stdout == "hello\n"


def test_what_the_daemon_does_not_have_is_an_error(images: Images, tmp_path: Path) -> None:
    """It is not pulled by the policy, or cannot be; a build that fails says why."""
    with pytest.raises(ImageError, match="not to be pulled"):
        images.rootfs("none/such:1", pull="never")
    with pytest.raises(ImageError, match=r"cannot be pulled|the daemon says"):
        images.rootfs("127.0.0.1:1/none/such:1")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    with pytest.raises(ImageError, match=r"cannot be built|the daemon says"):
        images.build(tmp_path)
