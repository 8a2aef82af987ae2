"""Read the name of an image, and choose one image from an index, by name and by architecture.

A name is that of a file or folder, or of an image of a docker daemon. This module only looks
whether a file exists.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pytest_gvisor.base.errors import ImageError, stage
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.trust import leads_to_strangers
from pytest_gvisor.images.config import lists, machine, objects
from pytest_gvisor.images.streams import check_digest

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_NAMES: Final = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_MAX_NESTED: Final = 4
_DAEMON: Final = "docker:"
_FILES: Final = ("/", "./", "../")
_SUFFIXES: Final = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst")

Document = Mapping[str, Any]


def as_file(name: str, folder: str = "") -> tuple[str, str] | None:
    """Split a file's name into its path and the name in it; None for a daemon's image.

    A relative path is one from ``folder``, or from the current one. Another user may have put a
    file that is called like a daemon's image into a shared folder: that is not taken for it.
    """
    if name.startswith(_DAEMON):
        return None
    path, reference = name, ""
    if not os.path.exists(os.path.join(folder, name)):
        path, _, reference = name.partition("#")
    whole = os.path.join(folder, path)
    if path.startswith(_FILES) or path.endswith(_SUFFIXES):
        return whole, reference
    if not os.path.exists(whole):
        return None
    with stage("image", f"cannot follow {shown(whole)}"):
        is_strangers = leads_to_strangers(os.path.join(os.getcwd(), whole))
    return None if is_strangers else (whole, reference)


def placed(name: str, folder: str) -> str:
    """Make a path absolute from ``folder``; leave the name of a daemon's image."""
    return name if as_file(name, folder) is None else os.path.join(folder, name)


def as_reference(name: str) -> str:
    """Return the name for a daemon: without the prefix ``docker:``, unless it is part of the name.

    A tag has no colon, slash or at sign. So ``docker:dind`` is the image ``docker`` with a tag, and
    ``docker:app:1`` is ``app:1`` with the prefix.
    """
    rest = name.removeprefix(_DAEMON)
    return rest if re.search("[:/@]", rest) else name


def with_tag(reference: str) -> str:
    """Add ``:latest`` to a reference that has neither tag nor digest."""
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in reference else f"{reference}:latest"


def ambiguous(reference: str, count: int, names: Sequence[str]) -> ImageError:
    """Return the error for an archive from which no single image can be chosen."""
    held = ", ".join(map(shown, names[:20])) or "no image that has a name"
    if count:
        text = f"it holds {count} images"
    else:
        text = f"{shown(reference)} is not in it" if reference else "it holds no image"
    return ImageError(
        f"{text}; it has {held}", next_step="Say which one, as in archive.tar#name:tag."
    )


def choose(top: Document, reference: str, read: Callable[[Document], Document]) -> Document:
    """Choose one manifest; ``read`` returns the document of a descriptor.

    Raises `ImageError` where there is not exactly one.
    """
    for _ in range(_MAX_NESTED):
        descriptor = _one(top, reference)
        document = read(descriptor)
        kind = descriptor.get("mediaType") or document.get("mediaType")
        if kind in _MANIFESTS or (kind is None and "layers" in document):
            return document
        if kind not in _INDEXES:
            raise ImageError(f"{shown(kind)} is not the type of an image")
        top, reference = document, ""
    raise ImageError(f"its index is nested deeper than {_MAX_NESTED} levels")


def only(top: Document, digest: str) -> list[Document]:
    """Return the descriptors in an index that have this digest, hexadecimal SHA-256."""
    return [entry for entry in _entries(top) if entry.get("digest") == f"sha256:{digest}"]


def _entries(top: Document) -> list[Document]:
    return [objects(entry, "a descriptor") for entry in lists(top.get("manifests"), "manifests")]


def _one(top: Document, reference: str) -> Document:
    entries = _entries(top)
    names = [name for entry in entries for name in _names(entry)]
    if reference:
        wanted = (reference, with_tag(reference))
        entries = [entry for entry in entries if _means(_names(entry), wanted)]
    if len(entries) > 1:
        entries = _for_this_machine(entries)
    if len({check_digest(entry.get("digest")) for entry in entries}) != 1:
        raise ambiguous(reference, len(entries), names)
    return entries[0]


def _names(entry: Document) -> list[str]:
    annotations = objects(entry.get("annotations") or {}, "annotations of a descriptor")
    return [str(annotations[key]) for key in _NAMES if key in annotations]


def _means(names: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(name == want or name.endswith(f"/{want}") for name in names for want in wanted)


def _for_this_machine(entries: Sequence[Document]) -> list[Document]:
    """Return the entries for this architecture, or all if none names an architecture."""
    platforms = [entry.get("platform") for entry in entries]
    if not any(platforms):
        return list(entries)
    found = [
        entry
        for entry, platform in zip(entries, platforms, strict=True)
        if isinstance(platform, Mapping)
        and (platform.get("os"), platform.get("architecture")) == ("linux", machine())
    ]
    if not found:
        kinds = {str(p.get("architecture")) for p in platforms if isinstance(p, Mapping)}
        raise ImageError(
            f"it is for {', '.join(sorted(map(shown, kinds)))}, and this machine is {machine()}"
        )
    return found
