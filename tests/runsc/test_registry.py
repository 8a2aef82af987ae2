"""Pulling from a registry on loopback through a docker daemon: by tag, by digest, by policy."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from tests.archives import archive
from tests.runsc.registry import PASSWORD, USER, move_tag, registry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")


class Hub:
    """A registry, and the docker daemon that pulls from it."""

    def __init__(self, address: str, dockerd: str, config: Path) -> None:
        self.address = address
        self._docker = ["docker", "--host", dockerd, "--config", str(config)]

    def docker(self, *argv: str) -> str:
        """Run the docker client, which has to succeed, and return its output."""
        done = subprocess.run([*self._docker, *argv], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def push(self, name: str, reference: str) -> tuple[str, str]:
        """A fixture image's id and digest, in the registry and nowhere in the daemon any more."""
        whole = f"{self.address}/{reference}"
        self.docker("load", "--quiet", "--input", str(archive(name)))
        self.docker("tag", f"pytest-gvisor/{name}", whole)
        said = self.docker("push", whole)
        identity = self.docker("inspect", "--format={{.Id}}", whole).strip()
        self.forget(f"pytest-gvisor/{name}", whole)
        found = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
        assert found, said
        return identity.removeprefix("sha256:"), found[1]

    def forget(self, *references: str) -> None:
        """Remove images from the daemon."""
        self.docker("image", "rm", "--force", *references)


@pytest.fixture
def fresh(tmp_path: Path, dockerd: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Images]]:
    """Make the images of a later session, with the same cache."""
    monkeypatch.setenv("DOCKER_HOST", dockerd)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
    made: list[Images] = []

    class Session(Images):
        def __init__(self) -> None:
            super().__init__(Cache(str(tmp_path / "cache")))
            made.append(self)

    yield Session
    for images in made:
        images.close()


def write_login(folder: Path, address: str, password: str) -> Path:
    """The docker SDK's own file of credentials."""
    folder.mkdir()
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    return folder


@pytest.mark.fault("H4")
def test_images_are_pulled_by_policy_and_pinned_by_digest(
    fresh: type[Images], dockerd: str, tmp_path: Path
) -> None:
    """After a tag has moved, ``missing`` keeps the local image, ``always`` pulls the new one.

    In one session too; and what a digest names stays what it is.
    """
    with registry(tmp_path / "registry") as address:
        hub = Hub(address, dockerd, tmp_path)
        tag = f"{address}/app:1"
        old, digest = hub.push("busybox", "app:1")
        new, _ = hub.push("volumes", "app:2")
        with pytest.raises(ImageError, match="not to be pulled"):
            fresh().rootfs(tag, pull="never")
        assert fresh().rootfs(tag).id == old
        assert fresh().rootfs(tag, pull="never").id == old
        move_tag(address, "app", "1", to="2")
        images = fresh()
        assert images.rootfs(tag).id == old
        assert images.rootfs(tag, pull="always").id == new
        assert fresh().rootfs(tag).id == new
        hub.forget(tag)
        pinned = f"{address}/app@{digest}"
        assert fresh().rootfs(pinned).id == old
        hub.forget(pinned)
        assert fresh().rootfs(pinned, pull="always").id == old
        hub.forget(pinned)
        with pytest.raises(ImageError, match=r"cannot be pulled|the daemon says"):
            fresh().rootfs(f"{address}/app@sha256:{'0' * 64}")
    with pytest.raises(ImageError, match=r"cannot be pulled|the daemon says"):
        fresh().rootfs(tag)  # the registry is gone


def test_a_private_registry_takes_the_sdk_s_credentials(
    fresh: type[Images], dockerd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials are of config.json in DOCKER_CONFIG; missing or wrong ones are an error."""
    with registry(tmp_path / "registry", is_private=True) as address:
        right = write_login(tmp_path / "right", address, PASSWORD)
        wrong = write_login(tmp_path / "wrong", address, "close sesame")
        hub = Hub(address, dockerd, right)
        identity, _ = hub.push("busybox", "secret:1")
        denied = "no basic auth credentials|unauthorized"
        for config in (tmp_path / "none", wrong):
            monkeypatch.setenv("DOCKER_CONFIG", str(config))
            with pytest.raises(ImageError, match=denied) as caught:
                fresh().rootfs(f"{address}/secret:1")
            assert "sesame" not in str(caught.value)
        monkeypatch.setenv("DOCKER_CONFIG", str(right))
        assert fresh().rootfs(f"{address}/secret:1").id == identity
        hub.forget(f"{address}/secret:1")
