"""The way to runsc: its folders and symbolic links, and a rename between search and start."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.runsc import locate
from tests.unit.runsc.conftest import (
    STRANGER,
    ByDescriptor,
    FakeRunsc,
    give_away,
    loosen,
    needs_root,
)
from tests.unit.runsc.finding import found, refused, searched


@pytest.mark.fault("A3")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_folder_that_others_may_write_is_named(
    mode: int, depth: int, good: Path, tmp_path: Path
) -> None:
    """Any folder above a good file spoils it, and the reason says which one."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    shutil.move(good, deep / "runsc")
    culprit = [deep, deep.parent, deep.parent.parent][depth - 1]
    culprit.chmod(mode)
    error = refused(deep / "runsc", "can be written by others")
    assert f"the folder {culprit} (mode {mode:04o}" in error.reason
    assert error.mode == 0o755


@pytest.mark.fault("A4")
@needs_root
@pytest.mark.parametrize("depth", [1, 2])
def test_a_folder_of_a_third_user_is_named(depth: int, good: Path, tmp_path: Path) -> None:
    """The owner of a folder above the file can replace it, whatever the modes are."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    shutil.move(good, deep / "runsc")
    culprit = [deep, deep.parent][depth - 1]
    os.chown(culprit, STRANGER, -1)
    error = refused(deep / "runsc", "neither root's nor uid 0's")
    assert f"the folder {culprit} (mode 0755, owner uid {STRANGER})" in error.reason


def chain(folder: Path, length: int, end: Path) -> Path:
    """The head of ``length`` symlinks, the last of which points to ``end``."""
    target: Path = end
    for number in range(length):
        link = folder / f"link-{number}"
        link.symlink_to(target)
        target = link
    return target


@pytest.mark.fault("A5")
def test_symlinks_are_followed_and_the_file_is_what_counts(good: Path, tmp_path: Path) -> None:
    """Through forty links the canonical file is found; an evil one at the end is refused."""
    assert found(chain(tmp_path, 40, good)) == str(good)
    good.chmod(0o777)
    assert refused(tmp_path / "link-39", "may write it").path == str(good)


@pytest.mark.fault("A5")
@pytest.mark.parametrize(("length", "loops"), [(41, False), (1, True), (2, True)])
def test_more_symlinks_than_the_kernel_follows_are_refused(
    length: int, good: Path, tmp_path: Path, *, loops: bool
) -> None:
    """The forty-first link ends it, as it does for the kernel: a typed error, in the search too."""
    head = chain(tmp_path, length, tmp_path / f"link-{length - 1}" if loops else good)
    refused(head, "symlinks form a loop")
    with pytest.raises(InsecureRunsc):
        searched(head)
    with pytest.raises(OSError, match="symbolic links"):
        head.open()


@pytest.mark.fault("A3")
@pytest.mark.parametrize("relative", [False, True])
def test_a_symlink_in_a_folder_that_others_may_write_is_refused(
    relative: bool, good: Path, tmp_path: Path
) -> None:
    """A link that others can turn is no way to a good file, in the middle of a chain too."""
    shared = tmp_path / "shared"
    shared.mkdir()
    middle = shared / "middle"
    middle.symlink_to(f"../{good.parent.name}/runsc" if relative else good)
    head = tmp_path / "head"
    head.symlink_to(middle)
    assert found(head) == str(good)
    shared.chmod(0o777)
    assert f"the folder {shared} " in refused(head, "can be written by others").reason


# --- what was judged is what runs


def swapper(good: Path, evil: Path, place: Path) -> subprocess.Popen[bytes]:
    """A process that puts good and evil in turn at ``place``, by atomic renames, until killed."""
    program = """
import os, sys
good, evil, place = sys.argv[1:]
spare = place + ".spare"
while True:
    for source in (evil, good):
        os.link(source, spare)
        os.rename(spare, place)
"""
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", program, good, evil, place])


@pytest.mark.fault("A6")
@pytest.mark.parametrize(
    "spoil", [loosen, pytest.param(give_away, marks=needs_root)], ids=["mode", "owner"]
)
def test_a_rename_between_judging_and_starting_changes_nothing(
    spoil: Callable[[Path], None],
    fake_runsc: FakeRunsc,
    by_descriptor: ByDescriptor,
    tmp_path: Path,
) -> None:
    """In a thousand tries against renames the checked bytes run or none, never the other file's."""
    good, evil = fake_runsc(), fake_runsc(other='puts("EVIL")')
    spoil(evil)
    place = tmp_path / "runsc"
    shutil.copy(good, place)
    with swapper(good, evil, place) as process:
        try:
            outcomes = [try_once(place, by_descriptor) for _ in range(1000)]
        finally:
            process.kill()
    # Both happened, so the renames did run beside the tries.
    assert set(outcomes) == {"GOOD\n", "refused"}


def try_once(place: Path, by_descriptor: ByDescriptor) -> str:
    try:
        judged = locate.find(str(place))
    except InsecureRunsc:
        return "refused"
    try:
        return by_descriptor(judged)
    finally:
        judged.close()
