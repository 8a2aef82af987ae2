"""Unpacked images, kept by their ids in the user's cache folder and shared by all sessions.

Layout::

    images/              0700, in the folder that platformdirs names
        ID.lock          flock: shared while ID is in use, exclusive while it is made or removed;
                         its time is that of the last use, and it is never unlinked
        ID/              image.json, rootfs/, and points-XXXX/ with more mount points
        tmp-ID-XXXX/     being made or removed, by whoever has the exclusive lock
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from pytest_gvisor.errors import ImageError, LaunchError
from pytest_gvisor.images import extract
from pytest_gvisor.images.archive import Content
from pytest_gvisor.images.config import ImageConfig
from pytest_gvisor.images.seal import seal
from pytest_gvisor.images.streams import Limits
from pytest_gvisor.launch.session_dir import make_private, open_private
from pytest_gvisor.oci import inroot
from pytest_gvisor.oci.rootfs import make_points
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.validate import normal

DEFAULT_MAX_BYTES: Final = 20 * 1024**3
POINTS: Final = ("dev", "proc", "sys", "tmp", ".pytest-gvisor")
"""Folders that every root file system gets where nothing is at their places."""

_ID: Final = re.compile(r"[0-9a-f]{64}")
_PATIENCE: Final = 600.0
_MAX_VARIANTS: Final = 16


def default_folder() -> str:
    """Where images are kept."""
    import platformdirs  # noqa: PLC0415 -- idle costs nothing

    return os.path.join(platformdirs.user_cache_dir("pytest-gvisor"), "images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """An image in the cache."""

    id: str
    name: str
    """As it was asked for when it was unpacked; empty where that is not known."""
    size: int
    """Bytes of its layers."""
    used: float
    """When, in seconds since 1970."""


class Hold:
    """An image that stays in the cache until `close`; nothing may be written to its folder."""

    def __init__(self, folder: str, lock: int, notes: Sequence[str]) -> None:
        self._folder = folder
        self.lock = lock
        self.notes = tuple(notes)
        self._sealed: set[str] = set()

    @property
    def path(self) -> str:
        """Its root file system. Raises `ImageError` when it is closed."""
        if self.lock < 0:
            raise ImageError("it is closed, with the session that it was made in")
        return os.path.join(self._folder, "rootfs")

    def with_points(self, mounts: Sequence[Mount]) -> str:
        """The root file system, or one like it that has the points of these bind mounts.

        Files are shared between them by hard links.
        """
        root = self.path
        if not inroot.missing(root, mounts):
            return root
        points = sorted(
            (normal(m.destination), os.path.isdir(m.source)) for m in mounts if m.is_bind
        )
        digest = hashlib.sha256(repr(points).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        variant = f"{self._folder}/points-{digest}"
        if not self._is_sealed(variant):
            if len(os.listdir(self._folder)) > _MAX_VARIANTS:
                return root
            with _failing(self._folder):
                self._make_variant(root, variant, mounts)
        return f"{variant}/rootfs"

    def _is_sealed(self, variant: str) -> bool:
        """Whether a tree with more points is there as it was left; looked at once."""
        if variant not in self._sealed and _opened_seal(variant):
            self._sealed.add(variant)
        return variant in self._sealed

    def _make_variant(self, root: str, variant: str, mounts: Sequence[Mount]) -> None:
        temporary = tempfile.mkdtemp(prefix=".tmp-", dir=self._folder)
        try:
            _copy(root, f"{temporary}/rootfs")
            make_points(f"{temporary}/rootfs", mounts)
            with open(f"{temporary}/seal", "x", encoding="ascii") as file:
                file.write(seal(f"{temporary}/rootfs"))
            # One that was changed may be in use: it is put aside, and goes with the image.
            with contextlib.suppress(OSError):
                if not _opened_seal(variant):
                    os.rename(variant, f"{temporary}-old")
            try:
                os.rename(temporary, variant)
            except OSError:
                if not _opened_seal(variant):  # another one was not faster
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            os.close(lock)


class Cache:
    """The cache in this folder. Methods raise `ImageError`, or `LaunchError` for an unsafe one."""

    def __init__(
        self,
        folder: str | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        patience: float = _PATIENCE,
    ) -> None:
        self.folder = folder or default_folder()
        self.max_bytes = max_bytes
        self._patience = patience
        self._is_swept = False

    def hold(self, content: Content, *, name: str = "", limits: Limits | None = None) -> Hold:
        """The image, unpacked by whoever needs it first; others wait for that."""
        self._check()
        lock = self._lock(content.id)
        with _failing(self.folder), contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, lock)
            while True:
                self._wait(lock, fcntl.LOCK_SH)
                if (found := self._look(content.id)) is not None:
                    os.utime(lock)
                    on_failure.pop_all()
                    return Hold(self._path(content.id), lock, found)
                self._wait(lock, fcntl.LOCK_EX)
                if self._look(content.id) is None:
                    self._make(content, name, limits)

    def find(self, identity: str) -> tuple[Hold, ImageConfig] | None:
        """The image with this id, held, and its configuration; None where it is not there."""
        self._check()
        if not _ID.fullmatch(identity) or not os.path.isdir(self._path(identity)):
            return None
        lock = self._lock(identity)
        with _failing(self.folder), contextlib.ExitStack() as on_failure:
            on_failure.callback(os.close, lock)
            self._wait(lock, fcntl.LOCK_SH)
            notes = self._look(identity)
            if notes is None:
                return None
            text = str(self._facts(identity)["config"]).encode()
            if hashlib.sha256(text).hexdigest() != identity:
                return None
            config = ImageConfig.parse(text)
            os.utime(lock)
            on_failure.pop_all()
            return Hold(self._path(identity), lock, notes), config

    def images(self) -> list[Kept]:
        """What is there, the last used first."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if _ID.fullmatch(name):
                    with contextlib.suppress(OSError, ValueError, KeyError):
                        facts = self._facts(name)
                        used = os.stat(f"{self._path(name)}.lock").st_mtime
                        size, asked = int(facts["size"]), str(facts.get("name", ""))
                        found.append(Kept(id=name, name=asked, size=size, used=used))
        return sorted(found, key=lambda kept: -kept.used)

    def prune(self, max_bytes: int | None = None) -> list[Kept]:
        """Remove those that were used longest ago, until the rest is no more than ``max_bytes``.

        One that is in use stays. The answer is what was removed.
        """
        bound = self.max_bytes if max_bytes is None else max_bytes
        kept = self.images()
        total = sum(image.size for image in kept)
        removed = []
        for image in reversed(kept):
            if total <= bound:
                break
            if self._remove(image.id):
                total -= image.size
                removed.append(image)
        self._sweep()
        return removed

    def _check(self) -> None:
        above = os.path.dirname(self.folder)
        with _failing(self.folder):
            os.makedirs(above, 0o700, exist_ok=True)
            os.close(open_private(self.folder))
            if not self._is_swept:
                self._sweep()
                self._is_swept = True

    def _path(self, identity: str) -> str:
        return os.path.join(self.folder, identity)

    def _lock(self, identity: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with _failing(self.folder):
            return os.open(f"{self._path(identity)}.lock", flags, 0o600)

    def _wait(self, lock: int, kind: int) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ImageError(
                        f"another process unpacks it, and has not finished in {self._patience:g} s"
                    ) from None
                time.sleep(0.02)

    def _facts(self, identity: str) -> dict[str, Any]:
        with open(os.path.join(self._path(identity), "image.json"), encoding="utf-8") as file:
            facts: dict[str, Any] = json.load(file)
        return facts

    def _look(self, identity: str) -> tuple[str, ...] | None:
        """The notes of an image that is there as it was left; None for another."""
        try:
            facts = self._facts(identity)
            if facts["seal"] != seal(os.path.join(self._path(identity), "rootfs")):
                return None
            notes = facts["notes"]
            return tuple(map(str, notes)) if isinstance(notes, list) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _make(self, content: Content, name: str, limits: Limits | None) -> None:
        """Unpack under another name; the lock is exclusive."""
        self._sweep_of(content.id)
        self._discard(content.id)
        temporary = tempfile.mkdtemp(prefix=f"tmp-{content.id}-", dir=self.folder)
        try:
            root = os.path.join(temporary, "rootfs")
            make_private(root)
            facts = extract.unpack(content, root, limits=limits, points=POINTS)
            value = {
                "id": content.id,
                "name": name,
                "size": facts.size,
                "entries": facts.entries,
                "notes": facts.notes,
                "config": content.config_bytes.decode(),
                "seal": seal(root),
            }
            with open(os.path.join(temporary, "image.json"), "x", encoding="utf-8") as file:
                json.dump(value, file)
            os.rename(temporary, self._path(content.id))
        except BaseException:
            _remove_tree(temporary)
            raise
        self.prune()

    def _remove(self, identity: str) -> bool:
        """Remove an image that nobody uses; whether it was."""
        lock = self._lock(identity)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._discard(identity)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(lock)

    def _discard(self, identity: str) -> None:
        """Rename, then remove: half of an image is never seen."""
        temporary = tempfile.mkdtemp(prefix=f"tmp-{identity}-", dir=self.folder)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path(identity), os.path.join(temporary, "old"))
        _remove_tree(temporary)

    def _sweep(self) -> None:
        """Remove what processes that have died in the middle have left."""
        found: list[str] = []
        with contextlib.suppress(FileNotFoundError):  # there was no image yet
            found = os.listdir(self.folder)
        names = {name[4:68] for name in found if name.startswith("tmp-")}
        for identity in filter(_ID.fullmatch, names):
            lock = self._lock(identity)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep_of(identity)
            except BlockingIOError:
                continue
            finally:
                os.close(lock)

    def _sweep_of(self, identity: str) -> None:
        for name in os.listdir(self.folder):
            if name.startswith(f"tmp-{identity}-"):
                _remove_tree(os.path.join(self.folder, name))


def _opened_seal(variant: str) -> bool:
    """Whether a tree is as its seal says."""
    try:
        with open(f"{variant}/seal", encoding="ascii") as file:
            return file.read() == seal(f"{variant}/rootfs")
    except OSError:
        return False


def _remove_tree(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    """A tree of the same files: folders are made anew, all else is linked."""
    os.mkdir(target, 0o700)
    with os.scandir(source) as entries:
        for entry in entries:
            where = os.path.join(target, entry.name)
            if entry.is_dir(follow_symlinks=False):
                _copy(entry.path, where)
            else:
                os.link(entry.path, where, follow_symlinks=False)
    status = os.stat(source)
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)


@contextlib.contextmanager
def _failing(folder: str) -> Iterator[None]:
    try:
        yield
    except (OSError, LaunchError) as error:
        # A folder that is not safe, or cannot be made, is told as for that of a session.
        why = os.strerror(error.errno) if error.errno else str(error).partition(": ")[2]
        raise ImageError(
            f"cannot keep it in {folder}: {why}",
            next_step="XDG_CACHE_HOME says where images are kept.",
        ) from error
