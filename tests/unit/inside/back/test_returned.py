"""Files from a hostile sandbox, and what the host makes of them."""

import base64
import dataclasses
import errno
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.guest.tests.returns import MOST_NAMES, Place
from pytest_gvisor.inside.back import anchors, returned
from pytest_gvisor.inside.back.anchors import Anchor, Anchors
from pytest_gvisor.inside.back.landing import Store
from pytest_gvisor.inside.back.records import Records
from pytest_gvisor.inside.back.returned import (
    DATA_FOLDERS,
    OUTPUT_FOLDERS,
    RECORDINGS,
    SNAPSHOTS,
    Agreed,
    Taker,
    agree,
    basetemp,
    check,
)
from pytest_gvisor.inside.plugins import allure, cassettes
from pytest_gvisor.inside.wire.link import Died, Hangs, Link
from pytest_gvisor.run.budget import LATE, LONGEST_MORE, Budget
from tests.unit.run.test_budget import Clock, clock

__all__ = ["clock"]

Message = dict[str, Any]
END: Message = {"type": "end"}


class Sandbox:
    """A script in the place of a sandbox's first process."""

    attended = True

    def __init__(self, messages: Iterable[Message | BaseException]) -> None:
        self._messages: Iterator[Message | BaseException] = iter(messages)

    budget = Budget(60)

    def await_end(self) -> None:
        """The pytest has ended."""

    def receive_of_first(self) -> Message:
        """The next message, or the next error."""
        message = next(self._messages, Died("it is gone"))
        if isinstance(message, BaseException):
            raise message
        return message


class Host:
    """A project with a folder of data, a free one, a file, a log and a plugin's own folder."""

    def __init__(self, base: Path, **bounds: int) -> None:
        self.base = base
        self.written = base / "data/written"
        self.store = Store(Anchors(str(base), [str(self.written)]), **bounds)
        folders = {name: str(base / name) for name in ("data", "free", "log", "own")}
        self.agreed = Agreed(
            places=(
                Place(folders["data"]),
                Place(folders["free"], free=True),
                Place(folders["data"], name="x.py"),
                Place(folders["log"], name="l", merged=True),
                Place(folders["own"], own=True),
            ),
            project=str(base),
        )

    def take(self, *messages: Message | BaseException, sandbox: str = "test_it") -> bool:
        """Take what a sandbox sends."""
        taker = Taker(self.store, self.agreed)
        taker.sandbox = sandbox
        return taker.receive(cast("Link", Sandbox(messages)), 0.0)

    def files(self) -> dict[str, bytes]:
        """All files that are there."""
        found = sorted(path for path in self.base.rglob("*") if path.is_file())
        return {str(path.relative_to(self.base)): path.read_bytes() for path in found}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host with nothing in its folders, and with a cache beside them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "project").mkdir()
    made = Host(tmp_path / "project")
    yield made
    made.store.close()


def file(path: object, data: bytes = b"x", *, place: object = 1, more: object = False) -> Message:
    """The message with a file, or with a piece of it."""
    text = base64.b64encode(data).decode()
    return {"type": "file", "place": place, "path": path, "data": text, "more": more}


def test_files_are_written_at_the_end_of_the_session(host: Host) -> None:
    """Files wait until then, whole, and those that are the same already do not count."""
    (host.base / "free").mkdir()
    (host.base / "free/same").write_bytes(b"x")
    assert host.take(
        file("a/b.json", place=0), file("c", b"1", more=True), file("c", b"2"), file("same"),
        file("x.py", place=2), END,
    )  # fmt: skip
    assert list(host.files()) == ["free/same"]
    tally = host.store.write()
    assert host.files() == {
        "free/c": b"12", "free/same": b"x", "data/a/b.json": b"x", "data/x.py": b"x",
    }  # fmt: skip
    assert (tally.count, tally.errors, tally.notes) == (3, [], [])


def test_sandboxes_that_differ_are_named_and_neither_is_written(host: Host) -> None:
    """A path with the same content in both is no conflict."""
    host.take(file("a", b"1"), file("same"), END, sandbox="test_one")
    host.take(file("a", b"2"), file("same"), END, sandbox="test_two\x1b[2J")
    tally = host.store.write()
    assert list(host.files()) == ["free/same"]
    (error,) = tally.errors
    assert error.endswith("from test_one and test_two\\x1b[2J")
    # Workers of xdist are compared by these.
    assert [(path.rpartition("/")[2], by) for path, (_digest, by) in tally.digests.items()] == [
        ("same", "test_one"),
    ]  # fmt: skip


