"""The version of Go in a binary: read from files made here, and from real ones."""

import os
from pathlib import Path

import pytest

from pytest_gvisor.runsc import elf

CHECKOUT = Path(__file__).parents[3]
MAGIC = b"\xff Go buildinf:"
# The release of each, and the Go that the distribution's build has.
BUILT = {"runsc-2024": "1.24", "runsc-forky": "1.26"}


def info(version: bytes, *, flags: int = 2, size: int | None = None) -> bytes:
    """A build info as Go's linker writes it."""
    length = len(version) if size is None else size
    return (MAGIC + bytes([8, flags])).ljust(32, b"\0") + bytes([length]) + version


def version(folder: Path, data: bytes) -> str:
    """The version that is read from a file with this content."""
    path = folder / "program"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 7, os.SEEK_SET)
        found = elf.go_version(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7
    finally:
        os.close(fd)
    return found


@pytest.mark.parametrize("before", [0, 16, (1 << 20) - 16, (1 << 20) - 0x10 + 32, 3 << 20])
def test_a_version_is_found_at_any_aligned_place(tmp_path: Path, before: int) -> None:
    """A version is found across the edge of a block; one that is not aligned is text."""
    data = b"\x7fELF".ljust(before, b"\0")[:before] + info(b"go1.26.2 X:exp")
    assert version(tmp_path, data) == "1.26.2"
    assert version(tmp_path, b"\0" + data) == ""


def test_text_in_front_of_it_does_not_hide_it(tmp_path: Path) -> None:
    """A program may contain the magic as text, as a reader of build infos does."""
    text = MAGIC.ljust(16, b"\0") * 3
    assert version(tmp_path, text + b"x" * 16 + info(b"go1.19.8")) == "1.19.8"


@pytest.mark.parametrize(
    "data",
    [
        b"", MAGIC, info(b"go1.26.2", flags=0), info(b"", size=0), info(b"go1.26.2", size=200),
        info(b"\x1b[2J"), info(b"devel +abc"), info(b"go1.26.2")[:33],
    ],
)  # fmt: skip
def test_anything_else_is_no_version(tmp_path: Path, data: bytes) -> None:
    """Truncated, unknown and damaged infos give no version and no error."""
    assert version(tmp_path, data) == ""


def test_a_descriptor_that_cannot_be_read_has_none(tmp_path: Path) -> None:
    """A folder, for one."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert elf.go_version(fd) == ""
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", BUILT)
def test_the_distributions_builds_say_theirs(name: str) -> None:
    """The release of July 2024 breaks with Go 1.26."""
    path = CHECKOUT / ".build" / name / "usr/bin/runsc"
    if not path.exists():
        pytest.skip(f"no Debian archive with {name}: scripts/older-runsc")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert elf.go_version(fd).startswith(f"{BUILT[name]}.")
    finally:
        os.close(fd)
