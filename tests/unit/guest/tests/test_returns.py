"""The files of a sandbox that its first process finds and sends, here without a sandbox."""

import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.guest.tests import returns
from pytest_gvisor.guest.tests.returns import Changes, Place, pattern, refusal
from pytest_gvisor.inside.wire import link

Messages = list[dict[str, Any]]


def place(folder: Path, *, name: str = "", free: bool = True) -> Any:
    """A place as the host names it."""
    return {"folder": str(folder), "name": name, "free": free}


def sent(
    changes: Changes, project: Path, *places: Any, failed: Iterable[Path] = (), **more: Any
) -> Messages:
    """All messages of the first process."""
    folders = [*map(str, failed)]
    agreed = {"places": places, "project": str(project), "writable": [], "files": 100,
              "bytes": 10_000_000, "folders": [], **more}  # fmt: skip
    ours, theirs = socket.socketpair()
    with ours:

        def send() -> None:
            with theirs:
                returns.send(theirs.fileno(), agreed, changes, folders)

        thread = threading.Thread(target=send)
        thread.start()
        assert ours.recv(len(returns.MARK), socket.MSG_WAITALL) == returns.MARK
        decoder, messages = link.decoder(), list[dict[str, Any]]()
        while decoder.read(ours.fileno()):
            messages += [message for message, _payload in decoder.frames()]
        thread.join()
    return messages


def paths(messages: Messages) -> list[str]:
    """The paths of all files that were sent whole."""
    return [message["path"] for message in messages if message.get("more") is False]


def from_now(folder: Path) -> Changes:
    """The changes from here on, by their time alone: this is no overlay.

    The kernel's times of files are coarse: two files that are made in turn can have the same one.
    So this waits until the time of a file that it makes itself changes.
    """
    made = Changes(probe=str(folder / "nowhere/probe"))
    tick = folder / "tick"
    tick.touch()
    first = made._since = os.lstat(tick).st_ctime_ns
    while made._since == first:
        tick.touch()
        made._since = os.lstat(tick).st_ctime_ns
    tick.unlink()
    return made


@pytest.fixture
def changes(tmp_path: Path) -> Changes:
    """The changes since the test began."""
    return from_now(tmp_path)


DATA, OWN, FREE = Place("/x"), Place("/x", own=True), Place("/x", free=True)
EXACT = Place("/x", name="n")


@pytest.mark.parametrize(
    ("path", "place", "why"),
    [
        ("a/b.JSON", DATA, ""),
        ("a/é.csv", DATA, ""),
        *[(f"a/b.{suffix}", place, why) for suffix in ("txt", "yml", "YAML", "md", "rst")
          for place, why in {DATA: "suffix", OWN: "", FREE: "", EXACT: ""}.items()],
        *[(f"a/{name}", place, why) for name in (
            "b.py", "b.pth", "b.so", "b.sh", "b", "b.toml", "b.cfg", "b.ini", "b.pkl", "b.sqlite",
            ".b.json", ".json", "Makefile", ".envrc",
        ) for place, why in {DATA: "suffix", OWN: "suffix", FREE: "", EXACT: ""}.items()],
        (".git/b.json", DATA, "suffix"),
        ("cassettes/.vscode/settings.json", OWN, "suffix"),
        *[("package.json", place._replace(project=project), why)
          for project in ("", "x", "x/y")
          for place, why in {DATA: "suffix", OWN: "suffix", FREE: "", EXACT: ""}.items()],
        ("a/package.json", DATA._replace(project=""), ""),
        ("a/package.json", DATA._replace(project="a/b/c"), "suffix"),
        ("a/package.json", DATA._replace(project="ab"), ""),
        *[(path, FREE, "name") for path in (
            "", "/", "/a", "a//b", "../a", "a/..", "a/./b", "a\nb", "a\x1b[2Jb", "a\0b", "\udcffa",
            "a\u202eb", "x" * 256, "é" * 128, "/".join(["xxxx"] * 600),
        )],
    ],
)  # fmt: skip
def test_a_name_is_refused_that_could_harm(path: str, place: Place, why: str) -> None:
    """The host may run a file by its name; of a project, tools look into its own folder."""
    assert refusal(place, path) == why


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("**", "a/b/c", True),
        ("*.xml", "a.xml", True),
        ("*.xml", "a/b.xml", False),
        ("**/*.xml", "b.xml", True),
        ("**/*.xml", "a/b/c.xml", True),
        ("a/**/b?[0-9].txt", "a/x/y/bb7.txt", True),
        ("a/**/b?[!0-9].txt", "a/bb7.txt", False),
        ("**/__snapshots__/**", "t/__snapshots__/a/b.ambr", True),
        ("**/__snapshots__/**", "t/__snapshots__", False),
        ("a.c", "abc", False),
    ],
)
def test_a_star_stays_in_one_folder_and_two_do_not(glob: str, path: str, fits: bool) -> None:
    """Other characters but ``?`` and ``[…]`` mean themselves."""
    assert bool(pattern(glob).fullmatch(path)) is fits