def test_sandboxes_that_reach_a_file_by_a_link_and_without_it_are_compared(host: Host) -> None:
    """Inside, a project that a link leads to is there by either path."""
    link = host.base.with_name("link")
    link.symlink_to(host.base)
    host.store.anchors = Anchors(str(link))
    host.agreed = dataclasses.replace(
        host.agreed, places=(Place(f"{link}/data"), Place(f"{host.base}/data"))
    )
    host.take(file("a.csv", b"1", place=0), file("b.csv", place=0), END, sandbox="test_one")
    host.take(file("a.csv", b"2", place=1), file("b.csv", place=1), END, sandbox="test_two")
    tally = host.store.write()
    assert (list(host.files()), tally.count) == (["data/b.csv"], 1)
    (error,) = tally.errors
    assert error.startswith(f"{host.base}/data/a.csv ")


def test_workers_are_compared_by_each_file_that_came_back(host: Host) -> None:
    """Ten thousand others hide no difference, and neither does the length of a path."""
    paths = [f"{'a' * 240}/" * 4 + last for last in "bc"] + [str(n) for n in range(10_000)]
    host.take(*(file(path, b"") for path in paths), END)
    assert {path.removeprefix(f"{host.base}/free/") for path in host.store.write().digests} == {
        *paths
    }


def test_logs_are_added_to_what_the_host_has_logged(host: Host) -> None:
    """Each sandbox's in the order in which they ended."""
    (host.base / "log").mkdir()
    (host.base / "log/l").write_bytes(b"host\n")
    host.take(file("l", b"one\n", place=3), END)
    host.take(file("l", b"two\n", place=3), END)
    assert host.store.write().errors == []
    assert host.files() == {"log/l": b"host\none\ntwo\n"}


