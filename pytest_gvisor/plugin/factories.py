"""The types of the fixtures that are factories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import os

    from pytest_gvisor.oci.bundle import Bundle
    from pytest_gvisor.oci.rootfs import Rootfs


class BundleFactory(Protocol):
    """What ``oci_bundle`` is: arguments as for `Gvisor.run`, apart from input and deadline."""

    def __call__(self, args: list[str], **options: Any) -> Bundle:
        """Write a bundle for ``args``."""


class ImageFactory(Protocol):
    """What ``gvisor_image`` is; ``limits`` are `Limits` of what an image may come to."""

    def __call__(self, image: str | os.PathLike[str], **options: Any) -> Rootfs:
        """The root file system of an image; a daemon's with ``pull`` and ``remote``."""

    def build(self, path: str | os.PathLike[str], **options: Any) -> Rootfs:
        """The same of a folder that a daemon builds, with ``dockerfile``, ``args``, ``remote``."""
