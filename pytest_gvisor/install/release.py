"""A release of runsc from gVisor's bucket, fetched and compared with its digest.

gVisor's bucket has had two layouts. Up to August 2026 a release is the file ``runsc``. The later
ones are ``gvisor.tar.bz2`` alone, with ``runsc`` and the folder ``gvisor-bin`` that must lie beside
it. Each has its SHA-512 next to it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re

from pytest_gvisor.base.errors import InstallFailed, UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.install import place, unpack
from pytest_gvisor.install.fetch import Client, NotThere

BASE_URL = "https://storage.googleapis.com/gvisor/releases/release"
MAX_DOWNLOAD = 1024 * 1024 * 1024
ARCHIVE = "gvisor.tar.bz2"

_MAX_DIGEST = 64 * 1024


def release_name(text: str) -> str:
    """Return ``latest`` or a release in gVisor's form. Raises `UsageError`."""
    name = text.removeprefix("release-")
    if name != "latest" and not re.fullmatch(r"\d{8}(\.\d+)?", name, re.ASCII):
        raise UsageError(f"--release {text!r} is neither latest nor YYYYMMDD nor YYYYMMDD.N")
    return name


def install(client: Client, release: str, folder: str) -> place.Installed:
    """Fetch a release and install it in ``folder``, in the manner of `place.put`.

    Raises `InstallFailed` too where a server has another release under the name of this one. For
    the main thread: see `Client.deadline`.
    """
    where = f"{release}/{platform.machine()}"
    named = "" if release == "latest" else release

    def make(staging: str) -> str:
        with client.deadline():
            return _fetch(client, where, staging)

    return place.put(folder, make, named)


def _fetch(client: Client, where: str, staging: str) -> str:
    """Fetch the release's runsc into ``staging``, check its digest, and return its path."""
    for name in (ARCHIVE, place.BINARY):
        try:
            data = b"".join(client.pieces(f"{where}/{name}.sha512", _MAX_DIGEST))
        except NotThere:
            continue
        text = data.decode("utf-8", "replace")
        wanted = _digest_in(text, name, f"{client.base_url}/{where}/{name}.sha512")
        path = os.path.join(staging, f"{name}.part")
        _download(client, f"{where}/{name}", path, wanted)
        if name == place.BINARY:
            os.chmod(path, 0o755)
            return path
        release = os.path.join(staging, "release")
        unpack.unpack(path, release)
        os.unlink(path)
        return os.path.join(release, place.BINARY)
    raise InstallFailed(
        f"{client.base_url}/{where}/ gives neither {ARCHIVE}.sha512 nor {place.BINARY}.sha512",
        next_step="Releases are listed at https://github.com/google/gvisor/releases; name one with "
        "--release YYYYMMDD.",
    )


def _digest_in(text: str, name: str, url: str) -> str:
    """Return the digest of ``name`` in a line of sha512sum."""
    for line in text.splitlines():
        digest, _, named = line.partition(" ")
        # "*" is the mark of a binary file (sha512sum(1)); a digest may stand alone.
        about = named.strip().lstrip("*").rpartition("/")[2]
        if about in {name, ""} and re.fullmatch(r"[0-9a-fA-F]{128}", digest, re.ASCII):
            return digest.lower()
    raise InstallFailed(f"{url} holds no SHA-512 of {name}: {escape(text[:200])}")


def _download(client: Client, where: str, path: str, wanted: str) -> None:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as to:
        to.writelines(client.pieces(where, MAX_DOWNLOAD))
        to.flush()
        to.seek(0)
        found = hashlib.file_digest(to, "sha512").hexdigest()
        os.fsync(to.fileno())
    if found != wanted:
        raise InstallFailed(
            f"{client.base_url}/{where} is not what its SHA-512 says: {found} instead of {wanted}",
            next_step="Try again; if it stays so, do not use this server.",
        )
