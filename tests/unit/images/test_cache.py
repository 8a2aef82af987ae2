"""The cache of unpacked images."""

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from pytest_gvisor import ImageError, bind
from pytest_gvisor.images import archive, config, extract
from pytest_gvisor.images.cache import Cache, Hold
from pytest_gvisor.images.streams import Limits
from tests.unit.images.conftest import folder, item, link, saved, tar
from tests.waiting import wait_for_tick

USER = "/"
"""A folder that stays, in place of a sandbox's."""


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


def find(cache: Cache, identity: str) -> Hold | None:
    """The image with this id, if it is in the cache and need not be opened."""
    try:
        return cache.obtain(identity, Mock(side_effect=LookupError))
    except LookupError:
        return None


def entries(cache: Cache) -> set[str]:
    """The names in the cache's folder, apart from its lock."""
    return set(os.listdir(cache.folder)) - {"lock"}


def test_an_image_is_unpacked_once(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later user gets the same folder at once."""
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


@pytest.mark.fault("C11", "H4")
def test_what_fails_in_the_middle_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    """A failure leaves no part of an image, and the next use begins anew."""
    path = tmp_path / "i"
    path.write_bytes(saved([tar([item("f", b"x"), item("../x")])]))
    with pytest.raises(ImageError):
        hold(cache, path)
    assert entries(cache) == set()
    assert cache.images() == []


def test_what_no_link_leads_to_is_swept(cache: Cache, tmp_path: Path) -> None:
    """The next session removes it, unless its maker or its user is alive."""
    made = hold(cache, write(tmp_path / "i"))
    for name in ("a", "b", "c", "d"):
        folder = Path(cache.folder, f"{name * 64}-01234567")
        (folder / "rootfs").mkdir(parents=True)
        if name in "bd":  # has a link, and is not whole
            Path(cache.folder, name * 64).symlink_to(folder.name)
    Path(cache.folder, "e" * 64).symlink_to("f" * 64)
    Path(cache.folder, "1" * 64).symlink_to(made.id)
    alive = {f"{name * 64}-01234567" for name in "cd"}
    with contextlib.ExitStack() as held:
        for name, kind in zip(sorted(alive), (fcntl.LOCK_EX, fcntl.LOCK_SH), strict=True):
            lock = held.enter_context(open(f"{cache.folder}/{name}/lock", "x"))
            fcntl.flock(lock, kind)
        hold(Cache(cache.folder), tmp_path / "i").close()
        left = {made.id, Path(made.path).parent.name, "1" * 64}
        assert entries(cache) == left | alive | {"d" * 64}
    cache.prune()
    assert entries(cache) == left
    made.close()
    cache.prune(0)
    assert entries(cache) == set()


def test_of_an_earlier_version_s_folder_nothing_is_used_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other version may be in use too; its images lie directly under their ids."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write(tmp_path / "i")
    with archive.opened(str(path)) as content:
        old = tmp_path / "pytest-gvisor/images" / content.id
    (old / "rootfs").mkdir(parents=True)
    (old / "image.json").write_text("{}")
    cache = Cache()
    made = hold(cache, path)
    assert not old.is_relative_to(cache.folder)
    assert not Path(made.path).is_relative_to(old.parent)
    made.close()
    cache.prune(0)
    assert cache.images() == []
    assert (old / "rootfs").is_dir()


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
    """The oldest image is removed beyond the limit."""
    cache = Cache(str(tmp_path / "cache"))
    used = hold(cache, write(tmp_path / "a", "a", 1_000_000))
    for name in "bcd":
        wait_for_tick(tmp_path)
        hold(cache, write(tmp_path / name, name, 1_000_000)).close()
        cache.prune(2_500_000)
    left = {Path(cache.folder, image.id, "rootfs/d/f").read_text() for image in cache.images()}
    assert len(entries(cache)) == 2 * len(left)
    assert left == {"a", "d"}
    assert len(cache.prune(0)) == 1
    used.close()
    assert len(cache.prune(0)) == 1
    assert cache.images() == []


def test_mount_points_are_made_in_a_tree_of_their_own(cache: Cache, tmp_path: Path) -> None:
    """The image stays as it is; files are the same, and the same points are made once."""
    made = hold(cache, write(tmp_path / "i"))
    mounts = [bind("/usr", "/new/point"), bind("/etc/passwd", "/l/file")]
    before = sorted(str(p) for p in Path(made.path).rglob("*"))
    root = made.with_points(mounts, USER)
    assert Path(root, "new/point").is_dir()
    assert Path(root, "d/file").is_file()
    assert root == made.with_points(mounts, USER) != made.path
    assert Path(root, "d/f").stat().st_ino == Path(made.path, "d/f").stat().st_ino
    assert Path(root, "d").stat().st_mode == Path(made.path, "d").stat().st_mode
    assert made.with_points([bind("/usr", "/d")], USER) == made.path
    assert sorted(str(p) for p in Path(made.path).rglob("*")) == before
    made.close()
    again = hold(cache, tmp_path / "i")
    assert again.path == os.path.join(made._folder, "rootfs")
    assert again.with_points(mounts, USER) == root
    again.close()


def test_a_tree_of_an_earlier_session_that_has_changed_is_not_used(
    cache: Cache, tmp_path: Path
) -> None:
    """The image has not changed: the file went from the tree alone."""
    mounts = [bind("/usr", "/new/point")]
    path = write(tmp_path / "i")
    with contextlib.closing(hold(cache, path)) as made:
        root = made.with_points(mounts, USER)
        (Path(root) / "d/f").unlink()
        assert made.with_points(mounts, USER) == root  # later uses skip the check
    with contextlib.closing(hold(cache, path)) as again:
        assert again.path == os.path.join(made._folder, "rootfs")
        whole = again.with_points(mounts, USER)
        assert (Path(whole) / "d/f").read_text() == "x"
    with contextlib.closing(hold(cache, path)) as last:
        assert last.with_points(mounts, USER) == whole
        Path(whole).with_name("seal").write_bytes(b"\xff")
    with contextlib.closing(hold(cache, path)) as last:
        assert last.with_points(mounts, USER) not in (root, whole)


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """A cache folder is refused for the same reasons as a session folder."""
    (tmp_path / "c").mkdir(mode=0o755)
    (tmp_path / "c").chmod(0o755)
    with pytest.raises(ImageError, match="lets others in") as caught:
        hold(Cache(str(tmp_path / "c")), write(tmp_path / "i"))
    assert caught.value.next_step == "XDG_CACHE_HOME says where images are kept."


@pytest.mark.parametrize("is_link", [True, False])
def test_nothing_is_listed_or_removed_in_a_folder_that_is_not_ours(
    tmp_path: Path, is_link: bool
) -> None:
    """Other programs use 64 digits as names too: this cache would take them for broken images."""
    real = tmp_path / "real"
    victim = real / ("0" * 64)
    victim.mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    if not is_link:
        real.chmod(0o777)
    cache = Cache(str(tmp_path / "link" if is_link else real))
    for work in (cache.images, lambda: cache.prune(0)):
        with pytest.raises(ImageError, match="cache folder cannot be used"):
            work()
    assert victim.exists()


def test_a_lock_that_is_never_free_is_an_error(tmp_path: Path) -> None:
    """A lock that stays locked is an error after the allowed time, the image's and the folder's."""
    cache = Cache(str(tmp_path / "c"), patience=0.1)
    made = hold(cache, write(tmp_path / "i"))
    made.close()
    with (
        open(f"{made._folder}/lock") as file,
        archive.opened(str(tmp_path / "i"), limits=Limits(max_seconds=0.5)) as content,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ImageError, match=r"makes or removes it, .* has not finished in 0\.6 s"):
            cache.hold(content)
    with open(f"{cache.folder}/lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ImageError, match=r"arranges images, .* has not finished in 0\.1 s"):
            hold(cache, write(tmp_path / "i", "other"))


def users(hold: Hold, count: int, tmp_path: Path) -> list[Path]:
    """The root folders of this many sandboxes, each with a mount at a point of its own."""
    made = []
    for number in range(count):
        folder = tmp_path / f"sandbox{number}"
        folder.mkdir(exist_ok=True)
        root = hold.with_points([bind("/usr", f"/new/{number}")], str(folder))
        assert Path(root, f"new/{number}").is_dir()
        made.append(Path(root))
    return made


def test_there_may_be_any_number_of_different_points(cache: Cache, tmp_path: Path) -> None:
    """A tree stays while its user's folder exists; of unused trees the last 16 stay."""
    made = hold(cache, write(tmp_path / "i"))
    roots = users(made, 20, tmp_path)
    assert all(root.is_dir() for root in roots)
    for number in range(19):
        (tmp_path / f"sandbox{number}").rmdir()
    again = hold(cache, tmp_path / "i")
    users(again, 1, tmp_path)  # the one that is there, used once more
    again.with_points([bind("/usr", "/yet/another")], str(tmp_path))
    left = [root.is_dir() for root in roots]
    assert (left[0], left[19]) == (True, True)
    assert sum(left) == 15
    assert len(list(Path(made._folder).glob("tree-*"))) == 16
    again.close()
    made.close()


def test_a_tree_stays_though_its_user_s_folder_cannot_be_seen_from_here(
    cache: Cache, tmp_path: Path
) -> None:
    """Containers may share the cache, and each have a /run and a /tmp of its own."""
    made = hold(cache, write(tmp_path / "i"))
    root = Path(made.with_points([bind("/usr", "/mine")], "/hidden/s-1/g1"))
    other = hold(cache, tmp_path / "i")
    users(other, 20, tmp_path)
    assert (root / "mine").is_dir()
    other.close()
    made.close()
    for number in range(20):
        (tmp_path / f"sandbox{number}").rmdir()
    cache.sweep()
    assert not root.exists()
    assert len(list(Path(made._folder).glob("tree-*"))) == 16


@pytest.mark.parametrize("text", ["{", "[]", "null", "{}", '{"notes": 7}', "[" * 100_000])
def test_an_image_with_a_broken_record_is_pruned(cache: Cache, tmp_path: Path, text: str) -> None:
    """A broken image is not listed. While somebody uses the image, a prune leaves it."""
    made = hold(cache, write(tmp_path / "i"))
    Path(made._folder, "image.json").write_text(text)
    cache.prune()
    assert os.path.isdir(made.path)
    assert cache.images() == []
    made.close()
    cache.prune()
    assert entries(cache) == set()


@pytest.mark.parametrize("missing", ["config", "name", "size", "notes", "seal"])
def test_a_record_without_a_field_is_a_broken_one(
    cache: Cache, tmp_path: Path, missing: str
) -> None:
    """Whichever it is, and whether it is missing or of another kind."""
    made = hold(cache, write(tmp_path / "i"))
    record = Path(made._folder, "image.json")
    facts = json.loads(record.read_text())
    for changed in ({k: v for k, v in facts.items() if k != missing}, {**facts, missing: [[]]}):
        record.write_text(json.dumps(changed))
        assert cache.images() == []
    again = hold(cache, tmp_path / "i")
    assert again.path != made.path
    again.close()
    made.close()


@pytest.mark.parametrize("name", ["flock", "utime", "rename", "listdir"])
def test_what_the_kernel_refuses_is_an_error_of_ours(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file system without locks, for instance."""
    path = write(tmp_path / "i")
    refused = Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr(fcntl if name == "flock" else os, name, refused)
    with pytest.raises(ImageError, match=r"cannot (keep it in|unpack) .*: No locks available"):
        hold(cache, path)


@pytest.mark.parametrize("is_other", [True, False])
def test_a_changed_image_that_is_in_use_is_unpacked_beside_it(
    tmp_path: Path, *, is_other: bool
) -> None:
    """A changed image in use is unpacked beside the old one: no user waits or loses a file."""
    cache = Cache(str(tmp_path / "c"), patience=0.3)
    first = hold(cache, write(tmp_path / "i"))
    folder = os.open(first.path, os.O_RDONLY)
    Path(first.path, "planted").touch()
    second = hold(Cache(cache.folder, patience=0.3) if is_other else cache, tmp_path / "i")
    assert not Path(second.path, "planted").exists()
    assert os.listdir(folder).count("planted") == 1
    cache.prune(0)
    assert os.listdir(folder).count("planted") == 1
    os.close(folder)
    first.close()
    second.close()
    cache.prune(0)
    assert entries(cache) == set()


def test_another_machine_s_image_is_not_used_and_stays(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder may be shared; an index has one id for the images of all machines."""
    path, index = write(tmp_path / "i"), "1" * 64
    hold(cache, path).close()
    made = cache.obtain(index, lambda: archive.opened(str(path)))
    assert made.id != index
    monkeypatch.setattr(config, "machine", lambda: "other")
    with pytest.raises(ImageError, match="this machine is other"):
        find(cache, made.id)
    assert find(cache, index) is None
    monkeypatch.undo()
    cache.prune()
    found = find(cache, made.id)
    assert found is not None
    assert found.path == made.path
    found.close()
    made.close()


def test_a_record_with_another_configuration_is_not_used(cache: Cache, tmp_path: Path) -> None:
    """The image's id is the digest of its configuration."""
    made = hold(cache, write(tmp_path / "i"))
    record = Path(made._folder, "image.json")
    facts = json.loads(record.read_text())
    for text in ("{}", "\ud800"):
        record.write_text(json.dumps({**facts, "config": text}))
        again = hold(cache, tmp_path / "i")
        assert again.path != made.path
        assert again.config.architecture == config.machine()
        again.close()
    made.close()
