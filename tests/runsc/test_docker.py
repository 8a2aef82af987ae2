"""Images of a real docker daemon, and the same in ``docker run --runtime=runsc``."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.make import context
from pytest_gvisor import Gvisor, ImageError, is_gvisor_kernel
from pytest_gvisor.images import docker
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from tests.archives import CASES, Case, archive
from tests.plugin import test_in_place

RUN = ("run", "--rm", "--interactive", "--runtime=runsc", "--network", "none")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")


@pytest.fixture
def images(
    gvisor: Gvisor, dockerd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Images]:
    """The images of this test, from the daemon and in a cache of their own."""
    monkeypatch.setenv("DOCKER_HOST", dockerd)
    made = Images(Cache(str(tmp_path / "cache")))
    gvisor._images = lambda: made
    yield made
    made.close()


def ask(address: str, *argv: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run docker with this daemon."""
    command = ["docker", "--host", address, *argv]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_runs_the_fixture_images_as_we_do(dockerd: str, case: Case) -> None:
    """Docker's output, exit status and identity are those of test_fixture_images.py."""
    loaded = ask(dockerd, "load", "--quiet", "--input", str(archive(case.name)))
    assert loaded.stdout == f"Loaded image: pytest-gvisor/{case.name}:latest\n"
    done = ask(dockerd, *RUN, f"pytest-gvisor/{case.name}", *case.args, said=case.input)
    assert (done.stdout, done.stderr, done.returncode) == (case.stdout, case.stderr, case.status)


@pytest.mark.fault("H3")
def test_docker_stop_sends_what_our_deadline_does(dockerd: str) -> None:
    """The image's signal, which the workload traps; and the peer is gVisor and no other runtime.

    A runtime that docker does not know is docker's own error, and not runc. Nothing of ours starts
    a container with docker.
    """
    ask(dockerd, "load", "--quiet", "--input", str(archive("volumes"))).check_returncode()
    run = [argument for argument in RUN if argument not in ("--rm", "--interactive")]
    image = "pytest-gvisor/volumes"
    started = ask(dockerd, *run, "--detach", image, "wait").stdout.strip()
    kernel = ask(dockerd, *RUN, "--entrypoint=/bin/busybox", image, "uname", "-r", "-v").stdout
    filled = ask(dockerd, *RUN, "--entrypoint=/bin/busybox", image, "ls", "/state").stdout
    other = ask(dockerd, "run", "--rm", "--runtime=runsx", image)
    try:
        ask(dockerd, "stop", "--time=20", started).check_returncode()
        assert ask(dockerd, "logs", started).stdout.endswith("/made is mounted\nstopped\n")
        status = ask(dockerd, "inspect", "--format={{.State.ExitCode}}", started).stdout
    finally:
        ask(dockerd, "rm", "--force", "--volumes", started)
    assert status == "4\n"
    assert is_gvisor_kernel(kernel.partition(" ")[0])
    assert filled == "notes\n"  # the one difference that the docs name: ours begins empty
    assert other.returncode == 125
    assert "runsx" in other.stderr


def test_a_name_is_looked_up_and_exported_once(
    gvisor: Gvisor, images: Images, dockerd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later session finds it in the cache, and exports nothing; its id is a name too."""
    folder = str(context("busybox", tmp_path / "busybox"))
    built = ask(dockerd, "build", "--quiet", "--tag=ours:1", folder).stdout.strip()
    assert gvisor.run(image=built).stdout == "hello\n"
    images.close()
    monkeypatch.setattr(docker.Daemon, "export", None)
    assert gvisor.run(image="ours:1").stdout == "hello\n"
    assert gvisor.run(image="docker:ours:1").stdout == "hello\n"


def test_what_the_daemon_does_not_have_is_an_error(images: Images) -> None:
    """An image that may not or cannot be pulled is an error."""
    with pytest.raises(ImageError, match="not to be pulled"):
        images.rootfs("none/such:1", pull="never")
    with pytest.raises(ImageError, match=r"cannot be pulled|the daemon says"):
        images.rootfs("127.0.0.1:1/none/such:1")


def test_a_pytest_in_a_container_runs_its_tests_in_place(dockerd: str, tmp_path: Path) -> None:
    """With the host's Python, read-only, and without a network."""
    (tmp_path / "test_it.py").write_text(test_in_place.PROJECT)
    ask(dockerd, "load", "--quiet", "--input", str(archive("busybox"))).check_returncode()
    shown = [path for path in test_in_place.SHOWN if not path.startswith("/usr")]
    system = [path for path in ("/usr", "/lib", "/lib64") if os.path.isdir(path)]
    binds = [f"--volume={path}:{path}:ro" for path in (*system, *shown)]
    variables = [f"--env={name}={value}" for name, value in test_in_place.ENVIRONMENT.items()]
    python, *arguments = test_in_place.RUN
    done = ask(
        dockerd, *RUN, *binds, *variables, f"--volume={tmp_path}:/p", "--workdir=/p",
        f"--entrypoint={python}", "pytest-gvisor/busybox", *arguments, "-o", "in_gvisor=true",
    )  # fmt: skip
    assert "2 passed, 4 skipped" in done.stdout, done
    assert "gvisor: ALREADY INSIDE gVisor (kernel " in done.stdout
