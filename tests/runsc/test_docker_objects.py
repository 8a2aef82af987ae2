"""The objects in a docker daemon after a SIGKILL of this package."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.make import context
from pytest_gvisor.images.cache import Cache

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")

PATIENCE = 20


def docker(address: str, *argv: str) -> str:
    """Run docker with this daemon, and return its output."""
    command = ["docker", "--host", address, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def folder(tmp_path: Path, *lines: str) -> Path:
    """A context whose image has busybox and these lines of a Dockerfile."""
    made = context("busybox", tmp_path / f"context-{len(lines)}-{hash(lines)}")
    with open(made / "Dockerfile", "a", encoding="utf-8") as file:
        file.write("\n".join(("", *lines, "")))
    return made


def wait(what: Callable[[], object]) -> None:
    """Until it holds."""
    ends = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.05)


IMAGES = ("images", "--all", "--no-trunc", "--quiet")


def objects(address: str) -> dict[str, set[str]]:
    """The ids of the objects in a daemon, of each kind."""
    lists = {
        "containers": ("ps", "--all", "--no-trunc", "--quiet"),
        "images": IMAGES,
        "networks": ("network", "ls", "--no-trunc", "--quiet"),
        "volumes": ("volume", "ls", "--quiet"),
    }
    return {kind: set(docker(address, *words).split()) for kind, words in lists.items()}


@pytest.mark.fault("H5")
def test_sigkill_in_the_middle_of_a_build_leaves_no_container(
    dockerd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon sees the connection close, and removes the build's container.

    What it keeps of the steps before has no label yet, like those of any build.
    """
    monkeypatch.setenv("DOCKER_HOST", dockerd)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sleeping = 'RUN ["/bin/busybox", "sleep", "600"]'
    code = (
        "import sys; from pytest_gvisor.images.cache import Cache\n"
        "from pytest_gvisor.images.store import Images\n"
        f"Images(Cache({str(tmp_path / 'cache')!r})).build(sys.argv[1])\n"
    )
    theirs = docker(dockerd, "network", "create", "theirs").strip()
    docker(dockerd, "volume", "create", "theirs")
    before = objects(dockerd)
    argv = [sys.executable, "-c", code, str(folder(tmp_path, "LABEL which=killed", sleeping))]
    try:
        with subprocess.Popen(argv) as process:
            try:
                wait(lambda: docker(dockerd, "ps", "--quiet", "--filter", "status=running") != "")
            finally:
                process.kill()
        wait(lambda: objects(dockerd)["containers"] == before["containers"])
        after = objects(dockerd)
        steps = after.pop("images") - before["images"]
        assert before.pop("images") <= set(docker(dockerd, *IMAGES).split())
        assert after == before
        label = ("--format", "{{json .Config.Labels}} {{.RepoTags}}")
        assert set(docker(dockerd, "inspect", *label, *steps).split("\n")) <= {
            "null []", '{"which":"killed"} []', "",
        }  # fmt: skip
    finally:
        docker(dockerd, "network", "rm", theirs)
        docker(dockerd, "volume", "rm", "theirs")


@pytest.mark.fault("H5")
def test_sigkill_in_the_middle_of_an_export_leaves_nothing(dockerd: str, tmp_path: Path) -> None:
    """The archive has no name; the folder that was to have the image goes with the next session."""
    code = (
        "import os, signal, sys\n"
        "from pytest_gvisor.images.cache import Cache\n"
        "from pytest_gvisor.images.docker import Daemon\n"
        "from pytest_gvisor.images.store import Images\n"
        "real = Daemon._archive\n"
        "def killed(self, identity):\n"
        "    yield next(real(self, identity))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "Daemon._archive = killed\n"
        f"Images(Cache({str(tmp_path / 'cache')!r})).build(sys.argv[1])\n"
    )
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {**os.environ, "DOCKER_HOST": dockerd, "TMPDIR": str(temporary)}
    argv = [sys.executable, "-c", code, str(context("busybox", tmp_path / "context"))]
    assert subprocess.run(argv, env=env, timeout=60).returncode == -9
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / "cache").glob("*/rootfs"))
    Cache(str(tmp_path / "cache")).prune()
    assert [path for path in (tmp_path / "cache").iterdir() if path.name != "lock"] == []
