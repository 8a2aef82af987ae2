"""Out of descriptors, memory, threads or disk: where images are unpacked, in warm sandboxes."""

import contextlib
import errno
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, GvisorError, ImageError, Runsc
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from tests.faults.conftest import entries, on_disk, own_files, until_well, used_bytes
from tests.faults.little import Little
from tests.faults.shortages import spare_descriptors
from tests.unit.images.conftest import folder, item, link, saved, tar

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small disk is mounted")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An archive of an image with 300 kB in some files."""
    files = [item(f"d{number}/f", os.urandom(50_000)) for number in range(6)]
    (tmp_path / "image.tar").write_bytes(saved([tar([folder("etc"), link("l", "etc"), *files])]))
    return tmp_path / "image.tar"


def visible(cache: str) -> list[str]:
    """The entries of images in the cache."""
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(cache) if name != "lock"]
    return []


def unpacked(cache: str, image: Path) -> str:
    """The text ``well``, or the error."""
    images = Images(Cache(cache))
    try:
        found = images.rootfs(image)
    except ImageError as error:
        return str(error)
    else:
        assert len(list(Path(found.folder).glob("d*/f"))) == 6
        return "well"
    finally:
        images.close()


@pytest.mark.fault("G5")
@needs_root
def test_a_disk_that_is_full_while_an_image_is_unpacked_is_a_typed_error(
    image: Path, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """Each number of spare pages or files gives a typed error, until there are enough."""
    cache = f"{short_folder}/cache"
    for option, sizes in (("size", range(4096, 10**6, 5 * 4096)), ("nr_inodes", range(2, 40))):

        def attempt(size: int, option: str = option) -> str:
            small_disk(f"{option}={size}")
            said = unpacked(cache, image)
            assert said == "well" or visible(cache) == []
            return said

        errors = until_well(attempt, sizes, "well")
        assert len(errors) > 7
        assert all("No space left on device" in said for said in errors), errors
        small_disk("size=1m,nr_inodes=1000")
        Cache(cache).prune(0)
        subprocess.run(["rm", "-r", cache], check=True)


@pytest.mark.fault("G5")
@needs_root
def test_a_cache_on_a_read_only_disk_is_a_typed_error(
    image: Path, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """A read-only disk is a typed error, with a new cache and with an existing one."""
    cache = f"{short_folder}/cache"
    for _ in range(2):
        small_disk("ro")
        assert "Read-only file system" in unpacked(cache, image)
        small_disk("rw")
        assert unpacked(cache, image) == "well"
        Cache(cache).prune(0)


@pytest.mark.fault("G6")
def test_at_any_shortage_of_descriptors_an_image_is_a_typed_error(
    image: Path, tmp_path: Path
) -> None:
    """Each number of spare descriptors gives a typed error until it suffices, and none is lost.

    What there was no descriptor to remove with is removed by the next use.
    """
    cache = str(tmp_path / "cache")
    before = set(os.listdir("/proc/self/fd"))

    def attempt(number: int) -> str:
        with spare_descriptors(number):
            said = unpacked(cache, image)
        assert said == "well" or Cache(cache).images() == []
        return said

    errors = until_well(attempt, range(40), "well")
    assert len(visible(cache)) == 2  # the image, and the link to it
    assert set(os.listdir("/proc/self/fd")) == before
    assert len(errors) > 2
    assert all(os.strerror(errno.EMFILE) in said for said in errors), errors


def started(gvisor: Gvisor) -> str:
    """The output of a command in a new sandbox."""
    with gvisor.sandbox() as another:
        return another.exec(["echo", "x"]).stdout


def typed(work: Callable[[], str]) -> str:
    """The result, or the name of the error; anything that is not of our tree is raised."""
    try:
        return work()
    except GvisorError as error:
        return type(error).__name__


@pytest.mark.fault("G6")
def test_at_any_shortage_of_descriptors_a_warm_sandbox_is_a_typed_error(
    apart: Callable[[], Gvisor],
) -> None:
    """Start and command raise a typed error; the running sandbox takes the next command."""
    gvisor = apart()
    with gvisor.sandbox() as warm:
        assert warm.exec(["true"]).returncode == 0

        works: list[Callable[[], str]] = [
            lambda: warm.exec(["echo", "x"]).stdout,
            lambda: started(gvisor),
        ]
        for work in works:

            def attempt(number: int, work: Callable[[], str] = work) -> str:
                before = set(os.listdir("/proc/self/fd"))
                with spare_descriptors(number):
                    seen = typed(work)
                assert set(os.listdir("/proc/self/fd")) <= before
                return seen

            until_well(attempt, range(60), "x\n")
            assert warm.exec(["echo", "again"]).stdout == "again\n"


@pytest.mark.fault("G6")
def test_an_image_that_there_is_no_memory_for_is_a_typed_error(tmp_path: Path) -> None:
    """A layer in xz needs 64 MiB to be unpacked, whatever its size; more memory lets it succeed.

    Python's own MemoryError would say nothing of the image. In a process of its own: this one may
    have as much to give that other tests have used.
    """
    path = tmp_path / "image.tar.xz"
    layer = tar([folder("etc"), *(item(f"d{number}/f") for number in range(6))])
    path.write_bytes(lzma.compress(layer, preset=9))
    cache = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", UNPACKING, cache, str(path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


UNPACKING = """
import sys
from pathlib import Path
from tests.faults.shortages import spare_memory
from tests.faults.test_shortage_elsewhere import unpacked, visible

cache, path = sys.argv[1], Path(sys.argv[2])
for mib in (0, 16, 48):
    with spare_memory(mib):
        said = unpacked(cache, path)
    assert "not enough memory to unpack it" in said, (mib, said)
    assert visible(cache) == []
assert unpacked(cache, path) == "well"
"""


@pytest.mark.fault("G5")
@needs_root
@pytest.mark.parametrize(("option", "step"), [("nr_inodes", 1), ("size", 4096)])
def test_a_disk_that_is_full_while_a_warm_sandbox_starts_is_a_typed_error(
    runsc: Runsc, short_folder: str, small_disk: Callable[[str], None], option: str, step: int
) -> None:
    """Each number of spare files or pages gives a typed error; a running sandbox needs no room."""
    roomy = "size=50m,nr_inodes=100000"
    small_disk(roomy)
    with on_disk(short_folder, runsc) as (launcher, gvisor), gvisor.sandbox() as warm:
        there = own_files(launcher)
        assert started(gvisor) == "x\n"

        def attempt(more: int) -> str:
            used = {"nr_inodes": entries, "size": used_bytes}[option](short_folder)
            small_disk(f"{option}={used + more}")
            assert warm.exec(["echo", "y"]).stdout == "y\n"
            seen = typed(lambda: started(gvisor))
            small_disk(roomy)
            assert own_files(launcher) == there
            return seen

        errors = until_well(attempt, range(0, 160 * step, step), "x\n")
        assert len(errors) > 1
        assert set(errors) <= {"LaunchError", "RunscFailed", "SandboxCrashed"}, errors


WARM = """
    import errno, os, sys
    import pytest
    from pytest_gvisor import LaunchError, SandboxCrashed
    sys.path.insert(0, FOLDER)
    import seccomp, shortages

    def started(gvisor):
        with gvisor.sandbox() as another:
            return another.exec(["echo", "x"]).stdout

    def refused(gvisor, at, number):
        before = os.listdir("/proc/self/fd")
        with pytest.raises(LaunchError) as caught:
            started(gvisor)
        assert (caught.value.stage, caught.value.errno) == (at, number)
        assert len(os.listdir("/proc/self/fd")) <= len(before)

    def test_memory(gvisor):
        assert started(gvisor) == "x\\n"  # and all is imported
        # Python has room for small objects then: what is refused is what has to be mapped.
        room = [bytes(100) for _ in range(60_000)][::1000]
        for mib in (0, 12, 32):
            with shortages.spare_memory(mib):
                refused(gvisor, "channel", errno.ENOMEM)
        with gvisor.sandbox() as warm:
            with shortages.spare_memory(0), pytest.raises(SandboxCrashed, match="ENOMEM"):
                warm.exec(["echo", "x"])
        del room
        assert started(gvisor) == "x\\n"

    # What is refused now is refused for good.

    def test_threads(gvisor):
        with gvisor.sandbox() as warm:
            seccomp.refuse_threads(errno.EAGAIN)
            refused(gvisor, "channel", errno.EAGAIN)
            assert warm.exec(["echo", "x"]).stdout == "x\\n"

    def test_processes(gvisor):
        keeper = gvisor._launcher.keeper()._process
        keeper.kill()
        keeper.wait()
        seccomp.refuse_fork(errno.EAGAIN)
        for _ in range(2):
            refused(gvisor, "fork", errno.EAGAIN)
"""


@pytest.mark.fault("G6")
def test_without_memory_threads_or_processes_a_warm_sandbox_is_a_typed_error(
    any_little: Little,
) -> None:
    """The error comes at once, without a wait for a thread that cannot start.

    `Thread.start` waits for ever for a thread that has no memory for its first steps.
    """
    any_little.write(test_it=WARM.replace("FOLDER", repr(str(Path(__file__).parent))))
    any_little.run("-k", "memory or threads")
    any_little.run("-k", "processes")
    assert any_little.left() == []
