"""The paths of changes in the strace of a boot log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.traced import Change
from pytest_gvisor.trace import events

STRACE = {
    "unlink(0x7e c d)": ("c d",),
    "rename(0xa5ee10 f, 0xa5ee40 /g/../h)": ("f", "/h"),
    "mkdir(0x7e x y, z) = 0 (0x0) (1us), 0o777)": ("x y, z) = 0 (0x0) (1us)",),
    "mkdir(0x7e a\nb, 0o777)": ("a\nb",),
    "chmod(0xa5ee40 /g, 0o600)": ("/g",),
    "fchmod(0x3 /tmp/a, 0o700)": ("/tmp/a",),
    "symlink(0x1 ../text, 0x2 /s)": ("../text", "/s"),
    "symlinkat(0x1 text, AT_FDCWD /tmp, 0x2 s)": ("text", "/tmp/s"),
    "unlinkat(0x3 /tmp/a, 0x7e h, 0x200)": ("/tmp/a/h",),
    "mkdirat(AT_FDCWD /x y, 0x7e z, 0o777)": ("/x y/z",),
    "renameat2(AT_FDCWD /, 0x1 a, 0x4 /b, 0x2 /c, 0x0)": ("/a", "/c"),
    "linkat(0x3 /a, 0x1 , AT_FDCWD /, 0x2 b, 0x1000)": ("/a", "/b"),
}


@pytest.mark.parametrize(
    ("call", "paths"), STRACE.items(), ids=[one.partition("(")[0] for one in STRACE]
)
def test_the_strace_has_the_paths_of_a_change(call: str, paths: tuple[str, ...]) -> None:
    """The end of a call has its error, of 20240729 beside another result. A torn entry has none."""
    name = call.partition("(")[0]
    begin = "I1129 18:51:19.101321       1 strace.go:604] [  12:  13] python3"
    ends = {"0 (0x0)": "", "-1 errno=2 (no such file)": "ENOENT", "0 (0x0) errno=13 (x)": "EACCES"}
    text = "".join(f"{begin} {way} {call} = {end} (2µs)\n" for end in ends for way in "EXX")
    more = f"{begin} X read(0x0) = 1 (0x1) (1µs)\n{begin} X unlink(0x1 /a\n"
    assert events.changes(f"I1129 18:00:00.1 1 boot.go:1] x\n{text}{more}") == tuple(
        Change(call=name, paths=paths, error=error, process=12, count=2) for error in ends.values()
    )
    assert events.changes("") == ()


@given(text=st.text() | st.from_regex(events._END))
def test_any_strace_is_read(text: str) -> None:
    """A text that is no change is None."""
    found = events._change(text)
    assert found is None or found.call in text
