"""The folder of saved sandboxes: whole ones are found, and all others are removed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.programs.locks import is_taken
from pytest_gvisor.run import saved_store
from pytest_gvisor.run.saved_store import SavedStore
from pytest_gvisor.sessions import boot_notes

KEY, OTHER = "a" * 64, "b" * 64
FACTS: dict[str, Any] = {"files": {"/a": [1, 2, 3, 4]}, "names": {}, "start": "/project"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(cache: Path) -> SavedStore:
    """An empty store."""
    assert not cache.exists()
    store = SavedStore.open(make=True)
    assert store is not None
    return store


@pytest.fixture
def image(tmp_path: Path) -> str:
    """An image of 1000 bytes."""
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "pages.img").write_bytes(b"p" * 900)
    (folder / "checkpoint.img").write_bytes(b"c" * 100)
    return str(folder)


def kept(cache: Path) -> list[Path]:
    """The folders of saved sandboxes."""
    return [path for path in (cache / "pytest-gvisor/sandboxes-1").glob("*-*") if path.is_dir()]


def is_found(store: SavedStore, key: str = KEY) -> bool:
    """Whether a whole one is found."""
    held = store.find(key)
    if held is not None:
        held.close()
    return held is not None


def test_what_was_kept_is_found(store: SavedStore, image: str, cache: Path) -> None:
    """With its facts, in a folder and files that are this user's alone, whatever the umask."""
    before = os.umask(0)
    try:
        assert store.keep(KEY, image, FACTS)
    finally:
        os.umask(before)
    held = store.find(KEY)
    assert held is not None
    assert held.facts == FACTS
    assert Path(held.image, "pages.img").read_bytes() == b"p" * 900
    held.close()
    assert store.find(OTHER) is None
    for path in (cache / "pytest-gvisor").rglob("*"):
        assert path.is_symlink() or not path.stat().st_mode & 0o077


def test_without_a_folder_nothing_is_made_to_look(cache: Path) -> None:
    """A fresh machine has no cache, and keeps none."""
    assert SavedStore.open(make=False) is None
    assert not cache.exists()


def _cut(path: Path) -> None:
    os.truncate(path / "image/pages.img", 100)


def _overwrite(path: Path) -> None:
    file = path / "image/pages.img"
    state = file.stat()
    file.write_bytes(b"x" * 900)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _add(path: Path) -> None:
    file = path / "image/more"
    file.touch(0o600)
    file.chmod(0o600)


def _link(path: Path) -> None:
    (path / "image").rename(path / "there")
    (path / "image").symlink_to("there")


def _of_another_boot(path: Path) -> None:
    facts = json.loads((path / "facts.json").read_text())
    (path / "facts.json").write_text(json.dumps({**facts, "boot": "other"}))


BROKEN: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "overwritten with the same size and mtime": _overwrite,
    "with another file": _add,
    "behind a link": _link,
    "of another boot": _of_another_boot,
    "readable by others": lambda path: (path / "image/pages.img").chmod(0o644),
    "without a file": lambda path: (path / "image/pages.img").unlink(),
    "without facts": lambda path: (path / "facts.json").unlink(),
    "with facts that are none": lambda path: (path / "facts.json").write_text("[1, 2"),
    "with facts of another shape": lambda path: (path / "facts.json").write_text("{}"),
    "with facts that others may write": lambda path: (path / "facts.json").chmod(0o666),
    "with a second name": lambda path: os.link(path / "image/pages.img", path / "second"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_not_found_and_swept(
    name: str, store: SavedStore, image: str, cache: Path
) -> None:
    """Another one that is whole stays, and the key can be used again."""
    store.keep(KEY, image, FACTS)
    (path,) = kept(cache)
    BROKEN[name](path)
    assert not is_found(store)
    store.keep(OTHER, image, FACTS)
    assert [folder.name[:64] for folder in kept(cache)] == [OTHER]
    assert store.keep(KEY, image, FACTS)
    assert is_found(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives files away")
def test_a_file_of_another_owner_is_not_used(store: SavedStore, image: str, cache: Path) -> None:
    """Nobody else has written what is read."""
    store.keep(KEY, image, FACTS)
    (path,) = kept(cache)
    os.chown(path / "image/checkpoint.img", 65534, 65534)
    assert not is_found(store)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o750])
def test_a_folder_that_others_can_enter_is_refused(
    mode: int, store: SavedStore, image: str, cache: Path
) -> None:
    """The folder itself, sticky or not."""
    store.keep(KEY, image, FACTS)
    (cache / "pytest-gvisor/sandboxes-1").chmod(mode)
    with pytest.raises(LaunchError, match="lets others in"):
        SavedStore.open(make=False)


