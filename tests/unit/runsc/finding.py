"""The search for runsc, as the tests of it ask."""

import os
import re
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.runsc import locate
from tests.unit.runsc.conftest import STRANGER

USER = os.geteuid() or STRANGER


def found(path: Path | str | None = None, **search: object) -> str:
    """The canonical path that is found, with nothing left open."""
    judged = locate.find(None if path is None else str(path), **search)  # type: ignore[arg-type]
    judged.close()
    return judged.path


def searched(*trusted: Path | str, search_path: str = "", euid: int | None = None) -> str:
    """The path that a search finds, the trusted paths being these."""
    return found(trusted=[str(path) for path in trusted], search_path=search_path, euid=euid)


def refused(path: Path | str, reason: str, **search: object) -> InsecureRunsc:
    """The refusal of ``path``, explicit, with a reason that matches."""
    with pytest.raises(InsecureRunsc) as caught:
        found(path, **search)
    assert re.search(reason, caught.value.reason), caught.value.reason
    return caught.value
