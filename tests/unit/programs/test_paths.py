"""Paths in folders, by their names alone."""

from __future__ import annotations

import pytest

from pytest_gvisor.programs.paths import below, within


@pytest.mark.parametrize(
    ("path", "folder", "in_it"),
    [
        ("/a/b", "/a", True), ("/a/b", "/a/", True), ("/ab", "/a", False), ("/", "/a", False),
        ("/a", "/", True), ("/a/../b", "/a", True), ("a/b", "a", True), ("/b/a/c", "/a", False),
    ],
)  # fmt: skip
def test_a_path_is_in_a_folder_by_whole_names(path: str, folder: str, in_it: bool) -> None:
    """A name that begins like the folder's is another one."""
    assert (below(path, folder), within(path, folder)) == (in_it, in_it)


def test_a_folder_is_within_itself_and_not_below() -> None:
    """A folder is within itself, and not below itself."""
    assert within("/a", "/a")
    assert not below("/a", "/a")