def test_what_was_there_before_stays_and_what_is_new_goes(tmp_path: Path) -> None:
    """A file counts once, as one of its first place; what is in no place is named."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old/old.txt").write_text("old")
    changes = from_now(tmp_path)
    for name in ("out/a.json", "out/b.py", "out/sub/c.csv", "x.json", "y.txt", "__pycache__/z.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    messages = sent(
        changes,
        tmp_path,
        place(tmp_path, name="x.json"),
        place(tmp_path / "out", free=False),
        place(tmp_path / "out/sub"),
        place(tmp_path / "missing", name="x"),
    )
    assert paths(messages) == ["x.json", "a.json", "sub/c.csv"]
    left_out, wrote, end = messages[-3:]
    assert (left_out["why"], left_out["paths"]) == ("suffix", [str(tmp_path / "out/b.py")])
    assert (wrote["count"], wrote["paths"]) == (1, [str(tmp_path / "y.txt")])
    assert end == {"type": "end"}


def test_what_is_new_goes_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine sets its clock when it has found the network: by an hour, and the files are new."""
    now, tick = time.time_ns, tmp_path / "x.json"
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: now() + 3600 * 10**9)
        changes = Changes(probe=str(tmp_path / "nowhere/probe"))
    begun = now()
    while tick.write_text("new") and os.lstat(tick).st_ctime_ns < begun:
        pass  # the kernel's times of files are coarse
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/sub/new.csv").write_text("new")
    places = place(tmp_path, name="x.json"), place(tmp_path / "out")
    assert paths(sent(changes, tmp_path, *places)) == ["x.json", "sub/new.csv"]


def test_no_link_fifo_or_folder_is_sent(changes: Changes, tmp_path: Path) -> None:
    """The walk enters no link, and writable folders are left to the host."""
    (tmp_path / "out").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").write_text("x")
    (tmp_path / "through").mkdir()
    (tmp_path / "through/a.txt").write_text("x")
    (tmp_path / "out/folder").symlink_to(tmp_path / "real")
    (tmp_path / "out/link.txt").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "out/fifo.txt")
    messages = sent(
        changes,
        tmp_path / "out",
        place(tmp_path / "out"),
        place(tmp_path / "out", name="link.txt"),
        place(tmp_path / "through"),
        writable=[str(tmp_path / "through"), str(tmp_path / "out/folder")],
    )
    assert [message["type"] for message in messages] == ["file", "end"]
    assert paths(messages) == ["a.txt"]