HOSTILE: dict[str, Message] = {
    "a way up": file("../x.txt"),
    "a way up below": file("a/../../x.txt"),
    "an absolute path": file("/etc/x.txt"),
    "a line break": file("a\nb.txt"),
    "an escape sequence": file("a\x1b[2Jb.txt"),
    "no UTF-8": file("\udcff.txt"),
    "a NUL": file("a\0.txt"),
    "a long name": file("x" * 256),
    "a long path": file("/".join(["xxxx"] * 600)),
    "an empty path": file(""),
    "a path that is none": file(7),
    "a suffix": file("conftest.py", place=0),
    "a text": file("test_it.txt", place=0),
    "a dot": file(".git/x.json", place=0),
    "a plugin's code": file("x.py", place=4),
    "another name": file("y.py", place=2),
    "no place": file("a", place=5),
    "a place before the first": file("a", place=-1),
    "a place that is true": file("a", place=True),
    "a place that is a text": file("a", place="1"),
    "no base64": {**file("a"), "data": "é"},
    "base64 with a blank": {**file("a"), "data": "eA= ="},
    "bytes that are a list": {**file("a"), "data": []},
    "another type": {"type": "report"},
    "no count": {"type": "wrote", "count": -1, "paths": []},
    "a count that is true": {"type": "wrote", "count": True, "paths": []},
    "too many names": {"type": "wrote", "count": 1, "paths": ["a"] * (MOST_NAMES + 1)},
    "names that are none": {"type": "wrote", "count": 1, "paths": [1]},
    "a reason": {"type": "left out", "why": "x", "count": 1, "paths": []},
    "a reason that is a list": {"type": "left out", "why": [], "count": 1, "paths": []},
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_was_not_agreed_ends_the_taking(host: Host, message: Message) -> None:
    """Files before it count, no later one does, and the summary says that some may be lost."""
    with pytest.raises(ProtocolError):
        Taker(host.store, host.agreed).take(message)
    host.take(file("before"), message, file("after"), END)
    tally = host.store.write()
    assert list(host.files()) == ["free/before"]
    (note,) = tally.notes
    assert note.startswith("the sandbox of test_it is lost")
    assert f"{host.base}/data/x.py, {host.base}/log/l, {host.base}/own/**" in note
    assert note.isprintable()


def test_a_file_of_the_host_s_is_replaced_if_it_came_back_from_inside(host: Host) -> None:
    """A user's file is not, and neither is one that the user has changed since."""
    for round_, content in enumerate((b"1", b"2")):
        host.take(*(file(f"{name}.json", content, place=0) for name in "abc"), END)
        if not round_:
            (host.base / "data").mkdir()
            (host.base / "data/a.json").write_bytes(b"the user's")
        tally = host.store.write()
        (host.base / "data/c.json").write_bytes(b"changed")
        assert [error.split()[0] for error in tally.errors] == [
            f"{host.base}/data/{name}.json" for name in ("a", "ac")[round_]
        ]
        assert "is not replaced" in tally.errors[-1]
        tally.errors.clear()
    assert host.files() == {
        "data/a.json": b"the user's", "data/b.json": b"2", "data/c.json": b"changed",
    }  # fmt: skip
    # What is the same already is left alone, and is no file from inside for that.
    host.take(file("a.json", b"the user's", place=0), END)
    assert host.store.write().errors == []
    host.take(file("a.json", b"3", place=0), END)
    assert len(host.store.write().errors) == 1


@pytest.mark.parametrize(("place", "fails"), [(4, True), (1, False)])
def test_no_report_that_the_host_has_just_written_is_replaced(
    host: Host, place: int, fails: bool
) -> None:
    """Neither in the folder of an option nor in a temporary one."""
    folder = Path(host.agreed.places[place].folder)
    folder.mkdir(exist_ok=True)
    (folder / "junit.xml").write_text("the host's")
    host.take(file("junit.xml", b"forged", place=place), END)
    tally = host.store.write()
    assert (folder / "junit.xml").read_text() == "the host's"
    assert len(tally.errors) == fails
    assert "was written on the host in this session" in [*tally.errors, *tally.notes][0]


def test_no_report_of_now_is_replaced_though_the_clock_was_set_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine sets its clock when it has found the network: the report's time is an older one."""
    now = time.time()
    host.store.began = now + 3600
    monkeypatch.setattr(host.store, "_ahead", now + 3600 - time.monotonic())
    (host.base / "own").mkdir()
    (host.base / "own/junit.xml").write_text("the host's")
    host.take(file("junit.xml", b"forged", place=4), END)
    assert len(host.store.write().errors) == 1
    assert (host.base / "own/junit.xml").read_text() == "the host's"


def test_an_option_that_was_given_now_replaces_files_of_its_own_folder(host: Host) -> None:
    """So snapshots are updated: texts, and no code."""
    (host.base / "own").mkdir()
    (host.base / "own/x.yml").write_bytes(b"the user's")
    host.store.began += 60
    host.take(file("x.yml", b"new", place=4), file("y.txt", place=4), END)
    assert host.store.write().errors == []
    assert host.files() == {"own/x.yml": b"new", "own/y.txt": b"x"}


@pytest.mark.parametrize(
    ("new", "landed"),
    [(None, {}), *((new, {"own/r.json": new}) for new in (b"abc", b"", b"changed"))],
)
def test_a_result_of_allure_s_lands_as_the_host_decides(
    host: Host, monkeypatch: pytest.MonkeyPatch, new: bytes | None, landed: dict[str, bytes]
) -> None:
    """A file that is too large for a result counts as an empty one."""
    seen: list[bytes] = []
    monkeypatch.setattr(allure, "MOST_OF_RESULT", 3)

    def judged(_path: str, data: bytes, *_: object) -> bytes | None:
        seen.append(data)
        return new

    monkeypatch.setattr(allure, "judged", judged)
    host.agreed = dataclasses.replace(host.agreed, results=str(host.base / "own"))
    host.take(file("r.json", b"abc", place=4), file("x.txt", place=4), file("x.json"), END)
    assert seen == [b"abc"]
    host.store.write()
    assert host.files() == {**landed, "own/x.txt": b"x", "free/x.json": b"x"}
    host.take(file("r.json", b"abcd", place=4), END)
    assert seen == [b"abc", b""]


def test_yaml_that_is_too_large_to_be_read_stays_inside(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host reads no tags in it."""
    monkeypatch.setattr(cassettes, "MOST", 3)
    host.take(file("a.yml", b"123", place=4), file("b.yml", b"1234", place=4), END)
    host.store.write()
    assert host.files() == {"own/a.yml": b"123"}


@pytest.mark.parametrize("text", [b"!!python/name:os.system x", b"[! b"])
def test_yaml_that_names_objects_of_python_stays_inside(host: Host, text: bytes) -> None:
    """vcrpy would call them, in a later session on the host."""
    host.take(
        file("x.yml", text, place=4), file("y.YAML", text, place=4), file("z.yml", place=4),
        file("x.txt", text, place=4),
    )  # fmt: skip
    assert len(host.store.tally.notes) == 3
    host.store.write()
    assert host.files() == {"own/z.yml": b"x", "own/x.txt": text}


def test_a_file_that_could_not_be_written_is_replaced_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full, say: the file is as it came back before."""

    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for data, fails in (b"1", False), (b"2", True), (b"3", False):
        with monkeypatch.context() as patch:
            if fails:
                patch.setattr(anchors, "land", full)
            host.take(file("a.json", data, place=0), END)
            assert len(host.store.write().errors) == fails
            host.store.tally.errors.clear()
        assert host.files() == {"data/a.json": b"1" if fails else data}


def test_where_nothing_can_be_recorded_nothing_lands(host: Host) -> None:
    """A later session would collect it. Temporary folders need no record."""
    cache = host.base.parent / "cache"
    cache.write_text("no folder")
    host.take(file("a.json", place=0), file("l", place=3), file("a"), END)
    (error,) = host.store.write().errors
    assert host.files() == {"free/a": b"x"}
    assert error.startswith("2 files stay inside, because they cannot be recorded")
    assert "XDG_CACHE_HOME" in error


@pytest.mark.fault("G6")
def test_files_that_there_is_no_memory_to_record_fail_the_session(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of pytest's own would take the summary of the session."""
    host.take(file("a.json", place=0), END)
    monkeypatch.setattr(Records, "save", Mock(side_effect=MemoryError))
    (error,) = host.store.write().errors
    assert "1 files stay inside, because they cannot be recorded: there is no memory" in error
    assert host.files() == {}


def test_the_host_counts_the_bytes_of_a_place(host: Host) -> None:
    """The bound is the place's, whatever the sandbox says of it."""
    some = Place(str(host.base / "free"), free=True, most=10)
    host.agreed = dataclasses.replace(host.agreed, places=(some,))
    host.take(file("a", b"x" * 10, place=0), file("b", place=0), END)
    tally = host.store.write()
    assert list(host.files()) == ["free/a"]
    assert "more than 10 bytes" in tally.notes[0]


def test_the_host_knows_the_folders_of_failed_tests(host: Host) -> None:
    """One for each test that it has seen fail; others are dropped, and the rest is taken."""
    some = Place(str(host.base / "free"), free=True, failed_only=True)
    taker = Taker(host.store, dataclasses.replace(host.agreed, places=(some,)))
    long = "test_" + "x" * 40
    for inner in ("t/test_a.py::test_b[1-é]", "t/test_a.py::C::test_c9", f"t/test_a.py::{long}"):
        taker.note_failed(cast("pytest.Item", object()), inner)
    wanted = ["test_b_1_é_0/x", "test_c90/x/y", "test_c90/z", f"{long[:30]}12/x"]
    dropped = ["test_passes0/x", "test_b_1_é_1/x", "other0/x", "x"]
    messages = [file(path, place=0) for path in (*dropped[:1], *wanted, *dropped[1:])]
    assert taker.receive(cast("Link", Sandbox([*messages, END])), 0.0)
    tally = host.store.write()
    assert {*host.files()} == {f"free/{path}" for path in wanted}
    assert (tally.count, tally.errors, tally.notes) == (len(wanted), [], [])


def test_failed_tests_have_a_folder_each_though_their_names_are_alike(host: Host) -> None:
    """A folder's name has an underscore for each of many characters, such as those of operators."""
    some = Place(str(host.base / "free"), free=True, failed_only=True)
    taker = Taker(host.store, dataclasses.replace(host.agreed, places=(some,)))
    for sign in "+-":
        taker.note_failed(cast("pytest.Item", object()), f"t/test_a.py::test_b[{sign}]")
    messages = [file(f"test_b___{number}/x", place=0) for number in range(3)]
    assert taker.receive(cast("Link", Sandbox([*messages, END])), 0.0)
    host.store.write()
    assert {*host.files()} == {"free/test_b___0/x", "free/test_b___1/x"}


def test_half_a_file_is_none(host: Host) -> None:
    """Neither before another one, nor at the end."""
    host.take(file("a", more=True), file("b"), END, sandbox="one")
    host.take(file("a", more=True), END, sandbox="two")
    host.take(file("a", more=True), sandbox="three")
    host.take(file("a", more=True), Hangs(), sandbox="four")
    tally = host.store.write()
    assert host.files() == {}
    assert [note.split()[3] for note in tally.notes] == ["one", "two", "three", "four"]


def test_a_million_files_are_not_kept(host: Host) -> None:
    """Files before the bound are there."""
    host = Host(host.base, files=3)
    host.take(*(file(str(number)) for number in range(10)), END)
    assert list(host.files()) == []
    tally = host.store.write()
    assert list(host.files()) == ["free/0", "free/1", "free/2"]
    assert "more files from inside than are kept" in tally.notes[0]


def test_ten_gigabytes_are_not_kept(host: Host) -> None:
    """The bound is for all sandboxes together."""
    host = Host(host.base, size=2_000_000)
    host.take(file("a", b"x" * 1_000_000), END)
    endless = (file("b", b"x" * 400_000, more=True) for _ in range(100))
    host.take(*endless, END)
    tally = host.store.write()
    assert list(host.files()) == ["free/a"]
    assert "more bytes than are kept" in tally.notes[0]


@pytest.mark.parametrize(("size", "others"), [(900, 0), (9, 100)])
def test_all_bytes_that_are_kept_may_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, others: int
) -> None:
    """Base64 takes a third more for them. Other messages have bytes of their own."""
    monkeypatch.setattr(returned, "MOST_MESSAGES", others)
    host, sandbox = Host(tmp_path, size=size), Sandbox([])
    messages = iter([file("a", b"x" * size), END])

    def receive() -> Message:
        message = next(messages)
        sandbox.budget.spend(len(message.get("data", "")))
        return message

    monkeypatch.setattr(sandbox, "receive_of_first", receive)
    Taker(host.store, host.agreed).receive(cast("Link", sandbox), 0.0)
    host.store.write()
    assert host.files() == {"free/a": b"x" * size}
    host.store.close()


def test_numbers_of_files_come_once(host: Host) -> None:
    """A summary stays as short as it is."""
    wrote: Message = {"type": "wrote", "count": 2**50, "paths": ["a\x1b[2J", "b"]}
    left: Message = {"type": "left out", "why": "size", "count": 3, "paths": ["c\nd"]}
    host.take(wrote, left, wrote, END)
    tally = host.store.write()
    assert (tally.more, tally.others) == (2**50, ["a\\x1b[2J", "b"])
    assert tally.notes[0].startswith("c\\nd stayed inside: too large")
    assert tally.notes[1].startswith("2 more stayed inside")
    assert "a number of files that came already" in tally.notes[2]
    host.take({**left, "count": 1}, END)
    assert tally.notes[3].startswith("c\\nd stayed inside")
    assert len(tally.notes) == 4


def test_a_number_of_files_is_the_least_if_one_sandbox_did_not_count_all(host: Host) -> None:
    """Whatever those before and after it say."""
    for whole in (True, False, True):
        host.take({"type": "wrote", "count": 1, "paths": [], "whole": whole}, END)
        assert host.store.tally.whole is (whole and host.store.tally.more == 1)


def test_what_cannot_be_written_is_an_error_and_the_rest_is_written(host: Host) -> None:
    """A link in the place of a file, for instance."""
    (host.base / "free").mkdir()
    (host.base / "free/link").symlink_to("/etc/passwd")
    (host.base / "free/out").symlink_to(host.base / "data")
    host.take(file("link"), file("out/x.py"), file("z"), END)
    tally = host.store.write()
    assert list(host.files())[-1] == "free/z"
    assert not (host.base / "data").exists()
    assert len(tally.errors) == 2
    assert "symbolic links" in tally.errors[0]


def test_a_full_disk_is_an_error_with_its_path(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is one that cannot keep a file until the end, which nobody may want: others follow it."""

    def full(*_arguments: object, **_also: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    host.take(file("a"), END)
    some = Place(str(host.base / "free"), free=True, failed_only=True)
    host.agreed = dataclasses.replace(host.agreed, places=(some,))
    with monkeypatch.context() as context:
        context.setattr(os, "pwrite", full)
        host.take(file("b", place=0), END)
    monkeypatch.setattr(anchors, "land", full)
    tally = host.store.write()
    assert tally.errors == [
        f"{host.base}/free/b could not be kept until the end: No space left on device",
        f"{host.base}/free/a could not be written: No space left on device",
    ]
    assert "no place to keep a file from inside" in tally.notes[0]


@pytest.mark.fault("G6")
def test_files_that_there_is_no_memory_for_fail_the_session(host: Host) -> None:
    """No test has failed by that, and nobody would miss them."""
    host.take(file("a"), MemoryError())
    tally = host.store.write()
    (told,) = tally.errors
    assert "the sandbox of test_it is lost, and files that tests wrote in it may be" in told
    assert "there is no memory for what came from it" in told
    assert tally.notes == []


def test_a_sandbox_without_places_loses_nothing(host: Host) -> None:
    """Nobody asked for its files. Neither does one in which no test has begun."""
    taker = Taker(host.store, Agreed(project=str(host.base)))
    taker.sandbox = "test_it"
    taker.receive(cast("Link", Sandbox([])), 0.0)
    Taker(host.store, host.agreed).receive(cast("Link", Sandbox([])), 0.0)
    assert host.store.write().notes == []


def test_nothing_is_left_of_what_was_kept(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content has no name at any time, so nobody has to remove it."""
    monkeypatch.setattr(tempfile, "tempdir", str(host.base))
    host.take(file("a", b"x" * 1000), END)
    assert host.files() == {}
    host.store.write()
    assert host.store._spool is None


PROJECT = Path("/srv/project")


def config(*entries: str, base: str = "/tmp/base", worker: Any = None, **options: Any) -> Any:
    """A configuration with these entries of the ini key and options."""
    ini = {"gvisor_returns": entries, "log_file": ""}
    more = {} if worker is None else {"workerinput": worker}
    return SimpleNamespace(
        rootpath=PROJECT,
        invocation_params=SimpleNamespace(dir=PROJECT / "here"),
        option=SimpleNamespace(**options),
        getini=ini.__getitem__,
        getoption=options.get,
        _tmp_path_factory=SimpleNamespace(getbasetemp=lambda: Path(base)),
        **more,
    )


def test_item(path: str, *fixtures: str) -> pytest.Item:
    """A test of a module, with these fixtures."""
    item = SimpleNamespace(path=Path(path), fixturenames=fixtures)
    item.getparent = lambda _kind: item
    return cast("pytest.Item", item)


test_item.__test__ = False  # type: ignore[attr-defined]  # a helper


def places(
    *entries: str, items: Any = (), temporary: Any = None, **options: Any
) -> list[tuple[str, str, str, bool]]:
    """Folder, name, glob of each place, and whether it is a plugin's own."""
    found = agreed(config(*entries, **options), items, temporary)
    return [(place.folder, place.name, place.glob, place.own) for place in found.places]


class Anywhere(Anchors):
    """Anchors of folders that need not be there."""

    def find(self, folder: str) -> Anchor:
        """Follow no link, and open nothing."""
        return Anchor(-1, "", folder, None)


def agreed(config: Any, items: Any, temporary: str | None) -> Agreed:
    """The places of a sandbox where each folder has an anchor."""
    found = Anywhere(str(PROJECT))
    return agree(config, items, anchors=found, writable=["/w"], basetemp=temporary)


def test_without_an_option_nothing_comes_back() -> None:
    """Neither do inputs that look like outputs."""
    assert places(inifilename="a", rootdir="b", cov_config="c", ignore=["d"], xmlpath="e") == []


@pytest.mark.parametrize(
    ("root", "ways"), [("real", ["real/build"]), ("link", ["link/logs", "real/build"])]
)
def test_files_are_asked_for_once_by_each_path_that_leads_to_others(
    root: str, ways: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in the project leads to the same files, and else a log would be added twice."""
    (tmp_path / "real/build").mkdir(parents=True)
    (tmp_path / "real/logs").symlink_to("build")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setattr(f"{__name__}.PROJECT", tmp_path / root)
    found = Anchors(str(tmp_path / root))
    asked = config(log_file="../logs/x")
    made = agree(asked, [], anchors=found, writable=[], basetemp=None).places
    found.close()
    assert [place.folder for place in made] == [f"{tmp_path}/{way}" for way in ways]


def test_an_entry_is_a_file_or_a_folder_or_a_glob() -> None:
    """Exact names come first: a file of two places belongs to the one that allows more."""
    assert places("out", "out/a.py") == [
        ("/srv/project", "out", "**", False),
        ("/srv/project/out", "a.py", "**", False),
        ("/srv/project/out", "", "**", False),
        ("/srv/project/out/a.py", "", "**", False),
    ]
    assert places("out/**/*.xml", "/var/x/*", "/srv/*/x", snapshot_update=True) == [
        ("/srv/project", "", "**/snapshots/**", True),
        ("/srv/project/out", "", "**/*.xml", False),
        ("/var/x", "", "*", False),
        ("/srv", "", "*/x", False),
    ]


@pytest.mark.parametrize("entry", [
    "/", "/proc/x", "/sys/**", "/dev/x", "/dev/../proc/1", ".testmondata", "a/.testmondata-wal",
    ".pymon", ".coverage", "x/.coverage.host", "*/.coverage",
])  # fmt: skip
def test_an_entry_that_can_name_no_file_is_a_usage_error(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a database that a plugin opens on the host."""
    monkeypatch.setattr(f"{__name__}.PROJECT", tmp_path)
    with pytest.raises(pytest.UsageError, match=r"^pytest-gvisor: gvisor_returns = "):
        check(config("fine.txt", entry))
    check(config("fine.txt"))


def test_the_path_of_a_log_comes_back() -> None:
    """The path is relative to where pytest was started, and may lie anywhere."""
    assert places(log_file="x/y.py") == [("/srv/project/here/x", "y.py", "**", True)]
    assert places(log_file=Path("/var/y")) == [("/var", "y", "**", True)]
    assert agreed(config(log_file="y"), [], None).places[0].merged
    assert places(log_file=None) == places(log_file="") == places(log_file=open) == []


@pytest.mark.parametrize("dest", OUTPUT_FOLDERS)
def test_the_folder_of_an_output_option_comes_back(dest: str) -> None:
    """Texts come back there too: the folder is the plugin's own."""
    assert places(**{dest: "x"}) == [("/srv/project/here/x", "", "**", True)]
    assert places(**{dest: "/var/x"}) == [("/var/x", "", "**", True)]


def test_snapshots_come_back_with_their_own_option_alone() -> None:
    """Snapshots lie in a folder of a fixed name, or of the module's."""
    items = [test_item("/srv/project/t/test_a.py"), test_item("/srv/project/t/test_b.py")]
    for dest, glob in SNAPSHOTS.items():
        assert places(items=items, **{dest: True}) == [("/srv/project", "", glob, True)]
        assert places(items=items, **{dest: False}) == places(items=items, **{dest: "x"}) == []
    for dest in DATA_FOLDERS:
        assert places(items=items, **{dest: True}) == [
            ("/srv/project/t/test_a", "", "**", True),
            ("/srv/project/t/test_b", "", "**", True),
        ]


@pytest.mark.parametrize("dest", RECORDINGS)
def test_recordings_come_back_where_they_may_be_written(dest: str) -> None:
    """The mode ``none`` writes nothing, and without the option the mode is the marker's."""
    assert places(**{dest: "once"}) == [("/srv/project", "", "**/cassettes/**", True)]
    assert places(**{dest: "none"}) == places(**{dest: None}) == []


def test_each_option_is_documented() -> None:
    """The table of the docs has each of them, by the name that users write."""
    docs = (Path(__file__).parents[4] / "docs/inside.md").read_text()
    table = docs.partition("## Files that come back")[2].partition("\n    [pytest]")[0]
    assert "`--snapshot-update` (pytest-snapshot)" in table
    written = {
        "log_file": "--log-file",
        "allure_report_dir": "--alluredir", "mpl_generate_path": "--mpl-generate-path",
        "mpl_results_path": "--mpl-results-path", "update_snapshots": "--snapshot-update",
        "snapshot_update": "--snapshot-update", "record_mode": "--record-mode",
        "vcr_record": "--vcr-record", "force_regen": "--force-regen", "regen_all": "--regen-all",
    }  # fmt: skip
    assert written.keys() == {
        "log_file", *OUTPUT_FOLDERS, *SNAPSHOTS, *DATA_FOLDERS, *RECORDINGS,
    }  # fmt: skip
    assert {*re.findall(r"`(--[\w-]+)`", table)} == {*written.values(), "--basetemp"}


def test_no_place_lies_in_a_writable_folder(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are there already. If a link leads out of the project, a note names it."""
    host.written.mkdir(parents=True)
    (host.base / "away").symlink_to("/etc")
    monkeypatch.setattr(f"{__name__}.PROJECT", host.base)
    given = config("data/written/a", "away/x", "b")
    store = Store(Anchors(str(host.base), [str(host.written)]))
    found = agree(given, [], anchors=store.anchors, writable=[], basetemp=str(host.written))
    assert [(place.folder, place.name) for place in found.places] == [
        (str(host.base), "b"), (f"{host.base}/b", ""),
    ]  # fmt: skip
    for _sandbox in "12":
        Taker(store, found)
    note, _other = store.tally.notes
    assert note.startswith(f"files below {host.base}/away stay inside: a link leads")
    with pytest.raises(pytest.UsageError, match="a link leads from"):
        check(given)
    store.close()


def test_the_base_temporary_folder_is_the_host_s() -> None:
    """Each further sandbox has its own below it; a session without temporary folders has none."""
    uses = [test_item("/t.py"), test_item("/t.py", "tmp_path")]
    assert basetemp(config(), uses, 1) == "/tmp/base"
    assert basetemp(config(), uses, 3) == "/tmp/base/sandbox-3"
    assert basetemp(config(), uses[:1], 1) is None
    assert basetemp(config(basetemp="x"), [], 1) == "/tmp/base"
    without = config(basetemp="x")
    del without._tmp_path_factory
    assert basetemp(without, uses, 1) is None


def test_a_temporary_folder_that_is_another_user_s_is_an_error_of_the_tests() -> None:
    """pytest refuses such a folder, and the session goes on."""
    given = config()
    given._tmp_path_factory.getbasetemp = Mock(side_effect=OSError("it is not owned by you"))
    with pytest.raises(LaunchError, match=r"not owned by you\nGive --basetemp"):
        basetemp(given, [test_item("/t.py", "tmp_path")], 1)


@pytest.mark.parametrize("folder", ["/srv/project/tmp", "/imports/tmp", "/linked/tmp"])
def test_no_temporary_folder_comes_back_to_where_the_host_imports(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files there may have any name. A note says so if a test has a temporary folder."""
    (tmp_path / "imports").mkdir()
    (tmp_path / "linked").symlink_to("imports")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "linked")])
    base = folder if folder.startswith("/srv") else os.path.realpath(f"{tmp_path}{folder}")
    found = agreed(config(basetemp=base), [test_item("/t.py", "tmp_path")], base)
    assert found.places == ()
    assert found.notes[0].startswith(f"files below {base} stay inside, because the host imports")
    assert agreed(config(basetemp=base), [test_item("/t.py")], base).notes == ()


@pytest.mark.parametrize(
    ("options", "failed_only"),
    [
        ({}, True),
        ({"basetemp": "x"}, False),
        ({"basetemp": "x", "worker": {"gvisor_basetemp_given": False}}, True),
        ({"basetemp": "x", "worker": {"gvisor_basetemp_given": True}}, False),
        ({"basetemp": "x", "worker": {}}, False),
    ],
)
def test_all_below_it_comes_back_if_the_user_has_given_it(options: Any, failed_only: bool) -> None:
    """To its workers xdist always gives one, and the controller knows whose it is."""
    (place,) = agreed(config(**options), [], "/tmp/base").places
    assert (place.failed_only, place.folder, place.free) == (failed_only, "/tmp/base", True)


def test_the_sandbox_gets_folders_that_the_host_has(tmp_path: Path) -> None:
    """The parent of the base is one of them, and no other folder that is missing."""
    found = agreed(config(f"{tmp_path}/x", "/nowhere/y"), [], "/tmp/a/base")
    command = Taker(Store(Anchors("/p"), files=7, size=8), found).command()
    assert command["folders"] == [str(tmp_path), "/tmp/a"]
    assert (command["files"], command["bytes"]) == (7, 8)
    assert len(command["places"]) == 5
    assert os.path.isdir(tmp_path)
    assert Taker(Store(Anchors("/p")), Agreed(project="/p")).command()["places"] == []


@pytest.mark.parametrize(("size", "longest"), [(0, 30), (1, 31), (5000, 30 + LONGEST_MORE)])
def test_files_in_little_pieces_end_in_time(
    host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch, size: int, longest: float
) -> None:
    """Pieces extend the return of files by what a slow sender needs, and up to a maximum."""
    monkeypatch.setattr("pytest_gvisor.run.budget._SLOWEST", 1000)
    piece, sandbox, begun = file("a", b"x" * size, more=True), Sandbox([]), clock.now

    def receive() -> Message:
        clock.now += 1
        if sandbox.budget.left <= -LATE:
            raise Hangs
        return piece

    monkeypatch.setattr(sandbox, "receive_of_first", receive)
    assert Taker(host.store, host.agreed).receive(cast("Link", sandbox), 2.0)
    assert clock.now - begun <= longest + LATE + 1
    host.store.close()
