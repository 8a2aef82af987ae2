"""Loaded modules on the host: what is asked of the process, and what its replies may decide."""

import importlib.util
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor import InsideError, NotReady, Outcome, RemoteError, SandboxCrashed, UsageError
from pytest_gvisor.base.completed import NoAnswer
from pytest_gvisor.base.errors import PytestGvisorWarning, RemoteAttributeError
from pytest_gvisor.guest.wire import plain
from pytest_gvisor.programs import clock
from pytest_gvisor.sandbox import load
from pytest_gvisor.sandbox.load import Link, Loaded, Remote
from tests.unit.sandbox.conftest import ended

Reply = bytes | BaseException


class Module:
    """The process of a loaded module, without one: each request takes the next reply."""

    def __init__(self) -> None:
        self.replies: list[Callable[[str], Reply]] = []
        self.requests: list[Any] = []
        self.killed = 0
        self.over = True
        self.reads = True
        self.piece = 1 << 30
        self.printed = ""
        self.own_user = 0
        self.outcome: Outcome | None = None
        self.deadlines: list[float] = []
        self.stdout = SimpleNamespace(read=self._read)
        self.channel = SimpleNamespace(gone=False)
        self._data: Reply = b""

    def says(self, value: Any, kind: str = "value") -> None:
        """Reply with a value."""
        self.replies.append(lambda token: encoded((token, kind, value)))

    def says_raw(self, data: Reply) -> None:
        """Reply with these bytes, or fail so at the first read."""
        self.replies.append(lambda _token: data)

    def write_input(self, data: memoryview, deadline: float) -> bool:
        """See `Process.write_input`."""
        self.deadlines.append(deadline - clock.monotonic())
        text = bytes(data)
        assert int.from_bytes(text[:4], "big") == len(text) - 4
        self.requests.append(plain.decoded(text[4:], lambda number, _name: f"handle {number}"))
        if self.reads:
            self._data = self.replies.pop(0)(self.requests[-1][0])
        return self.reads

    def left(self, deadline: float) -> float:
        """See `Peer.left`."""
        return deadline - clock.monotonic()

    def _read(self, size: int, timeout: float) -> bytes:
        assert timeout > 0
        if isinstance(self._data, BaseException):
            raise self._data
        found = self._data[: min(size, self.piece)]
        self._data = self._data[len(found) :]
        return found

    def wait_over(self, deadline: float) -> bool:
        """See `Process.wait_over`."""
        self.deadlines.append(deadline - clock.monotonic())
        return self.over

    def completed(self, outcome: Outcome | None = None) -> Any:
        """See `Process.completed`."""
        self.outcome = outcome
        return SimpleNamespace(end="exit status 3", stderr=self.printed)

    def kill(self) -> None:
        """See `Process.kill`."""
        self.killed += 1


def framed(text: bytes) -> bytes:
    """A message with its size."""
    return len(text).to_bytes(4, "big") + text


def encoded(value: Any) -> bytes:
    """A reply; a `Whole` of a number is the handle of that number."""
    return framed(plain.encoded(value, lambda whole: ["h", whole.value, "a.Type"], arrays=False))


@pytest.fixture
def module() -> Module:
    """A process without replies."""
    return Module()


@pytest.fixture
def link(module: Module) -> Link:
    """The link to it, with a deadline of 60 s."""
    return Link(module, 60.0)  # type: ignore[arg-type]


def handle(link: Link, number: int = 7) -> Remote:
    """A handle of the link's."""
    return Remote(link, number, "a.Type")


def asked(module: Module) -> list[Any]:
    """Each request: what it does, with what, the arguments, and those with names."""
    return [(act, target, args, named) for _, act, _, _, target, args, named in module.requests]


def test_a_value_comes_back(module: Module, link: Link) -> None:
    """In pieces too. A request has a token that no other one had, and the deadline of its call."""
    module.piece = 3
    for value in ([1, "two", None], {"a": b"\0"}):
        module.says(value)
        assert link.ask("call", "f", 1, named={"x": 2}) == value
    assert asked(module) == [("call", "f", (1,), {"x": 2})] * 2
    first, second = (request[0] for request in module.requests)
    assert (len(first), first != second) == (16, True)
    module.says(1)
    link.ask("get", None, seconds=5.0)
    assert [round(left) for left in module.deadlines] == [60, 60, 5]
    assert module.requests[-1][6] == {}
    assert module.killed == 0


