"""The name of an image: a file or folder, or an image of a docker daemon. Only looks whether a file
exists.
"""

from __future__ import annotations

import os
import re
from typing import Final

_DAEMON: Final = "docker:"
_FILES: Final = ("/", "./", "../")
_SUFFIXES: Final = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst")


def as_file(name: str, folder: str = "") -> tuple[str, str] | None:
    """Split a file's name into its path and the name in it; None for a daemon's image.

    A relative path is one from ``folder``, or from the current one.
    """
    if name.startswith(_DAEMON):
        return None
    if os.path.exists(whole := os.path.join(folder, name)):
        return whole, ""
    path, _, reference = name.partition("#")
    whole = os.path.join(folder, path)
    if os.path.exists(whole) or path.startswith(_FILES) or path.endswith(_SUFFIXES):
        return whole, reference
    return None


def placed(name: str, folder: str) -> str:
    """Make a path absolute from ``folder``; leave the name of a daemon's image."""
    return name if as_file(name, folder) is None else os.path.join(folder, name)


def as_reference(name: str) -> str:
    """Return the name for a daemon: without the prefix ``docker:``, unless it is part of the name.

    No tag has a colon, a slash or an at sign. So ``docker:dind`` is the image docker with a tag,
    and ``docker:app:1`` is app:1.
    """
    rest = name.removeprefix(_DAEMON)
    return rest if re.search("[:/@]", rest) else name
