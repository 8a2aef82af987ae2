"""Unpacked images, by their ids in the user's cache folder and shared by all sessions.

Layout, in the folders of `Folders`; the number in the name of the folder above is the layout's::

    image.json   the record, written last: an image without it is not whole
    rootfs/      the root file system
    tree-…/      copies of it with more mount points: see mount_points.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pytest_gvisor.base.errors import ImageError, LaunchError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.images import extract, image_users, mount_points
from pytest_gvisor.images.archive import Content
from pytest_gvisor.images.config import ImageConfig
from pytest_gvisor.images.folders import NEXT_STEP, Folders, failing, id_of, is_id
from pytest_gvisor.images.mount_points import seal
from pytest_gvisor.oci import root_paths
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.programs.paths import caches
from pytest_gvisor.sessions.private import make_above, make_private, open_private, was_written

DEFAULT_MAX_BYTES: Final = 20 * 1024**3
POINTS: Final = ("dev", "proc", "sys", "tmp", ".pytest-gvisor")
"""Folders that every root file system gets where nothing is at their places."""

_PATIENCE: Final = 60.0
"""Seconds that a lock may be held for moments; for as much longer as unpacking may take."""
_EXPORT_PATIENCE: Final = 3600.0
"""Seconds that others wait for an export. The kernel frees the lock of one that has died."""
_TRIES: Final = 100

Opened = Callable[[], contextlib.AbstractContextManager[Content]]
"""Opens an image to be unpacked."""


@dataclass(frozen=True, kw_only=True)
class CachedImage:
    """An image in the cache, by its image.json."""

    id: str
    name: str
    """The name by which it was asked for when it was unpacked; empty if there was none."""
    size: int
    """Bytes of its layers."""
    notes: tuple[str, ...]
    """The kinds of entries that were left out of it, with their number."""
    config: str
    seal: str
    used: float = 0.0
    """The time of its last use, in seconds since 1970. It is not in the file."""

    @classmethod
    def read(cls, path: str) -> Self | None:
        """Read the record; None if it is missing or damaged."""
        try:
            with open(path, encoding="utf-8") as file:
                facts = loads(file.read())
            texts = {name: facts[name] for name in ("id", "name", "config", "seal")}
            found = cls(**texts, size=facts["size"], notes=tuple(facts["notes"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        known = (*texts.values(), *found.notes)
        good = all(isinstance(text, str) for text in known) and type(found.size) is int
        return found if good else None


class Hold:
    """An image that stays in the cache until `close`; nothing may be written to its folder."""

    def __init__(self, folder: str, lock: int, record: CachedImage) -> None:
        self._folder = folder
        self.lock = lock
        self.record = record
        self._checked: set[str] = set()

    @property
    def id(self) -> str:
        """The hexadecimal SHA-256 of the image's configuration, or of a plain tarball."""
        return id_of(self._folder)

    @property
    def path(self) -> str:
        """The root file system. Raises `ImageError` after `close`, or if a sandbox may have
        written it.
        """
        if self.lock < 0:
            raise ImageError("it is closed, with the session that it was made in")
        if was_written(self._folder):
            raise ImageError(f"a sandbox was allowed to write to {self._folder}, where it is kept")
        return os.path.join(self._folder, "rootfs")

    @functools.cached_property
    def config(self) -> ImageConfig:
        """The image's configuration; that of a plain tarball is empty. Raises `ImageError`."""
        text = self.record.config
        return ImageConfig.parse(text.encode()) if text else ImageConfig()

    def with_points(self, mounts: Sequence[Mount], user: str) -> str:
        """Return the root file system, or a copy of it with the points of these bind mounts.

        The copy shares files with it by hard links, and is kept until the folder ``user`` of the
        sandbox or bundle is removed. Raises `ImageError`.
        """
        root = self.path
        if not root_paths.missing(root, mounts):
            return root
        return mount_points.use(self._folder, root, mounts, user, self._checked)

    def close(self) -> None:
        """Release the image. A second call does nothing."""
        lock, self.lock = self.lock, -1
        if lock >= 0:
            os.close(lock)


