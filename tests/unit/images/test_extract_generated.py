"""Unpacking of generated layers: nothing outside of the root changes."""

import shutil
import tarfile
from typing import Final

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pytest_gvisor import ImageError
from tests.faults.census import facts
from tests.unit.images.conftest import Item, Unpack, folder, hard, item, link

Words = st.SearchStrategy[str]

# Few names, so that they meet: what one entry has made is what another one goes through. A name
# with two dots in it ends an unpacking at once; the targets of links may have them.
DEEP: Final = st.lists(st.sampled_from(["a", "b", "etc"]), min_size=1, max_size=3).map("/".join)
FOLDER: Final = st.just("") | DEEP
LEAF: Final = st.sampled_from(["a", "b", "x", "y", "victim", "\udcff", "n" * 255])
HIDING: Final = st.sampled_from([".wh.a", ".wh.b", ".wh.x", ".wh..wh..opq", ".wh..wh.x"])
ODD: Final = st.sampled_from(
    ["..", "../x", "a/../x", "a/..", ".", "", "//", ".wh.", ".wh..", ".wh..."]
)
OUT: Final = st.sampled_from(
    ["..", "../..", "../../etc", "../../d", "../victim", "../../etc/passwd"]
)
BACK: Final = st.sampled_from(
    ["../root", "../../within/root/b", "a/..", "b/../..", "/", "/a", ".", "a"]
)


def below(folders: Words, names: Words) -> Words:
    """A name in one of these folders."""
    return st.builds(lambda a, b: f"{a}/{b}" if a else b, folders, names)


PLAIN: Final = below(FOLDER, LEAF)
NAME: Final = st.integers(0, 50).flatmap(lambda n: PLAIN if n else ODD)
TARGET: Final = OUT | BACK | PLAIN
MODE: Final = st.sampled_from([0o755, 0o644, 0, 0o4755, 0o1777])
ITEM: Final = (
    st.builds(lambda name, mode: item(name, b"x", mode=mode), NAME, MODE)
    | st.builds(folder, DEEP, MODE)
    | st.builds(link, below(FOLDER, st.sampled_from(["a", "b"])), TARGET)
    | st.builds(hard, NAME, NAME)
    | st.builds(item, below(FOLDER, HIDING))
    | st.builds(
        lambda name, kind: item(name, type=kind),
        NAME,
        st.sampled_from([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]),
    )
)


@pytest.mark.fault("C1", "C2", "C3", "C5", "C6", "C7", "C8", "C9", "C12")
@given(layers=st.lists(st.lists(ITEM, max_size=8), min_size=1, max_size=3))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_in_layers_nothing_outside_of_the_root_changes(
    unpack: Unpack, layers: list[list[Item]]
) -> None:
    """Generated layers are unpacked or refused with an `ImageError`; the folder can be removed."""
    root = unpack([])
    outside = root.parents[1]
    before = facts(outside, without=root)
    try:
        unpack(*layers)
        event("unpacked")
    except ImageError as error:
        event(f"refused: {error.message.rpartition(' ')[2]}")
    assert facts(outside, without=root) == before
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
