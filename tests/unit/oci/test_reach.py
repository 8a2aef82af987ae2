from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.oci import reach


def test_allowed_sources_are_real_paths(tmp_path: Path) -> None:
    """A link stands for its target, and the wider of two accesses counts."""
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for binds in (
        {tmp_path / "link": "rw", tmp_path / "folder": "ro"},
        {tmp_path / "folder": "ro", f"{tmp_path}/link/": "rw"},
    ):
        assert reach.allowed(binds) == {str(tmp_path / "folder"): "rw"}


@pytest.mark.parametrize(
    "binds", [{"data": "ro"}, {"/data": "r"}, {"/data": True}, {b"/data": "ro"}]
)
def test_what_allows_nothing_is_a_usage_error(binds: Any) -> None:
    """A relative path, an unknown access or bytes are refused before the bundle is read."""
    with pytest.raises(UsageError, match="allow_binds"):
        reach.allowed(binds)
