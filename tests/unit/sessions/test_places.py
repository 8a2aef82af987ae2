"""The places of this package on the host."""

from __future__ import annotations

import pytest

from pytest_gvisor.sessions import places


@pytest.mark.parametrize(
    ("variable", "above"),
    [
        ("/where/caches/are", "/where/caches/are"),
        ("here", "/home/a/.cache"),
        ("", "/home/a/.cache"),
    ],
)
def test_the_cache_folder_is_the_one_of_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, variable: str, above: str
) -> None:
    """A relative path is ignored, as if there were none."""
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/home/a")
    assert places.caches("answers") == f"{above}/pytest-gvisor/answers"
