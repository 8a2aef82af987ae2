"""Unpacked images, kept by their ids in the user's cache folder and shared by all sessions.

Layout::

    images/              0700, in the folder that platformdirs names
        ID.lock          flock: shared while ID is in use, exclusive while it is removed; its time
                         is that of the last use
        ID.making.lock   flock: exclusive while ID is unpacked
        ID.export.lock   flock: exclusive while a daemon's image of that id is looked for, exported
        ID/              image.json, rootfs/, and what mount_points.py keeps there
        ID.is            a link to the id of the image that a daemon calls ID
        tmp-ID-XXXX/     being unpacked, by whoever has ID.making.lock
        old-ID-XXXX/     put aside: removed where nobody has ID.lock

Locks are never unlinked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final, Self

from pytest_gvisor.errors import ImageError, LaunchError
from pytest_gvisor.escape import shown
from pytest_gvisor.guest.checked_json import loads
from pytest_gvisor.images import extract, locks, owners
from pytest_gvisor.images.archive import Content
from pytest_gvisor.images.config import ImageConfig
from pytest_gvisor.images.fingerprint import seal
from pytest_gvisor.images.mount_points import Trees
from pytest_gvisor.images.streams import Limits
from pytest_gvisor.oci import paths
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.locks import is_taken
from pytest_gvisor.sessions.private import make_above, make_private, open_private

DEFAULT_MAX_BYTES: Final = 20 * 1024**3
POINTS: Final = ("dev", "proc", "sys", "tmp", ".pytest-gvisor")
"""Folders that every root file system gets where nothing is at their places."""

_ID: Final = re.compile(r"[0-9a-f]{64}")
_PATIENCE: Final = 60.0
"""Seconds that a lock may be held for moments; for as much longer as unpacking may take."""
_EXPORT_PATIENCE: Final = 3600.0
"""Seconds that others wait for an export. The kernel frees the lock of one that has died."""


def default_folder() -> str:
    """Return the folder for images."""
    import platformdirs  # noqa: PLC0415 -- idle costs nothing

    return os.path.join(platformdirs.user_cache_dir("pytest-gvisor"), "images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """An image in the cache."""

    id: str
    name: str
    """As it was asked for when it was unpacked; empty where that is not known."""
    size: int
    """Bytes of its layers; of a broken one, of its files."""
    used: float
    """When, in seconds since 1970."""
    is_broken: bool = False
    """Whether what is written about it cannot be read: it is unpacked anew when it is needed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """The content of image.json."""

    id: str
    name: str
    size: int
    entries: int
    notes: tuple[str, ...]
    config: str
    seal: str

    @classmethod
    def read(cls, path: str) -> Self | None:
        """Read the record; None if it is missing or damaged."""
        try:
            with open(path, encoding="utf-8") as file:
                facts = loads(file.read())
            fields = {field.name: facts[field.name] for field in dataclasses.fields(cls)}
            found = cls(**{**fields, "notes": tuple(facts["notes"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None
        texts = (found.id, found.name, found.config, found.seal, *found.notes)
        numbers = (found.size, found.entries)
        good = all(isinstance(text, str) for text in texts)
        return found if good and all(type(number) is int for number in numbers) else None


class Hold:
    """An image that stays in the cache until `close`; nothing may be written to its folder."""

    def __init__(self, folder: str, lock: int, notes: Sequence[str]) -> None:
        self._folder = folder
        self.lock = lock
        self.notes = tuple(notes)
        self._trees = Trees(folder)

    @property
    def id(self) -> str:
        """The hexadecimal SHA-256 of the image's configuration, or of a plain tarball."""
        return os.path.basename(self._folder)

    @property
    def path(self) -> str:
        """The root file system. Raises `ImageError` after `close`."""
        if self.lock < 0:
            raise ImageError("it is closed, with the session that it was made in")
        return os.path.join(self._folder, "rootfs")

    def with_points(self, mounts: Sequence[Mount], user: str) -> str:
        """Return the root file system, or a copy of it with the points of these bind mounts.

        Files are shared between them by hard links. That one stays as long as the folder ``user``
        is there, the one of the sandbox or bundle. Raises `ImageError`.
        """
        root = self.path
        return self._trees.use(root, mounts, user) if paths.missing(root, mounts) else root

    def close(self) -> None:
        """Release the image. A second call does nothing."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            os.close(lock)


class Cache:
    """The cache in a folder. Methods raise `ImageError`, also for an unsafe folder."""

    def __init__(
        self,
        folder: str | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        patience: float = _PATIENCE,
    ) -> None:
        self._whole = os.path.abspath(folder or default_folder())
        self.max_bytes = max_bytes
        self._patience = patience
        self._is_swept = False

    @functools.cached_property
    def folder(self) -> str:
        """The folder for images of this process's user namespace."""
        return owners.part_of(self._whole)

    def hold(self, content: Content, *, name: str = "", limits: Limits | None = None) -> Hold:
        """Hold the image. The first process that needs it unpacks it; others wait."""
        self._check()
        with locks.failing(self.folder), contextlib.ExitStack() as on_failure:
            lock = self._used(content.id, on_failure)
            notes = self._notes_if_unchanged(content.id)
            if notes is None:
                # Who uses a tree that was changed keeps it: no more than the making is exclusive.
                patience = (limits or Limits()).max_seconds + self._patience
                with self._alone(f"{content.id}.making", "unpacks it", patience):
                    notes = self._notes_if_unchanged(content.id)
                    if notes is None:
                        notes = self._make(content, name, limits)
            os.utime(lock)
            on_failure.pop_all()
            return Hold(self._path(content.id), lock, notes)

    def find(self, identity: str) -> tuple[Hold, ImageConfig] | None:
        """Hold the image with this id, and return its configuration too; None if it is not there.

        The id may also be one that a daemon has for it (see `learn`), which is the same for images
        of other machines: none of these is there.
        """
        self._check()
        with locks.failing(self.folder), contextlib.ExitStack() as on_failure:
            identity = self._known_as(identity)
            if not _ID.fullmatch(identity) or not os.path.isdir(self._path(identity)):
                return None
            lock = self._used(identity, on_failure)
            record, notes = self._record(identity), self._notes_if_unchanged(identity)
            if record is None or notes is None:
                return None
            text = record.config.encode("utf-8", "surrogatepass")
            if hashlib.sha256(text).hexdigest() != identity:
                return None
            config = ImageConfig.parse(text)
            if not config.runs_here():
                return None
            os.utime(lock)
            on_failure.pop_all()
            return Hold(self._path(identity), lock, notes), config

    def learn(self, other: str, identity: str) -> None:
        """Remember, while `exporting`, that a daemon's ``other`` is the image ``identity``."""
        with locks.failing(self.folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._path(other)}.is")
            os.symlink(identity, f"{self._path(other)}.is")

    @contextlib.contextmanager
    def exporting(self, identity: str) -> Iterator[None]:
        """Lock the export of a daemon's image with this id; other processes wait."""
        self._check()
        if not _ID.fullmatch(identity):
            raise ImageError(f"the id {shown(identity)} is no digest")
        with contextlib.ExitStack() as held:
            with locks.failing(self.folder):
                alone = self._alone(f"{identity}.export", "exports it", _EXPORT_PATIENCE)
                held.enter_context(alone)
            yield

    def images(self) -> list[Kept]:
        """Return the images in the cache, the last used first."""
        found = []
        if not os.path.lexists(self.folder):
            return []
        self._check_folder()
        with locks.failing(self.folder):
            for name in os.listdir(self.folder):
                if _ID.fullmatch(name):
                    # One may go while it is looked at.
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        found.append(self._kept(name))
        return sorted(found, key=lambda kept: -kept.used)

    def prune(self, max_bytes: int | None = None) -> list[Kept]:
        """Remove the least recently used images until the rest is at most ``max_bytes``.

        Broken ones are removed in any case. One that is in use stays. The answer is what was
        removed.
        """
        bound = self.max_bytes if max_bytes is None else max_bytes
        kept = self.images()
        total = sum(image.size for image in kept)
        removed = []
        with locks.failing(self.folder):
            for image in sorted(kept, key=lambda image: (not image.is_broken, image.used)):
                if (total > bound or image.is_broken) and self._is_removed(image.id):
                    total -= image.size
                    removed.append(image)
            if os.path.isdir(self.folder):
                self._sweep()
        return removed

    def _check(self) -> None:
        with locks.failing(self.folder):
            self._check_folder()
            if not self._is_swept:
                self._sweep()
                self._is_swept = True

    def _check_folder(self) -> None:
        """Make the cache folder if it is missing. Refuse it if other users can write to it."""
        try:
            make_above(self.folder)
            # Others can write to GitLab's checkouts, and a cache there is the user's own choice.
            os.close(open_private(self.folder, lenient=True))
        except LaunchError as error:
            raise ImageError(
                f"the cache folder cannot be used: {error.message}",
                next_step="XDG_CACHE_HOME says where images are kept.",
            ) from error

    def _path(self, identity: str) -> str:
        return os.path.join(self.folder, identity)

    def _known_as(self, identity: str) -> str:
        if _ID.fullmatch(identity):
            with contextlib.suppress(OSError):
                return os.readlink(f"{self._path(identity)}.is")
        return identity

    def _alone(
        self, name: str, busy: str, patience: float
    ) -> contextlib.AbstractContextManager[None]:
        return locks.alone(f"{self._path(name)}.lock", patience=patience, busy=busy)

    def _used(self, identity: str, on_failure: contextlib.ExitStack) -> int:
        """Return a descriptor that holds the image, whether the image exists or not."""
        lock = locks.opened(f"{self._path(identity)}.lock")
        on_failure.callback(os.close, lock)
        locks.wait(lock, fcntl.LOCK_SH, patience=self._patience, busy="removes it")
        return lock

    def _record(self, identity: str) -> _Record | None:
        return _Record.read(os.path.join(self._path(identity), "image.json"))

    def _notes_if_unchanged(self, identity: str) -> tuple[str, ...] | None:
        """Return the notes of an unchanged image; None for a changed or missing one."""
        record = self._record(identity)
        with contextlib.suppress(OSError):
            if record and record.seal == seal(os.path.join(self._path(identity), "rootfs")):
                return record.notes
        return None

    def _kept(self, identity: str) -> Kept:
        record = self._record(identity)
        path = self._path(identity)
        used = os.stat(path).st_mtime
        with contextlib.suppress(FileNotFoundError):
            used = os.stat(f"{path}.lock").st_mtime
        if record is None:
            return Kept(id=identity, name="", size=_bytes_in(path), used=used, is_broken=True)
        return Kept(id=identity, name=record.name, size=record.size, used=used)

    def _make(self, content: Content, name: str, limits: Limits | None) -> tuple[str, ...]:
        """Unpack under a temporary name and return the notes. The caller holds the lock."""
        self._sweep_of("tmp", content.id)
        temporary = tempfile.mkdtemp(prefix=f"tmp-{content.id}-", dir=self.folder)
        try:
            root = os.path.join(temporary, "rootfs")
            make_private(root)
            facts = extract.unpack(content, root, limits=limits, points=POINTS)
            record = _Record(
                id=content.id,
                name=name,
                size=facts.size,
                entries=facts.entries,
                notes=facts.notes,
                config=content.config_bytes.decode(),
                seal=seal(root),
            )
            with open(os.path.join(temporary, "image.json"), "x", encoding="utf-8") as file:
                json.dump(dataclasses.asdict(record), file)
            # Whoever uses one that was changed has it under its name until the new one is whole.
            self._put_aside(content.id)
            os.rename(temporary, self._path(content.id))
        except BaseException:
            _remove_tree(temporary)
            raise
        # What is wrong with another image is no failure of this one; a prune by hand tells it.
        with contextlib.suppress(ImageError):
            self.prune()
        return facts.notes

    def _put_aside(self, identity: str) -> str:
        """Rename an image out of its place, without need of disk space; return the new path."""
        aside = f"{self.folder}/old-{identity}-{secrets.token_hex(4)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path(identity), aside)
        return aside

    def _is_removed(self, identity: str) -> bool:
        """Remove an image if nobody uses it; return whether it was removed."""
        lock = locks.opened(f"{self._path(identity)}.lock")
        try:
            if not is_taken(lock):
                return False
            aside = self._put_aside(identity)
        finally:
            os.close(lock)
        _remove_tree(aside)
        return True

    def _sweep(self) -> None:
        """Remove the remains of killed processes, and images put aside."""
        names = os.listdir(self.folder)
        for kind, lock in (("tmp", ".making.lock"), ("old", ".lock")):
            for identity in {name[4:68] for name in names if name.startswith(f"{kind}-")}:
                if _ID.fullmatch(identity):
                    fd = locks.opened(f"{self._path(identity)}{lock}")
                    try:
                        if is_taken(fd):
                            self._sweep_of(kind, identity)
                    finally:
                        os.close(fd)
        for name in names:
            path = self._path(name)
            # Another session sweeps too.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if _ID.fullmatch(name):
                    Trees(path).sweep()
                elif name.endswith(".is") and not os.path.isdir(path):
                    os.unlink(path)

    def _sweep_of(self, kind: str, identity: str) -> None:
        for name in os.listdir(self.folder):
            if name.startswith(f"{kind}-{identity}-"):
                _remove_tree(self._path(name))


def _remove_tree(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _bytes_in(folder: str) -> int:
    """Return the size of all files below, as far as they are readable."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(path, name)).st_size
    return size
