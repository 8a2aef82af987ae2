"""What the name of an image means: a file or folder, or an image of a docker daemon. Pure but for
looking whether a file is there.
"""

from __future__ import annotations

import os
import re
from typing import Final

_DAEMON: Final = "docker:"
_FILES: Final = ("/", "./", "../")
_SUFFIXES: Final = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst")


def as_file(name: str, folder: str = "") -> tuple[str, str] | None:
    """The path and the name in it; None for what is the name of an image of a daemon.

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
    """The name with its path, where it is one, from ``folder``."""
    return name if as_file(name, folder) is None else os.path.join(folder, name)


def as_reference(name: str) -> str:
    """The name that a daemon knows: without ``docker:`` in front, where that is no image's name.

    No tag has a colon, a slash or an at sign: ``docker:dind`` is the image docker with a tag, and
    ``docker:app:1`` is app:1.
    """
    rest = name.removeprefix(_DAEMON)
    return rest if re.search("[:/@]", rest) else name