def test_a_way_that_others_can_turn_is_refused(store: SavedStore, image: str, cache: Path) -> None:
    """A folder above that others can write is as bad, and so is a link in its own place."""
    store.keep(KEY, image, FACTS)
    cache.chmod(0o777)
    with pytest.raises(LaunchError, match="can be written by others"):
        SavedStore.open(make=True)
    cache.chmod(0o700)
    place = cache / "pytest-gvisor/sandboxes-1"
    place.rename(cache / "elsewhere")
    place.symlink_to(cache / "elsewhere")
    with pytest.raises(LaunchError, match="is a symlink"):
        SavedStore.open(make=False)


def test_those_used_least_recently_go_first(
    store: SavedStore, image: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they have no more bytes than the limit."""
    monkeypatch.setattr(saved_store.SavedStore.sweep, "__defaults__", (2500,))
    keys = [letter * 64 for letter in "abc"]
    for age, key in ((300, keys[0]), (200, keys[1])):
        store.keep(key, image, FACTS)
        (path,) = (path for path in kept(cache) if path.name.startswith(key))
        os.utime(path / "lock", (0, path.stat().st_mtime - age))
    assert is_found(store, keys[0])  # used now
    store.keep(keys[2], image, FACTS)
    assert [is_found(store, key) for key in keys] == [True, False, True]


def test_one_that_is_unused_for_long_is_swept(store: SavedStore, image: str, cache: Path) -> None:
    """By a sweep, which names what it has removed."""
    store.keep(KEY, image, FACTS)
    (path,) = kept(cache)
    assert store.sweep() == []
    old = path.stat().st_mtime - 15 * 86400
    os.utime(path / "lock", (old, old))
    assert store.sweep() == [str(path)]
    assert kept(cache) == []


def test_one_that_is_in_use_stays(store: SavedStore, image: str, cache: Path) -> None:
    """Its folder is there until it is released, even if another one takes its place."""
    store.keep(KEY, image, FACTS)
    held = store.find(KEY)
    assert held is not None
    store.drop(KEY)
    assert is_found(store)
    assert store.keep(KEY, image, {"files": {}, "names": {}})
    assert Path(held.image, "pages.img").exists()
    held.close()
    store.sweep()
    assert len(kept(cache)) == 1
    again = store.find(KEY)
    assert again is not None
    assert again.facts == {"files": {}, "names": {}}
    again.close()
    store.drop(KEY)
    assert kept(cache) == []


def test_one_that_is_being_made_is_neither_found_nor_made_twice(
    store: SavedStore, image: str, cache: Path
) -> None:
    """Nobody waits for it."""
    store.keep(KEY, image, FACTS)
    (path,) = kept(cache)
    lock = os.open(path / "lock", os.O_RDWR)
    assert is_taken(lock, fcntl.LOCK_EX)
    assert not is_found(store)
    assert not store.keep(KEY, image, FACTS)
    assert store.sweep() == []
    os.close(lock)
    assert is_found(store)


def test_a_failure_in_the_middle_leaves_nothing(
    store: SavedStore, image: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is an error, and the next session may keep it."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(boot_notes, "boot_id", fail)
        with pytest.raises(OSError, match="No space"):
            store.keep(KEY, image, FACTS)
    assert kept(cache) == []
    assert store.keep(KEY, image, FACTS)


def test_a_kernel_without_a_boot_id_keeps_none(
    store: SavedStore, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell one boot from another."""
    monkeypatch.setattr(boot_notes, "boot_id", lambda: "")
    store.keep(KEY, image, FACTS)
    assert not is_found(store)


def test_sandboxes_of_a_project_that_are_never_used_are_in_vain(
    store: SavedStore, image: str, cache: Path
) -> None:
    """Four of them, within a day; one that is used is none of them."""
    keys = [letter * 64 for letter in "abcd"]
    for key in keys:
        assert not store.is_in_vain("/project")
        store.keep(key, image, FACTS)
    assert store.is_in_vain("/project")
    assert not store.is_in_vain("/other")
    (path,) = (path for path in kept(cache) if path.name.startswith("a"))
    before = path.stat().st_mtime - 90_000
    os.utime(path / "facts.json", (before, before))
    assert not store.is_in_vain("/project")
    store.keep("e" * 64, image, FACTS)
    assert store.is_in_vain("/project")
    assert is_found(store, keys[1])
    assert not store.is_in_vain("/project")


@pytest.mark.parametrize("uses", [True, False])
def test_a_look_without_a_use_leaves_the_time_of_the_last_one(
    uses: bool, store: SavedStore, image: str, cache: Path
) -> None:
    """The session that keeps one makes its root, and has not used it by that."""
    store.keep(KEY, image, FACTS)
    (folder,) = kept(cache)
    os.utime(folder / "lock", (1, 1))
    held = store.find(KEY, uses=uses)
    assert held is not None
    held.close()
    assert ((folder / "lock").stat().st_mtime > 1) is uses
