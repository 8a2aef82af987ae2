"""A docker daemon with runsc as a runtime, and an image as small as one can be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Unavailable
from pytest_gvisor.launch import remains

_BUSYBOX = "/bin/busybox"
_RUNNING = "unix:///var/run/docker.sock"
_DEADLINE = 60.0
_START_DEADLINE = 30.0
_STOP_DEADLINE = 20.0
# What a daemon makes outside of the folders that it is given.
_STRAYS = ("/run/docker", "/run/containerd")


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
def serving(runsc: str, platform: str) -> Iterator[Docker]:
    """The daemon that runs here, if it has the runtime, or one of our own, if we are root.

    Everything that was made is removed afterwards. Raises `Unavailable`.
    """
    program = shutil.which("docker")
    if program is None:
        raise Unavailable("docker is not installed")
    with contextlib.ExitStack() as stack:
        # By its address: DOCKER_HOST may be another machine.
        command: tuple[str, ...] = (program, "--host", _RUNNING)
        about = "the daemon that runs here"
        if not _has_runtime(command):
            own = stack.enter_context(_own_daemon(runsc, platform))
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


def _has_runtime(command: tuple[str, ...]) -> bool:
    done = _call([*command, "info", "--format", "{{json .Runtimes}}"])
    return done.returncode == 0 and b'"runsc"' in done.stdout


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


@contextlib.contextmanager
def _own_daemon(runsc: str, platform: str) -> Iterator[str]:
    """Start dockerd with all its folders in one temporary one; yields its address."""
    if os.geteuid() != 0:
        raise Unavailable(
            "no docker daemon with the runtime runsc runs, and only root can start one"
        )
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        raise Unavailable("dockerd is not installed")
    name = f"pytest-gvisor-bench-{secrets.token_hex(4)}"
    folder = tempfile.mkdtemp(prefix=f"{name}-")
    strays = [path for path in _STRAYS if not os.path.exists(path)]
    address = f"unix://{folder}/socket"
    with contextlib.ExitStack() as stack:
        stack.callback(_sweep, folder, name, strays)
        with open(f"{folder}/daemon.json", "w", encoding="utf-8") as file:
            # As `runsc install` writes it, but for the network: docker's --network none makes an
            # empty network namespace, and on newer kernels (6.18 is one) runsc of 2024 refuses to
            # set up its own stack in any. Ours and bare runsc have --network none as well.
            arguments = ["--network=none", f"--platform={platform}"]
            json.dump({"runtimes": {"runsc": {"path": runsc, "runtimeArgs": arguments}}}, file)
        log = stack.enter_context(open(f"{folder}/log", "wb"))
        # fmt: off
        daemon = subprocess.Popen(
            [program, "--config-file", f"{folder}/daemon.json", "--data-root", f"{folder}/data",
             "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "--host", address,
             "--cgroup-parent", name, "--storage-driver=vfs", "--bridge=none", "--iptables=false",
             "--ip6tables=false", "--ip-forward=false"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
        # fmt: on
        stack.callback(_stop, daemon)
        _await(daemon, address, f"{folder}/log")
        yield address


def _await(daemon: subprocess.Popen[bytes], address: str, log: str) -> None:
    end = time.monotonic() + _START_DEADLINE
    while not _has_runtime(("docker", "--host", address)):
        if daemon.poll() is not None or time.monotonic() > end:
            with open(log, "rb") as file:
                raise Unavailable(f"dockerd does not start here: {_last_line(file.read())}")
        time.sleep(0.2)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(_STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


def _sweep(folder: str, name: str, strays: list[str]) -> None:
    """Remove what a daemon leaves: shims of containers that failed, mounts, cgroups, folders."""
    remains.kill(remains.processes(folder, everywhere=True), folder)
    remains.unmount(folder)
    shutil.rmtree(folder, ignore_errors=True)
    for above, names, _files in os.walk("/sys/fs/cgroup", topdown=False):
        for entry in names:
            if f"/{name}" in os.path.join(above, entry):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(above, entry))
    for path in strays:
        shutil.rmtree(path, ignore_errors=True)
