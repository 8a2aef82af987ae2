"""Podman's service instead of a docker daemon, by DOCKER_HOST."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, ImageError
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from pytest_gvisor.programs import leftovers
from tests.archives import CASES, archive

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: podman's service")

STRAYS = ("/var/lib/containers", "/run/containers", "/run/libpod")
"""Folders that podman makes besides the configured ones."""


@pytest.fixture(scope="module")
def podman() -> Iterator[str]:
    """The address of a service with all its folders in one."""
    folder = tempfile.mkdtemp(prefix="pytest-gvisor-podman-")
    strays = [path for path in STRAYS if not os.path.exists(path)]
    # fmt: off
    argv = [
        "podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run",
        "--tmpdir", f"{folder}/tmp", "--network-config-dir", f"{folder}/networks",
        "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        "system", "service", "--time", "0", f"unix://{folder}/socket",
    ]
    # fmt: on
    try:
        with open(f"{folder}/log", "wb") as log:
            service = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not os.path.exists(f"{folder}/socket"):
            if service.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"podman does not start: {Path(folder, 'log').read_text()}")
            time.sleep(0.05)
        yield f"unix://{folder}/socket"
        service.terminate()
        service.wait(20)
    finally:
        leftovers.unmount(folder)
        for path in (folder, *strays):
            shutil.rmtree(path, ignore_errors=True)


def test_podman_is_as_good(
    gvisor: Gvisor,
    podman: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Podman exports images, and its missing features are named."""
    monkeypatch.setenv("DOCKER_HOST", podman)
    images = Images(Cache(str(tmp_path / "cache")))
    gvisor._images = lambda: images
    argv = ["docker", "--host", podman, "load", "--quiet", "--input", str(archive("users"))]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    wanted = next(case for case in CASES if case.name == "users")
    done = gvisor.run(image="docker:pytest-gvisor/users")
    assert (done.stdout, done.returncode) == (wanted.stdout, wanted.status)
    with pytest.raises(ImageError, match="not to be pulled"):
        images.rootfs("docker:none/such:1", pull="never")
    images.close()
