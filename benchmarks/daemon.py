"""A docker daemon with runsc as a runtime, and an image as small as one can be."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Unavailable
from fixtures.dockerd import NoDaemon, answers, own_daemon

_BUSYBOX = "/bin/busybox"
_RUNNING = "unix:///var/run/docker.sock"
_DEADLINE = 60.0


@dataclass(frozen=True, kw_only=True)
class Docker:
    """A daemon to be asked, and the image that its containers are made of."""

    command: tuple[str, ...]
    image: str
    about: str

    def run(self) -> None:
        """``docker run --rm --runtime=runsc --network none IMAGE true``."""
        options = ["run", "--rm", "--runtime=runsc", "--network", "none", self.image, "true"]
        done = _call([*self.command, *options])
        if done.returncode:
            raise RuntimeError(f"docker run failed: {_last_line(done.stderr)}")


@contextlib.contextmanager
def serving(runsc: str, platform: str, *, storage: str = "vfs") -> Iterator[Docker]:
    """The daemon that runs here, if it has the runtime, or one of our own, if we are root.

    ``storage`` is the latter's driver; the copies of vfs cost one of a small layer next to
    nothing. Everything that was made is removed afterwards. Raises `Unavailable`.
    """
    program = shutil.which("docker")
    if program is None:
        raise Unavailable("docker is not installed")
    with contextlib.ExitStack() as stack:
        # By its address: DOCKER_HOST may be another machine.
        command: tuple[str, ...] = (program, "--host", _RUNNING)
        about = "the daemon that runs here"
        if not answers(_RUNNING, runtime="runsc"):
            try:
                own = stack.enter_context(own_daemon(runsc, platform, storage=storage))
            except NoDaemon as error:
                raise Unavailable(str(error)) from error
            command, about = (program, "--host", own), "a daemon of its own"
        image = f"pytest-gvisor-bench:{secrets.token_hex(4)}"
        done = _call([*command, "import", "-", image], _image())
        if done.returncode:
            raise RuntimeError(f"docker import failed: {_last_line(done.stderr)}")
        stack.callback(_call, [*command, "image", "rm", "--force", image])
        version = _call([*command, "version", "--format", "{{.Server.Version}}"])
        about = f"docker {version.stdout.decode().strip()}, {about}"
        docker = Docker(command=command, image=image, about=about)
        try:
            docker.run()
        except RuntimeError as error:
            raise Unavailable(str(error)) from error
        yield docker


def _call(command: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=_DEADLINE)


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip() or "no word from docker").splitlines()[-1]


def _image() -> bytes:
    """A root file system: busybox, and ``true`` as a link to it."""
    if not os.path.isfile(_BUSYBOX):
        raise Unavailable(f"there is no {_BUSYBOX} to make an image of")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(os.path.realpath(_BUSYBOX), "bin/busybox")
        link = tarfile.TarInfo("bin/true")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return data.getvalue()
