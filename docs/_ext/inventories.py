"""Inventories for intersphinx, kept as text: a line is a name, its kind and its page."""

from __future__ import annotations

import atexit
import os
import tempfile
import zlib
from pathlib import Path

HEAD = """\
# Sphinx inventory version 2
# Project: {name}
# Version:
# The remainder of this file is compressed using zlib.
"""


def names(path: Path) -> list[tuple[str, str, str]]:
    """Return name, kind and page of each line that is no comment."""
    lines = [line.split() for line in path.read_text().splitlines() if line[0] != "#"]
    return [(name, kind, page) for name, kind, page in lines]


def inventory(path: Path) -> str:
    """Write the inventory in the form that Sphinx reads; return the path of the file."""
    body = "".join(f"{name} py:{kind} 1 {page}#$ -\n" for name, kind, page in names(path))
    with tempfile.NamedTemporaryFile(suffix=".inv", delete=False) as file:
        file.write(HEAD.format(name=path.stem).encode() + zlib.compress(body.encode()))
    atexit.register(os.unlink, file.name)
    return file.name