class Cache:
    """The cache in a folder. Methods raise `ImageError`, also for an unsafe folder."""

    def __init__(self, folder: str | None = None, *, patience: float = _PATIENCE) -> None:
        self._whole = os.path.abspath(folder) if folder else caches("images-2")
        self._patience = patience
        self._is_swept = False

    @functools.cached_property
    def folder(self) -> str:
        """The folder for images of this process's user namespace."""
        return image_users.part_of(self._whole)

    @functools.cached_property
    def _folders(self) -> Folders:
        return Folders(self.folder, self._patience)

    def hold(self, content: Content, *, name: str = "") -> Hold:
        """Hold the image. The first process that needs it unpacks it; others wait."""
        return self.obtain(
            content.id,
            lambda: contextlib.nullcontext(content),
            name=name,
            patience=content.limits.max_seconds + self._patience,
        )

    def obtain(
        self,
        identity: str,
        opened: Opened,
        *,
        name: str = "",
        patience: float = _EXPORT_PATIENCE,
    ) -> Hold:
        """Hold the image with this id. The first process that needs it opens and unpacks it.

        Others wait for that. The content may have another id than was asked for, which is then the
        image's own. ``identity`` is remembered as one that a daemon has for it.
        """
        if not is_id(identity):
            raise ImageError(f"the id {shown(identity)} is no digest")
        self._check()
        for _ in range(_TRIES):
            with failing(self.folder):
                link = self._folders.link(identity)
                if hold := self._found(link, patience):
                    return hold
                begun = self._folders.begin(identity, instead=link)
            if begun and (hold := self._made(*begun, opened, name)):
                return hold
        raise ImageError("it is removed or changed as fast as it is unpacked")

    def images(self) -> list[CachedImage]:
        """Return the images in the cache, the last used first."""
        found = []
        if not os.path.lexists(self.folder):
            return []
        self._check_folder()
        with failing(self.folder):
            for name in os.listdir(self.folder):
                folder = self._folders.link(name)
                path = self._folders.path(folder)
                record = CachedImage.read(f"{path}/image.json")
                if record is None or not folder.startswith(f"{name}-"):
                    continue
                with contextlib.suppress(FileNotFoundError):  # it may be removed meanwhile
                    used = os.stat(f"{path}/lock").st_mtime
                    found.append(dataclasses.replace(record, id=name, used=used))
        return sorted(found, key=lambda image: -image.used)

    def prune(self, max_bytes: int = DEFAULT_MAX_BYTES) -> list[CachedImage]:
        """Remove the least recently used images until the rest is at most ``max_bytes``.

        An image that is in use stays. Returns the removed images.
        """
        found = self.images()
        total = sum(image.size for image in found)
        removed = []
        with failing(self.folder):
            for image in reversed(found):
                if total > max_bytes and self._folders.remove(self._folders.link(image.id)):
                    total -= image.size
                    removed.append(image)
            if os.path.isdir(self.folder):
                self._sweep()
        return removed

    def sweep(self) -> list[str]:
        """Remove the remains of killed processes; return the paths of images that went."""
        if not os.path.isdir(self.folder):
            return []
        with failing(self.folder):
            self._check_folder()
            return self._sweep()

    def _check(self) -> None:
        with failing(self.folder):
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
            text = f"the cache folder cannot be used: {error.message}"
            raise ImageError(text, next_step=NEXT_STEP) from error

    def _sweep(self) -> list[str]:
        """Remove the remains of killed processes, and images whose record cannot be read."""
        removed = []
        for folder in self._folders.sweep():
            path = self._folders.path(folder)
            if not CachedImage.read(f"{path}/image.json"):
                if self._folders.remove(folder):
                    removed.append(path)
                continue
            with self._folders.unused(folder) as is_unused:
                if is_unused:
                    mount_points.sweep(path)
        return removed

    def _found(self, link: str, patience: float) -> Hold | None:
        """Hold the image that an id leads to by ``link``; None if it has to be unpacked."""
        folder = link if not is_id(link) else self._folders.link(link)
        hold = self._held(folder, patience) if folder else None
        if hold is None:
            return None
        try:
            hold.config.check_runs_here()
        except ImageError:
            hold.close()
            if folder == link:
                raise
            # Machines of several architectures may share a home folder, and an index has one id for
            # the images of all of them.
            return None
        return hold

    def _held(self, folder: str, patience: float) -> Hold | None:
        """Hold the image in a folder; None if it is changed, unfinished or gone."""
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as on_failure:
            lock = self._folders.open(folder)
            on_failure.callback(os.close, lock)
            if self._folders.share(lock, patience) and (record := self._unchanged(folder)):
                os.utime(lock)
                on_failure.pop_all()
                return Hold(self._folders.path(folder), lock, record)
        return None

    def _unchanged(self, folder: str) -> CachedImage | None:
        """Return the record of an unchanged image; None for a changed or unfinished one."""
        path = self._folders.path(folder)
        record = CachedImage.read(f"{path}/image.json")
        if record and record.config:  # a plain tarball has none
            config = record.config.encode("utf-8", "surrogatepass")
            record = record if hashlib.sha256(config).hexdigest() == id_of(folder) else None
        with contextlib.suppress(OSError):
            return record if record and record.seal == seal(f"{path}/rootfs") else None
        return None

    def _made(self, folder: str, lock: int, opened: Opened, name: str) -> Hold | None:
        """Unpack an image into a folder that was begun, and hold it; None if it is gone at once."""
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, lock)
            undo.callback(self._folders.abandon, folder)
            with opened() as content:
                if content.id != id_of(folder):
                    hold = self.hold(content, name=name)
                    with contextlib.suppress(OSError):  # otherwise it is exported again
                        self._folders.set_link(id_of(folder), content.id, folder)
                    return hold
                with failing(self.folder):
                    record = self._unpacked(content, self._folders.path(folder), name)
            with failing(self.folder):
                # The lock is free for a moment, and a prune may take it.
                if not self._folders.share(lock, self._patience):
                    return None
            undo.pop_all()
        # An error with another image is no failure of this one. `pytest-gvisor cache` reports it.
        with contextlib.suppress(ImageError):
            self.prune()
        return Hold(self._folders.path(folder), lock, record)

    def _unpacked(self, content: Content, path: str, name: str) -> CachedImage:
        root = os.path.join(path, "rootfs")
        make_private(root)
        facts = extract.unpack(content, root, points=POINTS)
        record = CachedImage(
            id=content.id,
            name=name,
            size=facts.size,
            notes=facts.notes,
            config=content.config.decode(),
            seal=seal(root),
        )
        with open(os.path.join(path, "image.json"), "x", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(record), file)
        return record
