"""The objects in a docker daemon after a SIGKILL of this package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.make import context
from pytest_gvisor.images.cache import Cache

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")


def docker(address: str, *argv: str) -> str:
    """Run docker with this daemon, and return its output."""
    command = ["docker", "--host", address, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


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
        f"Images(Cache({str(tmp_path / 'cache')!r})).rootfs('killed:1')\n"
    )
    docker(dockerd, "build", "--quiet", "--tag=killed:1", str(context("busybox", tmp_path / "c")))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {**os.environ, "DOCKER_HOST": dockerd, "TMPDIR": str(temporary)}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == -9
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / "cache").glob("*/rootfs"))
    Cache(str(tmp_path / "cache")).prune()
    assert [path for path in (tmp_path / "cache").iterdir() if path.name != "lock"] == []
