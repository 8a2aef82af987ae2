"""Run workloads, and tests, under gVisor from pytest. The public names are in ``__init__.pyi``."""

from __future__ import annotations

import functools
import importlib
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@functools.cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, as the file for type checkers beside this one has
    them.
    """
    with open(f"{__file__}i", encoding="utf-8") as file:
        statements = re.findall(r"(?ms)^from (\S+) import (.*?)(?=^from |^__all__|\Z)", file.read())
    return {
        name: module for module, names in statements for name in re.findall(r"(\w+) as \1", names)
    }


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a project that uses none pays for none."""
    if name == "Launcher":
        from pytest_gvisor.base import removed  # noqa: PLC0415 -- only for who writes it

        raise ImportError(f"{__name__}.{name} is removed. {removed.LAUNCHER}")
    if name == "__all__":
        return sorted(_homes())
    if name not in _homes():  # also asked for each module of the package, before its first import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_homes()[name]), name)


if "_pytest.assertion.rewrite" in sys.modules:
    from pytest_gvisor.base import as_written

    as_written.install()
