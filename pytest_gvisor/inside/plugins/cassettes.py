"""YAML that comes back: recordings of requests, and snapshots.

vcrpy before 8 reads a recording by the loader of PyYAML that calls what a tag names.
"""

from __future__ import annotations

import importlib
from typing import Any

SUFFIXES = (".yaml", ".yml")
MOST = 64 * 1024 * 1024
_PYTHON = "tag:yaml.org,2002:python/"
# These vcrpy writes itself. They hold data alone.
_HARMLESS = frozenset({
    "object/apply:builtins.iter", "object/new:_io.BytesIO", "str", "tuple", "unicode",
})  # fmt: skip


def is_plain(data: bytes) -> bool:
    """Whether no tag in YAML names an object of Python. Without PyYAML here, nobody reads tags."""
    if b"!" not in data:
        return True
    if b"%TAG" in data.replace(b"\0", b""):
        return False  # libyaml compares each of them with all others
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        return True
    if (loader := getattr(yaml, "CSafeLoader", None)) is None:
        return False  # PyYAML's own parser takes minutes for some kB of brackets
    try:
        tags = (getattr(event, "tag", None) or "" for event in yaml.parse(data, Loader=loader))
        named = (tag.removeprefix(_PYTHON) for tag in tags if tag.startswith(_PYTHON))
        return _HARMLESS.issuperset(named)
    except (yaml.YAMLError, ValueError):
        return False
