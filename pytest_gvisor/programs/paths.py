"""Whether a path lies in a folder, by their names alone: links and ``..`` are not resolved.

Standard library only: `leftovers` runs with ``-I -S``.
"""

from __future__ import annotations


def below(path: str, folder: str) -> bool:
    """Whether ``path`` lies in ``folder``, and is not the folder itself."""
    return path.startswith(folder.rstrip("/") + "/")


def within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it."""
    return path == folder or below(path, folder)
