"""The host's folders that a test inside sees."""

from __future__ import annotations

import os
import pwd
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import visible


def shown(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, path: str = "") -> list[str]:
    """The visible folders of a project with one test, and one more folder on ``sys.path``."""
    if path:
        monkeypatch.syspath_prepend(path)
    file = types.SimpleNamespace(path=pytester.path / "test_it.py")
    item: Any = types.SimpleNamespace(path=file.path, getparent=lambda _kind: file)
    return visible.folders(pytester.parseconfig(), [item])


def test_the_project_and_what_it_imports_from_are_shown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each once, and none that the root filesystem has anyway."""
    library = tmp_path / "library"
    library.mkdir()
    found = shown(pytester, monkeypatch, str(library))
    assert str(pytester.path) in found
    assert str(library) in found
    assert len(set(found)) == len(found)
    assert not [path for path in found if path.startswith(("/usr", sys.prefix))]


HOME = pwd.getpwuid(os.geteuid()).pw_dir


@pytest.mark.parametrize("folder", ["/", "/tmp", "/var/tmp", "/etc", "/proc", "/sys/fs", HOME])
def test_what_would_show_too_much_is_refused(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The error for a home folder, a shared folder or the kernel's names a remedy."""
    with pytest.raises(UsageError, match="would need all of") as caught:
        shown(pytester, monkeypatch, folder)
    assert "--rootdir" in str(caught.value)
