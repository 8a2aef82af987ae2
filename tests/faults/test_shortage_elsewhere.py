"""Out of descriptors or disk where images are unpacked, and sandboxes are warm."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, GvisorError, ImageError
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
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
    """What there is of images in the cache."""
    with contextlib.suppress(FileNotFoundError):
        return [name for name in os.listdir(cache) if not name.endswith(".lock")]
    return []


def unpacked(cache: str, image: Path) -> str:
    """``well``, or what the error says."""
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
    """With room for some pages more each time, or some files; when there is enough, all is well."""
    cache = f"{short_folder}/cache"
    for option, sizes in (("size", range(4096, 10**6, 5 * 4096)), ("nr_inodes", range(2, 40))):
        seen: list[str] = []
        for size in sizes:
            small_disk(f"{option}={size}")
            seen.append(unpacked(cache, image))
            if seen[-1] == "well":
                break
            assert visible(cache) == []
        assert seen[-1] == "well"
        assert len(seen) > 8
        assert all("No space left on device" in said for said in seen[:-1]), seen
        small_disk("size=1m,nr_inodes=1000")
        Cache(cache).prune(0)
        subprocess.run(["rm", "-r", cache], check=True)


@pytest.mark.fault("G5")
@needs_root
def test_a_cache_on_a_read_only_disk_is_a_typed_error(
    image: Path, short_folder: str, small_disk: Callable[[str], None]
) -> None:
    """From the beginning, or with a cache that is there."""
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
    """With one more each time, until there are enough; none is lost on the way.

    What there was no descriptor to remove with is removed by the next use.
    """
    cache = str(tmp_path / "cache")
    seen: list[str] = []
    before = set(os.listdir("/proc/self/fd"))
    for number in range(40):
        with spare_descriptors(number):
            seen.append(unpacked(cache, image))
        if seen[-1] == "well":
            break
        assert Cache(cache).images() == []
    assert len(visible(cache)) == 1
    assert set(os.listdir("/proc/self/fd")) == before
    assert seen[-1] == "well"
    assert len(seen) > 3
    assert all(os.strerror(errno.EMFILE) in said for said in seen[:-1]), seen


@pytest.mark.fault("G6")
def test_at_any_shortage_of_descriptors_a_warm_sandbox_is_a_typed_error(
    apart: Callable[[], Gvisor],
) -> None:
    """Its start, and a command in one that runs, which goes on with the next."""
    gvisor = apart()
    with gvisor.sandbox() as warm:
        assert warm.exec(["true"]).returncode == 0

        def started() -> str:
            with gvisor.sandbox() as another:
                return another.exec(["echo", "x"]).stdout

        works: list[Callable[[], str]] = [lambda: warm.exec(["echo", "x"]).stdout, started]
        for work in works:
            seen: list[str] = []
            for number in range(60):
                before = set(os.listdir("/proc/self/fd"))
                with spare_descriptors(number):
                    try:
                        seen.append(work())
                    except GvisorError as error:
                        seen.append(type(error).__name__)
                assert set(os.listdir("/proc/self/fd")) <= before
                if seen[-1] == "x\n":
                    break
            assert seen[-1] == "x\n", seen
            assert warm.exec(["echo", "again"]).stdout == "again\n"