def test_handles_that_are_gone_are_named_once(module: Module, link: Link) -> None:
    """Also after a request that could not be sent."""
    one, other = handle(link), handle(link, 8)
    del one
    with pytest.raises(UsageError, match="takes data and its own handles, not <object"):
        link.ask("call", object())
    del other
    for _ in range(2):
        module.says(None)
        link.ask("get", None)
    assert [request[3] for request in module.requests] == [[7, 8], []]


def test_a_handle_is_sent_to_its_own_module_alone(module: Module, link: Link) -> None:
    """The number would be of another object there."""
    module.says(None)
    link.ask("call", handle(link), [handle(link, 8)])
    assert asked(module)[0][1:3] == ("handle 7", (["handle 8"],))
    with pytest.raises(UsageError, match="its own handles"):
        link.ask("call", handle(Link(module, 1.0)))  # type: ignore[arg-type]


def test_arguments_that_are_too_much_are_not_sent(
    module: Module, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module goes on."""
    monkeypatch.setattr(plain, "MAX_BYTES", 200)
    with pytest.raises(NoAnswer, match="the arguments cannot be sent: more than 200 bytes"):
        link.ask("call", "x" * 200)
    module.says(1)
    assert (link.ask("get", None), len(module.requests), module.killed) == (1, 1, 0)


def test_handles_are_bounded(module: Module, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle that the host has no more gives its place to another."""
    monkeypatch.setattr(plain, "MAX_HANDLES", 2)
    module.says([plain.Whole(1), plain.Whole(2)])
    found = link.ask("call", None)
    assert [type(one) for one in found] == [Loaded, Loaded]
    found.pop()
    module.says(plain.Whole(3))
    found.append(link.ask("call", None))
    assert (type(found[1]), found[1]._gvisor_number) == (Remote, 3)
    module.says([plain.Whole(4)])
    with pytest.raises(NoAnswer, match="more than 2 handles"):
        link.ask("call", None)
    assert module.killed == 1


FORGED: dict[str, tuple[Callable[[str], bytes], str]] = {
    "a value for another call": (lambda _: encoded(("0" * 16, "value", 1)), "to another call"),
    "an error for another call": (
        lambda _: encoded(("0" * 16, "error", ("E", "", ""))), "to another call"
    ),
    "a value of another type": (lambda token: encoded((token, "value", "1")), "of another form"),
    "another kind": (lambda token: encoded((token, "values", 1)), "of another form"),
    "a list": (lambda token: encoded([token, "val", 1]), "of another form"),
    "too few": (lambda token: encoded((token, "value")), "of another form"),
    "too many": (lambda token: encoded((token, "value", 1, 1)), "of another form"),
    "an error with names in a list": (
        lambda token: encoded((token, "error", (["E"], "", ""))), "of another form"
    ),
    "an error without a trace": (
        lambda token: encoded((token, "error", ("E", "", None))), "of another form"
    ),
    "no text": (lambda _: encoded(1), "of another form"),
    "no JSON": (lambda _: framed(b"["), ""),
    "no UTF-8": (lambda _: framed(b"\xff"), ""),
    "nothing": (lambda _: framed(b""), ""),
    "a number": (lambda _: framed(b"1"), "JSON that is no value"),
    "an odd handle": (lambda _: framed(b'["h",1.5,"x"]'), ""),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_reply_is_no_answer(module: Module, link: Link, forged: str) -> None:
    """The process is killed, and each later call says why."""
    reply, words = FORGED[forged]
    module.replies.append(reply)
    module.printed = "x" * 3000 + "the end \n\n"
    with pytest.raises(NoAnswer) as found:
        link.ask("call", None, wanted=int)
    said, *printed = str(found.value).split("\n")
    assert said.startswith("the loaded module gave no answer: ")
    assert words in said
    assert printed == [f"| {'x' * 1990}the end"]
    assert found.value.completed is not None
    assert (module.killed, module.outcome) == (1, None)
    with pytest.raises(NoAnswer, match="the loaded module is gone: ") as again:
        link.ask("call", None)
    assert words in str(again.value)
    assert (module.killed, len(module.requests)) == (1, 1)


def test_what_a_forged_reply_says_is_short_and_escaped(module: Module, link: Link) -> None:
    """The error of a reader may have any of the module's text."""
    module.says_raw(framed(json.dumps(["f", "\x1b" + "9" * 3000]).encode()))
    with pytest.raises(NoAnswer) as found:
        link.ask("call", None)
    assert "\x1b" not in str(found.value)
    assert "\\x1b" in str(found.value)
    assert 1900 < len(str(found.value)) < 2100


@pytest.mark.parametrize(
    ("problem", "words", "outcome"),
    [
        (NotReady("x"), "no answer within 60 s", Outcome.TIMED_OUT),
        (
            SandboxCrashed("the sentry is gone", completed=ended()),
            "the sentry is gone",
            Outcome.SANDBOX_CRASHED,
        ),
        (MemoryError("too\x1bmuch"), r"too\x1bmuch", None),
    ],
)
def test_a_reply_that_cannot_be_read_is_no_answer(
    module: Module, link: Link, problem: BaseException, words: str, outcome: Outcome | None
) -> None:
    """The verdict is that of the sandbox or of the deadline."""
    module.says_raw(problem)
    with pytest.raises(NoAnswer) as found:
        link.ask("call", None)
    assert str(found.value).split("\n")[0] == f"the loaded module gave no answer: {words}"
    assert (module.outcome, module.killed) == (outcome, 1)


@pytest.mark.parametrize("spec", [None, "found"])
def test_arrays_are_data_where_the_host_has_numpy(
    module: Module, monkeypatch: pytest.MonkeyPatch, spec: object
) -> None:
    """Each request has the answer for the module's process."""
    monkeypatch.setattr(importlib.util, "find_spec", {"numpy": spec}.get)
    module.says(1)
    Link(module, 60.0).ask("call", None)  # type: ignore[arg-type]
    assert module.requests[0][2] is bool(spec)


def test_a_call_without_time_is_not_read(module: Module, link: Link) -> None:
    """Bytes may be there at each deadline."""
    module.says(1)
    assert link.ask("call", None, seconds=0.9) == 1
    module.says(1)
    with pytest.raises(NoAnswer, match="no answer within 0 s"):
        link.ask("call", None, seconds=0.0)
    assert module.outcome is Outcome.TIMED_OUT


def test_values_that_take_long_to_read_have_the_call_s_deadline(
    module: Module, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may choose keys that each take long to add."""

    def late(text: bytes, _handle: object, deadline: float) -> None:
        assert 0 < deadline - clock.monotonic() <= 5
        assert len(text) > 9
        raise TimeoutError

    monkeypatch.setattr(plain, "decoded", late)
    monkeypatch.setattr(Module, "write_input", lambda *_: True)
    module._data = encoded(["some", "text"])
    with pytest.raises(NoAnswer, match="no answer within 5 s"):
        link.ask("call", None, seconds=5.0)
    assert module.outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_an_end_of_the_process_is_no_answer(
    module: Module, link: Link, over: bool, reads: bool
) -> None:
    """Before or after it has read the request. Its end is waited for, for a while."""
    module.over, module.reads = over, reads
    module.says_raw(b"\0\0")
    end = "its process has ended: exit status 3" if over else "it has closed its stream of replies"
    with pytest.raises(NoAnswer, match=end):
        link.ask("call", None)
    assert round(module.deadlines[-1]) == 5
    assert module.killed == 1


def test_the_end_is_waited_for_no_longer_than_the_call(module: Module, link: Link) -> None:
    """The deadline of a call may be near."""
    module.says_raw(b"")
    with pytest.raises(NoAnswer):
        link.ask("call", None, seconds=2.0)
    assert 0 < module.deadlines[-1] <= 2


def test_a_reply_has_a_bound(module: Module, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that is larger is not read."""
    size = len(encoded(("0" * 16, "value", "x" * 300))) - 4
    monkeypatch.setattr(plain, "MAX_BYTES", size)
    module.says("x" * 300)
    assert (link.ask("call", None), link.received) == ("x" * 300, size)
    module.says("y")
    link.ask("call", None)
    assert link.received == 2 * size - 299
    module.says_raw((size + 1).to_bytes(4, "big"))
    with pytest.raises(NoAnswer, match=f"a reply of {size + 1} bytes"):
        link.ask("call", None)


def test_a_module_that_was_closed_before_its_sandbox_is_gone_and_has_not_crashed(
    module: Module, link: Link
) -> None:
    """A harness reads of the outcome what a submission has done."""
    link.close()
    module.channel.gone = True
    with pytest.raises(NoAnswer, match="the loaded module is gone: it was closed") as found:
        link.ask("call", None)
    assert found.value.completed is None


def test_an_interrupted_call_ends_the_process(module: Module, link: Link) -> None:
    """The rest of its reply would be read as the next one's."""
    module.says_raw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        link.ask("call", None)
    with pytest.raises(NoAnswer, match="the loaded module is gone: an earlier call was interrupt"):
        link.ask("call", None)
    assert module.killed == 1


def test_an_exception_of_the_module_is_an_error(module: Module, link: Link) -> None:
    """The process goes on. Its names, its text and its trace are texts of the module's."""
    module.says(("KeyError LookupError", "'x'", "File s.py"), "error")
    with pytest.raises(RemoteError) as found:
        link.ask("call", None)
    error = found.value
    assert not isinstance(error, AttributeError)
    assert (error.type_names, error.text) == (("KeyError", "LookupError"), "'x'")
    assert error.traceback == "File s.py"
    module.says(("X AttributeError", "", ""), "error")
    with pytest.raises(RemoteAttributeError):
        link.ask("get", None)
    module.says((" ".join(map(str, range(9000))), "", ""), "error")
    with pytest.raises(RemoteError) as found:
        link.ask("get", None)
    assert found.value.type_names == tuple(map(str, range(50)))
    module.says(("x " * 50 + "AttributeError", "", ""), "error")
    with pytest.raises(RemoteAttributeError):
        link.ask("get", None)
    module.says(("x " * 51 + "AttributeError", "", ""), "error")
    with pytest.raises(RemoteError) as found:
        link.ask("get", None)
    assert not isinstance(found.value, AttributeError)
    assert module.killed == 0


def test_a_handle_s_names_are_asked_for(module: Module, link: Link) -> None:
    """Each act has a request of its own."""
    one = handle(link)
    for _ in range(5):
        module.says("found")
    assert (one.name, one["key"], one(1, x=2)) == ("found",) * 3
    one.name = 3
    one["key"] = 4
    assert asked(module) == [
        ("get", "handle 7", ("name",), {}), ("item", "handle 7", ("key",), {}),
        ("call", "handle 7", (1,), {"x": 2}), ("set", "handle 7", ("name", 3), {}),
        ("put", "handle 7", ("key", 4), {}),
    ]  # fmt: skip


def test_names_of_protocols_are_not_asked_for(module: Module, link: Link) -> None:
    """By these, the object could have the host read any memory."""
    one = handle(link)
    for name in ("__array_interface__", "__len__", "____"):
        with pytest.raises(AttributeError, match=f"is not asked for {name}"):
            getattr(one, name)
    for name in ("__half", "half__"):
        module.says(name)
        assert getattr(one, name) == name
    with pytest.raises(TypeError, match="has no truth value"):
        bool(one)
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        one.__reduce__()
    assert len(module.requests) == 2


def test_a_handle_shows_its_type_in_a_line(link: Link) -> None:
    """The name has 200 characters at most, and hidden ones are escaped."""
    assert repr(handle(link)) == "<unverified a.Type in the sandbox>"
    made = Remote(link, 1, "a\n b\x1b" + "x" * 300)
    assert repr(made) == f"<unverified a b\\x1b{'x' * 195} in the sandbox>"


def test_items_come_in_parts(module: Module, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts have the time of one call together."""
    now = [clock.monotonic()]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    module.says(plain.Whole(9))
    for part in ((1, 2), (3,), ()):
        module.says(part)
    found = []
    for item in handle(link):
        found.append(item)
        if item == 1:
            now[0] += 20.0  # of the test, which is not the module's
    assert found == [1, 2, 3]
    assert [request[1] for request in module.requests] == ["iter", *["next"] * 3]
    assert [request[4] for request in module.requests] == ["handle 7", *["handle 9"] * 3]
    assert module.deadlines == pytest.approx([60.0] * 4)


def test_items_without_end_have_the_time_of_one_call(
    module: Module, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part has what the parts before have left."""
    now = [clock.monotonic()]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])

    def slow(token: str) -> bytes:
        now[0] += 20.0
        return encoded((token, "value", (1,)))

    module.says(plain.Whole(9))
    module.replies += [slow] * 9
    found: list[Any] = []
    with pytest.raises(NoAnswer, match="no answer within 20 s"):
        found.extend(handle(link))
    assert found == [1, 1]


def test_no_part_has_less_than_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply may take a little longer than its deadline."""
    now, given = [0.0], []

    class Late(Link):
        def ask(self, act: str, *_: Any, seconds: float | None = None, **__: Any) -> Any:
            given.append(seconds)
            now[0] += 61.0 if act == "next" else 0.0
            return handle(self) if act == "iter" else () if len(given) > 3 else (1,)

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    link = Late(Module(), 60.0)  # type: ignore[arg-type]
    assert list(handle(link)) == [1, 1]
    assert given == [None, 60.0, 0.0, 0.0]


def test_items_without_end_have_the_bytes_of_one_call(
    module: Module, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process could fill the host's memory in small parts."""
    part = len(encoded(("0" * 16, "value", ("x" * 300,)))) - 4
    monkeypatch.setattr(plain, "MAX_BYTES", 2 * part)
    module.says(plain.Whole(9))
    for _ in range(9):
        module.says(("x" * 300,))
    found: list[Any] = []
    with pytest.raises(NoAnswer, match=f"more than {2 * part} bytes of items"):
        found.extend(handle(link))
    assert found == ["x" * 300] * 2


def test_items_that_are_no_tuple_are_no_answer(module: Module, link: Link) -> None:
    """A reply of another type could end the loop, or never end it."""
    module.says(plain.Whole(9))
    module.says([1])
    with pytest.raises(NoAnswer, match="of another form"):
        list(handle(link))


def test_a_context_is_left_with_what_the_test_has_raised(module: Module, link: Link) -> None:
    """The object learns that there is an exception, and can neither replace nor suppress it."""
    one = handle(link)
    for value in ("entered", True, "entered"):
        module.says(value)
    with one as entered:
        assert entered == "entered"
    module.says(("E", "", ""), "error")
    with pytest.raises(ZeroDivisionError), one:
        raise ZeroDivisionError
    assert [(act, args) for act, _, args, _ in asked(module)] == [
        ("enter", ()), ("exit", (None,)), ("enter", ()), ("exit", ("the test has raised",)),
    ]  # fmt: skip
    module.says("entered")
    module.says(("E", "", ""), "error")
    with pytest.raises(RemoteError), one:
        pass
    module.says("entered")
    module.says_raw(framed(b""))
    before = len(module.requests)
    with pytest.raises(NoAnswer, match="no answer: "), one:
        link.ask("call", None)
    assert len(module.requests) == before + 2


def test_the_end_of_a_loaded_module_kills_its_process(module: Module, link: Link) -> None:
    """Once; a later call says so."""
    made = Loaded(link, 1, "module")
    with made as same:
        assert same is made
    link.close()
    assert module.killed == 1
    with pytest.raises(NoAnswer, match="the loaded module is gone: it was closed"):
        made.name  # noqa: B018


def test_calls_of_several_threads_come_one_after_another(module: Module, link: Link) -> None:
    """A reply is that of the last request."""
    under_way, most = [0], [0]

    def reply(token: str) -> bytes:
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        time.sleep(0.01)
        under_way[0] -= 1
        return encoded((token, "value", 1))

    module.replies += [reply] * 8
    threads = [threading.Thread(target=link.ask, args=("call", None)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, module.killed) == ([1], 0)


# Sources and the start.


def test_a_name_is_a_module_of_the_sandbox(tmp_path: Path) -> None:
    """A file of the host has a folder or ends in .py."""
    source = tmp_path / "solution.py"
    source.write_bytes(b"x = 1\n")
    (tmp_path / "other").write_bytes(b"y")
    assert load._found("package") == ("package", None, "package")
    assert load._found(source) == ("solution", b"x = 1\n", "solution.py")
    assert load._found(str(tmp_path / "other")) == ("other", b"y", "other")


def test_what_is_no_file_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link could name any file of this user's, and a FIFO would wait."""
    monkeypatch.chdir(tmp_path)
    Path("real.py").write_bytes(b"")
    Path("link.py").symlink_to("real.py")
    os.mkfifo("fifo.py")
    Path("folder.py").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.py")
    for name, problem in (
        ("link.py", "Too many levels of symbolic links"),
        ("fifo.py", "it is no regular file"),
        ("folder.py", "[Ii]s a directory|it is no regular file"),
        ("socket.py", "No such device or address"),
        ("missing.py", "No such file or directory"),
        ("nul\0.py", "embedded null byte"),
    ):
        shown = name.replace("\0", r"\\x00")
        with pytest.raises(UsageError, match=f"cannot load {shown}: {problem}\n") as found:
            load._found(name)
        assert "no link, or a module that the sandbox has" in str(found.value)
    assert load._found("./real.py") == ("real", b"", "real.py")


def test_a_source_is_read_as_far_as_a_message_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be of any size."""
    monkeypatch.setattr(plain, "MAX_BYTES", 3)
    (tmp_path / "x.py").write_bytes(b"12345")
    assert load._found(tmp_path / "x.py")[1] == b"123"


def test_each_load_has_a_user_of_its_own(module: Module) -> None:
    """Far above those of any system, so that no other process may open its pipes."""
    calls: list[Any] = []

    def popen(args: list[str], **more: Any) -> Any:
        calls.append((args, more))
        return module

    users = set()
    for _ in range(20):
        module.says(plain.Whole(1))
        made = load.load(popen, "/guest", "package", "/there", 30.0)
        (args, more) = calls[-1]
        assert args == ["python3", "-I", "-u", "/guest/warm/loaded.py"]
        user = module.own_user
        assert more == {"cwd": "/there", "user": (user, user), "env": {"HOME": "/nonexistent"}}
        assert 10**9 <= user < 2 * 10**9
        users.add(user)
        assert (type(made), made._gvisor_link.timeout) == (Loaded, 30.0)
    assert len(users) == 20
    assert asked(module)[-1] == ("load", None, ("package", None, "package"), {})
    assert (load._FIRST_USER, module.killed) == (10**9, 0)


def test_a_module_that_cannot_be_loaded_leaves_no_process(module: Module) -> None:
    """Its import has raised, or its reply is no module."""
    module.says(("ImportError", "no", ""), "error")
    with pytest.raises(RemoteError, match="ImportError: no"):
        load.load(lambda *_, **__: module, "/guest", "package", None, 30.0)  # type: ignore[arg-type]
    assert module.killed == 1
    module.says(1)
    with pytest.raises(NoAnswer, match="of another form"):
        load.load(lambda *_, **__: module, "/guest", "package", None, 30.0)  # type: ignore[arg-type]
    assert module.killed == 2


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (InsideError("no python3", errno=2), "A load needs python3 in the sandbox"),
        (NotReady("late"), "A load needs python3 in the sandbox"),
        (SandboxCrashed("gone", completed=ended()), "A load needs python3 in the sandbox"),
        (PytestGvisorWarning("it is slow"), "The next load has another sandbox"),
    ],
)
def test_a_process_that_cannot_be_started_is_no_answer(error: Exception, step: str) -> None:
    """The message names the step."""

    def popen(*_args: Any, **_more: Any) -> Any:
        raise error

    with pytest.raises(NoAnswer) as found:
        load.load(popen, "/guest", "package", None, 30.0)
    assert str(found.value).startswith(f"no process for package: {error}\n{step}")
