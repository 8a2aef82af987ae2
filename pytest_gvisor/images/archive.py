"""Images as files: a ``docker save`` archive, an OCI image archive or layout, a rootfs tarball.

`opened` tells them apart by their content. It reads the documents and returns the layers, each with
the digests that it must have. `Layer.open` checks these when a layer was read to its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.images import choose, streams
from pytest_gvisor.images.config import ImageConfig, lists, load_json, objects
from pytest_gvisor.images.tar import Kind, Tar
from pytest_gvisor.oci.reader import MAX_BYTES

_MAX_INDEX: Final = 16 * 1024 * 1024
"""Bytes of the names in an archive, and 128 for each entry."""
_MAX_LAYERS: Final = 512
_FIRST: Final = re.compile(
    # As docker, podman, and the tools that are built on go-containerregistry begin.
    rb"(sha256:)?[0-9a-f]{64}(\.tar(\.gz)?)?|[^/]+\.json|blobs|oci-layout|repositories"
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, not read yet."""

    source: Callable[[], streams.Reader]
    """Its bytes as they are stored."""
    digest: str = ""
    """The digest of these bytes; empty if only ``diff_id`` is known."""
    diff_id: str = ""
    """The digest of the uncompressed bytes; empty if no document has it."""

    @contextlib.contextmanager
    def open(self, budget: streams.Budget) -> Iterator[streams.Reader]:
        """Open the uncompressed layer. Raises `ImageError` at the end for a wrong digest."""
        stored = streams.Hashing(self.source())
        plain = streams.Hashing(streams.Inflated(stored, budget))
        yield plain
        streams.drain(plain)
        streams.drain(stored)
        for wanted, found in ((self.digest, stored.digest), (self.diff_id, plain.digest)):
            if wanted and wanted != found:
                raise ImageError(f"a layer has the digest {found}, and should have {wanted}")


@dataclass(frozen=True, kw_only=True)
class Content:
    """An image that can be unpacked while its source is open."""

    id: str
    """Hexadecimal SHA-256 of its configuration; of a plain tarball, of that."""
    config: bytes
    """Its JSON text; empty for a plain tarball."""
    layers: tuple[Layer, ...]
    limits: streams.Limits = streams.DEFAULT_LIMITS


class _Folder:
    """The files of a layout. Links are followed, but see `streams.held`: a digest may be known.

    Read a part before asking for another.
    """

    def __init__(self, path: str, undo: contextlib.ExitStack) -> None:
        self._path = os.path.realpath(path)  # in a user namespace, the links of /proc are nobody's
        self._opened = undo.enter_context(contextlib.ExitStack())

    def find(self, name: str) -> streams.Section | None:
        path = os.path.join(self._path, name)
        if not os.path.lexists(path):
            return None
        self._opened.close()  # one is open at a time, however many layers there are
        fd, status = streams.open_file(streams.held(path, self._opened), shown(name))
        self._opened.callback(os.close, fd)
        return streams.Section(fd, 0, status.st_size)


class _Members:
    """The files of a tar archive, by name."""

    def __init__(self, fd: int, size: int, budget: streams.Budget) -> None:
        self._fd = fd
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        stream = streams.Section(fd, 0, size)
        tar = Tar(stream)
        index = 0
        for entry in tar:
            budget.check_time()
            index += 128 + len(entry.name) + len(entry.link)
            if index > _MAX_INDEX:
                raise ImageError(f"the archive's names take more than {_MAX_INDEX} bytes")
            name = os.path.normpath(entry.name.decode("utf-8", "surrogateescape"))
            if entry.kind is Kind.FILE:
                self._places[name] = (stream.at, entry.size)
            elif entry.kind in (Kind.SYMLINK, Kind.HARDLINK):
                # Older dockers save a layer that occurs twice as a link to the first one.
                base = os.path.dirname(name) if entry.kind is Kind.SYMLINK else ""
                target = os.path.join(base, entry.link.decode("utf-8", "surrogateescape"))
                self._links[name] = os.path.normpath(target)
            stream.at += tar.pass_by()

    def find(self, name: str) -> streams.Section | None:
        name = os.path.normpath(name)
        place = self._places.get(name) or self._places.get(self._links.get(name, ""))
        return None if place is None else streams.Section(self._fd, *place)