def test_content_comes_in_pieces_and_has_an_end(changes: Changes, tmp_path: Path) -> None:
    """Beyond the bounds that the host has set, files are named with the reason."""
    sizes = {"a": 0, "b": returns.PIECE, "c": 2 * returns.PIECE + 1, "d": 9_000_000, "e": 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    messages = sent(changes, tmp_path, place(tmp_path))
    assert paths(messages) == ["a", "b", "c", "e"]
    assert sum(message.get("path") == "c" for message in messages) == 3
    assert messages[-2]["paths"] == [str(tmp_path / "d")]
    assert messages[-2]["why"] == "size"
    messages = sent(changes, tmp_path, place(tmp_path), files=2)
    assert paths(messages) == ["a", "b"]


def test_of_failed_tests_alone_the_folders_are_walked(changes: Changes, tmp_path: Path) -> None:
    """The folders are below the place, and may have so many bytes."""
    base = tmp_path / "base"
    for name in ("test_a0/x", "test_b0/y", "test_b0/z", "elsewhere/w"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(name)
    some = {**place(base), "failed_only": True, "most": 10}
    project = tmp_path / "project"
    failed = [base / "test_b0", tmp_path / "project", Path("/etc")]
    messages = sent(changes, project, some, failed=failed)
    assert paths(messages) == ["test_b0/y"]
    assert messages[-2]["paths"] == [str(base / "test_b0/z")]


def test_counting_stops_after_its_time(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that somebody has asked for are all found, however long it takes."""
    monkeypatch.setattr(returns, "_COUNTING", -1.0)
    (tmp_path / "a.txt").touch()
    (tmp_path / "x").mkdir()
    (tmp_path / "x/b.txt").touch()
    assert sent(changes, tmp_path) == [{"type": "end"}]
    messages = sent(changes, tmp_path, place(tmp_path / "x"))
    assert paths(messages) == ["b.txt"]
    assert (messages[-2]["count"], messages[-2]["whole"]) == (1, True)


def test_a_folder_that_is_gone_has_no_files(changes: Changes, tmp_path: Path) -> None:
    """A test may remove its own folder, and a sandbox without such a test may have none."""
    (tmp_path / "file").touch()
    until = time.monotonic() + 60
    assert list(changes.below(str(tmp_path / "gone"), until=until)) == []
    assert list(changes.below(str(tmp_path), until=until)) == [str(tmp_path / "file")]


def test_many_names_are_counted(changes: Changes, tmp_path: Path) -> None:
    """A message has a bounded number of names."""
    for number in range(returns.MOST_NAMES + 5):
        (tmp_path / f"{number}.txt").touch()
    (wrote, _end) = sent(changes, tmp_path)
    assert wrote["count"] == returns.MOST_NAMES + 5
    assert len(wrote["paths"]) == returns.MOST_NAMES


def test_a_file_that_the_host_changes_is_none_of_the_sandbox(
    changes: Changes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an overlay, the device of a file tells its layer."""
    (tmp_path / "new.txt").touch()
    info = (tmp_path / "new.txt").stat()
    assert changes.has(str(tmp_path / "new.txt"))
    monkeypatch.setattr(changes, "_overlay", tmp_path.stat().st_dev)
    monkeypatch.setattr(changes, "_upper", info.st_dev + 1)
    assert not changes.has(str(tmp_path / "new.txt"))
    assert list(changes.below(str(tmp_path))) == []
    monkeypatch.setattr(changes, "_upper", info.st_dev)
    assert list(changes.below(str(tmp_path))) == [str(tmp_path / "new.txt")]


def test_a_host_that_is_gone_ends_the_sending(changes: Changes, tmp_path: Path) -> None:
    """The first process then goes on to its own end."""
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)
    ours, theirs = socket.socketpair()
    ours.close()
    agreed = {"places": [place(tmp_path)], "project": str(tmp_path), "writable": [], "files": 1,
              "bytes": 10**7}  # fmt: skip
    with theirs:
        returns.send(theirs.fileno(), agreed, changes, [])


def test_folders_of_places_are_made(tmp_path: Path) -> None:
    """Whoever runs the tests can write there."""
    wanted = [str(tmp_path / "a/b"), str(tmp_path), "/proc/nowhere"]
    returns.make_folders({"folders": wanted})
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o777
