"""The images of one process, found by name in files or daemons, and held in the cache.

Each is a root file system, with its defaults for programs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_gvisor.base.errors import ImageError, InvalidBundle, UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.setting_values import word
from pytest_gvisor.images import archive, choose, image_users
from pytest_gvisor.images.cache import Cache, Hold
from pytest_gvisor.images.docker import Daemon, Pull
from pytest_gvisor.images.streams import DEFAULT_LIMITS, Limits, held
from pytest_gvisor.oci import root_paths
from pytest_gvisor.oci.rootfs import Prepared, ProgramDefaults, Rootfs
from pytest_gvisor.oci.spec import Mount, User, UserSpec
from pytest_gvisor.oci.vocabulary import MountType, normal


@dataclass(frozen=True, kw_only=True)
class ImageRootfs(Rootfs):
    """An image, unpacked in the cache and shared by runs. Writes stay in a run's memory."""

    name: str
    """The name by which it was asked for."""
    id: str
    """Hexadecimal SHA-256 of its configuration; of a plain tarball, of that."""
    hold: Hold = field(compare=False, repr=False)

    @property
    def folder(self) -> str:
        """The image's folder in the cache."""
        return self.hold.path

    @property
    def defaults(self) -> ProgramDefaults:
        """The image's configuration as defaults for programs."""
        return self.hold.config.defaults

    def find_user(self, user: UserSpec | None) -> tuple[User, str]:
        """Return the user of that name or number in the image, and their home folder."""
        asked = self.defaults.user if user is None else user
        name = ":".join(map(str, asked)) if isinstance(asked, tuple) else str(asked)
        try:
            return image_users.find(self.hold.path, name)
        except ImageError as error:
            raise ImageError(error.message, image=self.name) from None

    def prepare(self, folder: str, *, mounts: Sequence[Mount] = (), **_: object) -> Prepared:
        """See `Rootfs.prepare`."""
        root = os.path.realpath(self.hold.with_points(mounts, folder))  # a home may be a link
        if found := root_paths.missing(root, mounts):
            raise InvalidBundle(found, where=f"root file system of image {shown(self.name)}")
        # The sandbox has a file system of its own at the last one, with the size of ``shm``. In an
        # image, that may be a link.
        own = "/dev/shm"
        taken = [*root_paths.places(root, mounts, {}), own]
        volumes = [
            self._volume(path) for path in self.hold.config.volumes
            if normal(path) != own and root_paths.resolve(root, path, {}).inside not in taken
        ]  # fmt: skip
        notes = tuple(f"image {shown(self.name)}: {note}" for note in self.hold.record.notes)
        return Prepared(root_path=root, mounts=(*volumes, *mounts), notes=notes)

    def _volume(self, path: str) -> Mount:
        """Return a tmpfs for a volume, with the owner and mode of the folder there."""
        options = ["nosuid", "nodev"]
        place = root_paths.resolve(self.hold.path, path, {})
        if os.path.isdir(place.host):
            status = os.lstat(place.host)
            uid, gid = status.st_uid, status.st_gid
            if not image_users.keeps_owners():
                # The owner in the image was not kept. The image's user is the likeliest one, and
                # root if the image does not have the user that it names.
                uid = gid = 0
                with contextlib.suppress(ImageError):
                    user, _ = self.find_user(None)
                    uid, gid = user.uid, user.gid
            options += [f"mode={status.st_mode & 0o7777:04o}", f"uid={uid}", f"gid={gid}"]
        else:
            options += ["mode=0755"]
        return Mount(destination=path, type=MountType.TMPFS, source="tmpfs", options=tuple(options))


class Images:
    """Root file systems of images, each held until `close`. Threads may share the object."""

    def __init__(self, cache: Cache | None = None) -> None:
        self._cache = cache or Cache()
        self._guard = threading.Lock()
        self._found: dict[tuple[object, ...], ImageRootfs] = {}

    def rootfs(
        self,
        image: str | os.PathLike[str],
        *,
        limits: Limits = DEFAULT_LIMITS,
        pull: str = "missing",
    ) -> ImageRootfs:
        """Return the root file system of an image.

        ``image`` is a file or folder, with ``#name`` for one of several images in it. Or it is the
        name of an image of a docker daemon. Such a name looks like no path, or has ``docker:`` in
        front (see `choose.as_reference`). A relative path is one from the current folder. ``pull``
        is missing, always or never. Raises `ImageError` or `UsageError`.
        """
        name = _text(image)
        policy = word(Pull, pull, "pull")
        with _about(name), self._guard:
            if (file := choose.as_file(name)) is not None:
                return self._file(name, *file, limits)
            reference = choose.as_reference(name)
            # With its policy: an image that was found locally does not answer pull="always".
            key = (reference, policy, os.environ.get("DOCKER_HOST"), limits)
            if key not in self._found:
                with Daemon() as daemon:
                    identity = daemon.find(reference, policy)
                    self._found[key] = self._from_daemon(name, daemon, identity, limits)
            return self._found[key]

    def close(self) -> None:
        """Release all images."""
        with self._guard:
            for rootfs in self._found.values():
                rootfs.hold.close()
            self._found.clear()

    def _file(self, name: str, path: str, reference: str, limits: Limits) -> ImageRootfs:
        with contextlib.ExitStack() as undo:
            if not os.path.exists(path):
                raise ImageError(f"there is no file or folder {path}")
            source = held(path, undo)
            key = (*_state(source), reference, limits)
            if key not in self._found:
                with archive.opened(source, reference=reference, limits=limits) as content:
                    hold = self._cache.hold(content, name=name)
                self._found[key] = ImageRootfs(name=name, id=hold.id, hold=hold)
            return self._found[key]

    def _from_daemon(self, name: str, daemon: Daemon, identity: str, limits: Limits) -> ImageRootfs:
        """Return a daemon's image. Export it only if the cache lacks it.

        The first process that needs it exports it, and others wait for that.
        """
        digest = identity.removeprefix("sha256:")

        @contextlib.contextmanager
        def exported() -> Iterator[archive.Content]:
            with (
                daemon.export(f"sha256:{digest}", limits) as path,
                archive.opened(path, digest=digest, limits=limits) as content,
            ):
                yield content

        hold = self._cache.obtain(digest, exported, name=name)
        return ImageRootfs(name=name, id=hold.id, hold=hold)


@contextlib.contextmanager
def _about(name: str) -> Iterator[None]:
    """Add the image's name to errors."""
    try:
        yield
    except MemoryError as error:  # xz has a dictionary of as much as 64 MiB
        raise ImageError("there is not enough memory to unpack it", image=name) from error
    except ImageError as error:
        if not error.image:
            step = error.next_step.replace(" IMAGE ", f" {shlex.quote(name)} ")
            ImageError.__init__(error, error.message, image=name, next_step=step)
        # Its text has what a library has said of the daemon.
        error.__cause__, error.__suppress_context__ = None, True
        raise


def _text(given: object) -> str:
    text: object = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"{given!r} is neither a path nor a name")
    return text


def _state(path: str) -> tuple[object, ...]:
    """Return a value that changes with a file, or with the index of a layout.

    A copy may bring its time of modification along. Nothing but the kernel sets ctime.
    """
    index = os.path.join(path, "index.json")
    status = os.stat(index if os.path.isfile(index) else path)
    return (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
