"""The cache of unpacked images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_gvisor import ImageError, bind
from pytest_gvisor.images import archive, extract
from pytest_gvisor.images.cache import Cache, Hold, default_folder
from tests.unit.images.conftest import folder, item, link, saved, tar


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty one."""
    return Cache(str(tmp_path / "cache/images"), patience=20)


def write(where: Path, text: str = "x", size: int = 0) -> Path:
    """An image with a file."""
    items = [folder("d", 0o750), item("d/f", text.encode()), link("l", "d"), item("z", bytes(size))]
    where.write_bytes(saved([tar(items)]))
    return where


def hold(cache: Cache, path: Path) -> Hold:
    """The image in that file."""
    with archive.opened(str(path)) as content:
        return cache.hold(content)


def test_an_image_is_unpacked_once(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later gets the same folder, at once."""
    path = write(tmp_path / "i")
    first = hold(cache, path)
    monkeypatch.setattr(extract, "unpack", None)
    second = hold(cache, path)
    assert first.path == second.path
    assert Path(first.path, "d/f").read_text() == "x"
    first.close()
    first.close()
    second.close()
    with pytest.raises(ImageError, match="closed"):
        _ = first.path
    assert os.stat(cache.folder).st_mode & 0o777 == 0o700


def test_ten_at_once_unpack_once(tmp_path: Path) -> None:
    """Processes, not threads: the lock is the kernel's."""
    path = write(tmp_path / "i", size=3_000_000)
    code = (
        "import sys; from pytest_gvisor.images import archive, extract, cache\n"
        "real = extract.unpack\n"
        "def unpack(*a, **k):\n    print('unpacked', flush=True); return real(*a, **k)\n"
        "extract.unpack = unpack\n"
        f"with archive.opened({str(path)!r}) as content:\n"
        f"    hold = cache.Cache({str(tmp_path / 'c')!r}).hold(content)\n"
        "print(open(hold.path + '/d/f').read())\n"
    )
    argv = [sys.executable, "-c", code]
    made = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    said = "".join(process.communicate(timeout=60)[0] for process in made)
    assert (said.count("unpacked"), said.count("x\n")) == (1, 10)


@pytest.mark.fault("C11", "H4")
def test_what_fails_in_the_middle_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    """No half of an image, and the next use begins anew."""
    path = tmp_path / "i"
    path.write_bytes(saved([tar([item("f", b"x"), item("../x")])]))
    with pytest.raises(ImageError):
        hold(cache, path)
    assert [name for name in os.listdir(cache.folder) if not name.endswith(".lock")] == []
    assert cache.images() == []


def test_what_a_killed_process_leaves_is_swept(cache: Cache, tmp_path: Path) -> None:
    """By the next session, unless the one that makes it is alive."""
    first = hold(cache, write(tmp_path / "i"))
    identity = Path(first.path).parent.name
    dead, alive = "a" * 64, identity
    for name in (dead, alive):
        Path(cache.folder, f"tmp-{name}-x", "rootfs").mkdir(parents=True)
    later = Cache(cache.folder)
    held = later.find(identity)
    assert held is not None
    held[0].close()
    assert not Path(cache.folder, f"tmp-{dead}-x").exists()
    assert Path(cache.folder, f"tmp-{alive}-x").exists()
    first.close()
    cache.prune()
    assert not Path(cache.folder, f"tmp-{alive}-x").exists()


@pytest.mark.fault("H4")
def test_a_process_that_is_killed_while_it_unpacks_leaves_nothing(
    cache: Cache, tmp_path: Path
) -> None:
    """Its lock is free at once, and the next one removes what it had made."""
    path = write(tmp_path / "i", size=1_000_000)
    code = (
        "import time; from pytest_gvisor.images import archive, extract, cache\n"
        "def stay(_):\n    print('in', flush=True); time.sleep(60)\n"
        "extract.Tree.begin_layer = stay\n"
        f"with archive.opened({str(path)!r}) as content:\n"
        f"    cache.Cache({cache.folder!r}).hold(content)\n"
    )
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.kill()
    assert [name for name in os.listdir(cache.folder) if name.startswith("tmp-")]
    hold(cache, path).close()
    assert not [name for name in os.listdir(cache.folder) if name.startswith("tmp-")]


def test_an_image_that_was_changed_is_made_anew(cache: Cache, tmp_path: Path) -> None:
    """Something made, written, given away or removed anywhere in it, or no record of it."""
    path = write(tmp_path / "i")
    for spoil in (
        lambda root: Path(root, "planted").touch(),
        lambda root: Path(root, "d/planted").mkdir(),
        lambda root: Path(root, "d/f").write_text("y"),
        lambda root: Path(root, "d/f").chmod(0o777),
        lambda root: Path(root, "l").unlink(),
        lambda root: Path(root, "../image.json").write_text("{"),
        lambda root: Path(root, "../image.json").write_text('{"seal": [], "notes": []}'),
    ):
        made = hold(cache, path)
        spoil(made.path)
        made.close()
        again = hold(cache, path)
        assert sorted(path.name for path in Path(again.path, "d").iterdir()) == ["f"]
        assert not Path(again.path, "planted").exists()
        assert Path(again.path, "l").is_symlink()
        assert Path(again.path, "d/f").read_text() == "x"
        assert Path(again.path, "d/f").stat().st_mode & 0o777 == 0o644
        again.close()


def test_the_oldest_is_removed_and_never_one_in_use(tmp_path: Path) -> None:
    """When the bound is passed; locks stay."""
    cache = Cache(str(tmp_path / "cache"), max_bytes=2_500_000)
    used = hold(cache, write(tmp_path / "a", "a", 1_000_000))
    for name in "bcd":
        time.sleep(0.02)
        hold(cache, write(tmp_path / name, name, 1_000_000)).close()
    left = {Path(cache.folder, image.id, "rootfs/d/f").read_text() for image in cache.images()}
    assert left == {"a", "d"}
    assert len([name for name in os.listdir(cache.folder) if name.endswith(".lock")]) == 4
    assert len(cache.prune(0)) == 1
    used.close()
    assert len(cache.prune(0)) == 1
    assert cache.images() == []


def test_mount_points_are_made_in_a_tree_of_their_own(cache: Cache, tmp_path: Path) -> None:
    """The image stays as it is; files are the same, and the same points are made once."""
    made = hold(cache, write(tmp_path / "i"))
    mounts = [bind("/usr", "/new/point"), bind("/etc/passwd", "/l/file")]
    before = sorted(str(p) for p in Path(made.path).rglob("*"))
    root = made.with_points(mounts)
    assert Path(root, "new/point").is_dir()
    assert Path(root, "d/file").is_file()
    assert root == made.with_points(mounts) != made.path
    assert Path(root, "d/f").stat().st_ino == Path(made.path, "d/f").stat().st_ino
    assert Path(root, "d").stat().st_mode == Path(made.path, "d").stat().st_mode
    assert made.with_points([bind("/usr", "/d")]) == made.path
    assert sorted(str(p) for p in Path(made.path).rglob("*")) == before
    made.close()
    again = hold(cache, tmp_path / "i")
    assert again.path == made._folder + "/rootfs"
    assert again.with_points(mounts) == root
    again.close()


def test_a_tree_with_more_points_that_was_changed_is_made_anew(
    cache: Cache, tmp_path: Path
) -> None:
    """By the next process; who uses the old one keeps it."""
    mounts = [bind("/usr", "/new/point")]
    first = hold(cache, write(tmp_path / "i"))
    root = first.with_points(mounts)
    Path(root, "planted").touch()
    inode = Path(root).stat().st_ino
    assert first.with_points(mounts) == root
    second = hold(cache, tmp_path / "i")
    assert second.with_points(mounts) == root
    assert not Path(root, "planted").exists()
    old = [path for path in Path(first._folder).glob("*/rootfs") if path.stat().st_ino == inode]
    assert [Path(path, "planted").exists() for path in old] == [True]
    first.close()
    second.close()
    assert len(cache.prune(0)) == 1
    assert [name for name in os.listdir(cache.folder) if not name.endswith(".lock")] == []


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """As a session folder would be."""
    (tmp_path / "c").mkdir(mode=0o755)
    (tmp_path / "c").chmod(0o755)
    with pytest.raises(ImageError, match="lets others in"):
        hold(Cache(str(tmp_path / "c")), write(tmp_path / "i"))


def test_the_folder_is_the_user_s_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As platformdirs knows it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/where/caches/are")
    assert default_folder() == "/where/caches/are/pytest-gvisor/images"


def test_a_lock_that_is_never_free_is_an_error(tmp_path: Path) -> None:
    """In words, after the time that there is for it."""
    import fcntl

    cache = Cache(str(tmp_path / "c"), patience=0.1)
    made = hold(cache, write(tmp_path / "i"))
    made.close()
    with open(f"{os.path.dirname(made._folder)}/{os.path.basename(made._folder)}.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ImageError, match="has not finished"):
            hold(cache, tmp_path / "i")
