"""The types of the fixtures that are factories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import os

    from pytest_gvisor.oci.bundle import Bundle
    from pytest_gvisor.oci.rootfs import Rootfs


class BundleFactory(Protocol):
    """The type of ``oci_bundle``. Takes the arguments of `Gvisor.run` but input and deadline."""

    def __call__(self, args: list[str], **options: Any) -> Bundle:
        """Write a bundle for ``args``."""


class ImageFactory(Protocol):
    """The type of ``gvisor_image``; ``limits`` are `Limits` of an unpacked image."""

    def __call__(self, image: str | os.PathLike[str], **options: Any) -> Rootfs:
        """Return the root file system of an image; ``pull`` and ``remote`` are for a daemon's."""

    def build(self, path: str | os.PathLike[str], **options: Any) -> Rootfs:
        """Have a daemon build a folder, and return the image's root file system."""