_Blobs = _Folder | _Members


@contextlib.contextmanager
def opened(
    path: str,
    *,
    reference: str = "",
    digest: str = "",
    limits: streams.Limits = streams.DEFAULT_LIMITS,
) -> Iterator[Content]:
    """Open the image in the file or folder ``path``; ``reference`` picks one of several by name.

    ``digest`` is the hexadecimal SHA-256 that its configuration, manifest or index must have. An
    image with none such is an error. Raises `ImageError`, also from within, for what is damaged or
    is not an image.
    """
    with contextlib.ExitStack() as undo:
        if os.path.isdir(path):
            content = _layout(_Folder(path, undo), reference)
        else:
            content = _in_file(path, reference, digest, streams.Budget(limits=limits), undo)
        yield dataclasses.replace(content, limits=limits)


def _in_file(
    path: str, reference: str, digest: str, budget: streams.Budget, undo: contextlib.ExitStack
) -> Content:
    fd, status = streams.open_file(path)
    undo.callback(os.close, fd)
    content = None
    if _may_hold_images(streams.Inflated(streams.Section(fd, 0, status.st_size), budget)):
        inflated = streams.Inflated(streams.Section(fd, 0, status.st_size), budget)
        plain = _decompress(inflated, undo) if inflated.is_compressed else (fd, status.st_size)
        content = _archive(_Members(*plain, budget), reference, digest)
    if content is None and (asked := digest or reference):
        # A plain tarball has neither a document with a digest nor a name.
        raise ImageError(f"it is no archive of images, and {shown(asked)} was asked for")
    return content or _tarball(fd, status.st_size, budget)


def _decompress(inflated: streams.Reader, undo: contextlib.ExitStack) -> tuple[int, int]:
    """Decompress into a temporary file; return its descriptor and size."""
    step = "TMPDIR says where, or the archive can be stored without its compression."
    with streams.explained("decompress it to a temporary file", step):
        plain = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- closed by undo
        undo.callback(plain.close)
        while data := inflated.read(streams.CHUNK):
            streams.write_all(plain.fileno(), data)
        return plain.fileno(), plain.tell()


def _may_hold_images(stream: streams.Reader) -> bool:
    """Whether the first entry is one that archives of images begin with."""
    for entry in Tar(stream):
        first = os.path.normpath(entry.name).split(b"/")[0]
        if first != b".":
            return bool(_FIRST.fullmatch(first))
    return False


def _archive(members: _Members, reference: str, digest: str) -> Content | None:
    content = None
    has_index = members.find("index.json") is not None
    if digest and has_index and choose.only(_object(members, "index.json"), digest):
        # The index leads to the configuration by digests, so nothing else has to be compared.
        return _layout(members, reference, digest)
    if members.find("manifest.json"):
        content = _saved(members, reference)
    elif has_index:
        content = _layout(members, reference)
    if content and digest not in ("", content.id):
        raise ImageError(f"it is {content.id}, and {digest} was asked for")
    return content


def _tarball(fd: int, size: int, budget: streams.Budget) -> Content:
    budget.check_size(size)
    stored = streams.Hashing(streams.Section(fd, 0, size))
    while stored.read(streams.CHUNK):
        budget.check_time()
    layer = Layer(source=lambda: streams.Section(fd, 0, size), digest=stored.digest)
    return Content(id=stored.digest.partition(":")[2], config=b"", layers=(layer,))


def _part(blobs: _Blobs, name: str) -> streams.Section:
    section = blobs.find(name)
    if section is None:
        raise ImageError(f"it has no {shown(name)}")
    return section


def _document(blobs: _Blobs, name: str) -> bytes:
    section = _part(blobs, name)
    if section.size > MAX_BYTES:
        raise ImageError(f"{shown(name)} is larger than {MAX_BYTES} bytes")
    return streams.read_all(section)


def _object(blobs: _Blobs, name: str) -> Mapping[str, Any]:
    return objects(load_json(_document(blobs, name), name), name)


