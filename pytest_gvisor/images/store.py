"""The images that one process uses: which source a name means, and the cache behind all of them."""

from __future__ import annotations

import os
import threading

from pytest_gvisor.errors import ImageError, UsageError
from pytest_gvisor.images import archive
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.rootfs import ImageRootfs
from pytest_gvisor.images.streams import Limits


class Images:
    """Root file systems of images, each held until `close`. Threads may use it at once."""

    def __init__(self, cache: Cache | None = None) -> None:
        self._cache = cache
        self._guard = threading.Lock()
        self._found: dict[tuple[object, ...], ImageRootfs] = {}

    @property
    def locks(self) -> list[int]:
        """The descriptors that hold images."""
        return [rootfs.hold.lock for rootfs in self._found.values()]

    def rootfs(self, image: str | os.PathLike[str], *, limits: Limits | None = None) -> ImageRootfs:
        """The root file system of an image.

        ``image`` is a file or folder, with ``#name`` for one of several images in it. Raises
        `ImageError`.
        """
        name = os.fspath(image)
        if not name or "\0" in name:
            raise UsageError(f"image={image!r} is neither a path nor a name")
        try:
            with self._guard:
                return self._file(name, limits)
        except ImageError as error:
            if error.image:
                raise
            raise type(error)(
                error.message, image=name, problems=error.problems, next_step=error.next_step
            ) from error

    def close(self) -> None:
        """Let go of all of them."""
        with self._guard:
            for rootfs in self._found.values():
                rootfs.hold.close()
            self._found.clear()

    def _file(self, name: str, limits: Limits | None) -> ImageRootfs:
        path, reference = name, ""
        if not os.path.exists(path):
            path, _, reference = name.partition("#")
        if not os.path.exists(path):
            raise ImageError(f"there is no file or folder {path}")
        key = (*_state(path), reference, limits)
        if key not in self._found:
            if self._cache is None:
                self._cache = Cache()
            with archive.opened(path, reference=reference, limits=limits) as content:
                hold = self._cache.hold(content, limits=limits)
            self._found[key] = ImageRootfs(
                name=name, id=content.id, config=content.config, hold=hold
            )
        return self._found[key]


def _state(path: str) -> tuple[object, ...]:
    """What changes when a file does; of a layout, when its index does."""
    real = os.path.realpath(path)
    index = os.path.join(real, "index.json")
    status = os.stat(index if os.path.isfile(index) else real)
    return (real, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
