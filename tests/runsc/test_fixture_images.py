"""The images of fixtures/, from their archives, without a daemon; test_docker.py has the peer."""

import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, PytestGvisorWarning
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import ImageRootfs, Images
from tests.archives import CASES, Case, archive, tree
from tests.runsc.conftest import Expire


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache that these tests share."""
    return Cache(str(tmp_path_factory.mktemp("fixture-images") / "cache"))


@pytest.fixture
def unpacked(cache: Cache, gvisor: Gvisor) -> Iterator[Images]:
    """The images of this test's runs."""
    images = Images(cache)
    gvisor._images = lambda: images
    with warnings.catch_warnings():
        # The labels and attributes that an image loses are test_images.py's subject.
        warnings.simplefilter("ignore", PytestGvisorWarning)
        yield images
    images.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_runs_as_it_says(gvisor: Gvisor, unpacked: Images, case: Case) -> None:
    """Output, exit status and identity, which docker's containers have as well."""
    done = gvisor.run(case.args, image=archive(case.name), input=case.input)
    assert (done.stdout, done.stderr, done.returncode) == (case.stdout, case.stderr, case.status)


def test_the_stop_signal_of_an_image_is_sent_at_the_deadline(
    gvisor: Gvisor, unpacked: Images, patient_timeout: Expire
) -> None:
    """The workload traps the signal, and its output after that is kept."""
    error = patient_timeout(gvisor, ["wait"], image=archive("volumes"))
    assert str(error.stdout).endswith("/made is mounted\nstopped\n")


def test_a_server_in_an_image_answers_the_test(gvisor: Gvisor, unpacked: Images) -> None:
    """Through the sandbox's loopback, in an image that has no Python."""
    with (
        gvisor.sandbox(image=archive("server")) as sandbox,
        sandbox.popen(["/bin/sh", "/serve", "serve"]) as server,
    ):
        sandbox.wait_for_port(8080)
        with sandbox.forward(8080) as there:
            address = f"http://{there.host}:{there.port}/page"
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert answer.read() == b"a page from inside\n"
        server.kill()


@pytest.mark.fault("C13")
def test_runs_at_once_share_an_image_and_see_nothing_of_each_other(
    gvisor: Gvisor, unpacked: Images
) -> None:
    """Eight of them write to the same paths, and the cache stays as it is."""
    rootfs = unpacked.rootfs(archive("volumes"))
    assert isinstance(rootfs, ImageRootfs)
    cache = Path(rootfs.folder).parent.parent
    before = tree(cache)
    script = """
        busybox ls /mine-* 2>/dev/null
        echo $0 > /shared; echo $0 > /work; busybox rm /etc/passwd; busybox touch /mine-$0
        busybox sleep 0.5
        busybox cat /shared /work; busybox ls -d /mine-*
    """

    def work(number: int) -> str:
        argv = ["/bin/sh", "-c", script, str(number)]
        return gvisor.run(argv, rootfs=rootfs, entrypoint="", user="root").stdout

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(work, range(8)))
    assert said == [f"{number}\n{number}\n/mine-{number}\n" for number in range(8)]
    assert tree(cache) == before