def _digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _content(data: bytes, named: object, layer: Callable[[object], Layer]) -> Content:
    """Make the content of a configuration, and of the ``layer`` of each one that is ``named``."""
    config = ImageConfig.parse(data)
    config.check_runs_here()
    names, ids = lists(named, "its list of layers"), config.diff_ids
    if len(names) > _MAX_LAYERS:
        raise ImageError(f"it has more than {_MAX_LAYERS} layers")
    if len(names) != len(ids):
        raise ImageError(f"it has {len(names)} layers, and its configuration names {len(ids)}")
    pairs = zip(names, ids, strict=True)
    layers = tuple(dataclasses.replace(layer(name), diff_id=diff_id) for name, diff_id in pairs)
    return Content(id=_digest_of(data).partition(":")[2], config=data, layers=layers)


# docker save


def _saved(members: _Members, reference: str) -> Content:
    what = "manifest.json"
    images = [
        objects(entry, f"an entry of {what}")
        for entry in lists(load_json(_document(members, what), what), what)
    ]
    chosen = _tagged(images, reference)
    name = chosen.get("Config")
    if not isinstance(name, str) or not name:
        raise ImageError(f"{what}: Config is missing")
    data = _document(members, name)
    hexadecimal = os.path.basename(name).removesuffix(".json").removeprefix("sha256:")
    if len(hexadecimal) == 64 and hexadecimal != _digest_of(data).partition(":")[2]:
        raise ImageError(f"its configuration does not have the digest that {shown(name)} says")
    return _content(data, chosen.get("Layers"), lambda name: _blob_layer(members, str(name)))


def _tagged(images: list[Mapping[str, Any]], reference: str) -> Mapping[str, Any]:
    tags = [list(map(str, lists(image.get("RepoTags"), "RepoTags"))) for image in images]
    wanted = {reference, choose.with_tag(reference)}
    pairs = zip(images, tags, strict=True)
    found = [image for image, names in pairs if not reference or wanted & set(names)]
    if len(found) != 1:
        raise choose.ambiguous(reference, len(found), [tag for names in tags for tag in names])
    return found[0]


def _blob_layer(blobs: _Blobs, name: str, digest: str = "") -> Layer:
    if blobs.find(name) is None:
        raise ImageError(f"the layer {shown(name)} is missing")
    return Layer(source=functools.partial(_part, blobs, name), digest=digest)


# OCI layout


def _layout(blobs: _Blobs, reference: str, digest: str = "") -> Content:
    layout = _object(blobs, "oci-layout")
    if layout.get("imageLayoutVersion") != "1.0.0":
        raise ImageError(f"its layout has the version {shown(layout.get('imageLayoutVersion'))}")
    top = _object(blobs, "index.json")
    if digest:
        top = {"manifests": choose.only(top, digest)}
    manifest = choose.choose(top, reference, functools.partial(_described, blobs))
    data = _read_checked(blobs, objects(manifest.get("config"), "config of a manifest"))
    return _content(data, manifest.get("layers"), lambda value: _described_layer(blobs, value))


def _blob_name(descriptor: Mapping[str, Any]) -> tuple[str, str]:
    digest = streams.check_digest(descriptor.get("digest"))
    return "blobs/" + digest.replace(":", "/"), digest


def _read_checked(blobs: _Blobs, descriptor: Mapping[str, Any]) -> bytes:
    """Return a document, checked against the digest and size of its descriptor."""
    name, digest = _blob_name(descriptor)
    data = _document(blobs, name)
    if (found := _digest_of(data)) != digest:
        raise ImageError(f"a document has the digest {found}, and should have {digest}")
    _check_size(descriptor, len(data))
    return data


def _check_size(descriptor: Mapping[str, Any], size: int) -> None:
    said = descriptor.get("size", size)
    if said != size:
        raise ImageError(f"{descriptor['digest']} has {size} bytes, and should have {shown(said)}")


def _described(blobs: _Blobs, descriptor: Mapping[str, Any]) -> Mapping[str, Any]:
    return objects(load_json(_read_checked(blobs, descriptor), "a manifest"), "a manifest")


def _described_layer(blobs: _Blobs, value: object) -> Layer:
    descriptor = objects(value, "a layer's descriptor")
    name, digest = _blob_name(descriptor)
    section = blobs.find(name)
    if section:
        _check_size(descriptor, section.size)
    elif descriptor.get("urls"):
        raise ImageError(
            f"the layer {digest} is foreign: it is only at a URL, and nothing is fetched",
            next_step="Pull the image with docker, and save it with docker save.",
        )
    return _blob_layer(blobs, name, digest)
