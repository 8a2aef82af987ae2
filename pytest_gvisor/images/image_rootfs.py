"""An image as a root file system, with its defaults for programs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_gvisor.base.errors import ImageError, InvalidBundle
from pytest_gvisor.base.escape import shown
from pytest_gvisor.images import image_users
from pytest_gvisor.images.cache import Hold
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
        taken = {normal(mount.destination) for mount in mounts}
        volumes = [self._volume(path) for path in self.hold.config.volumes if path not in taken]
        notes = tuple(f"image {shown(self.name)}: {note}" for note in self.hold.record.notes)
        return Prepared(root_path=root, mounts=(*volumes, *mounts), notes=notes)

    def _volume(self, path: str) -> Mount:
        """Return a tmpfs for a volume, with the owner and mode of the folder there."""
        options = ["nosuid", "nodev"]
        place = root_paths.resolve(self.hold.path, path, {})
        if os.path.isdir(place.host):
            status = os.lstat(place.host)
            options += [f"mode={status.st_mode & 0o7777:04o}"]
            uid, gid = status.st_uid, status.st_gid
            if not image_users.keeps_owners():
                # The owner in the image was not kept. The image's user is the likeliest one, and
                # root if the image does not have the user that it names.
                uid = gid = 0
                with contextlib.suppress(ImageError):
                    user, _ = self.find_user(None)
                    uid, gid = user.uid, user.gid
            options += [f"uid={uid}", f"gid={gid}"]
        else:
            options += ["mode=0755"]
        return Mount(destination=path, type=MountType.TMPFS, source="tmpfs", options=tuple(options))
