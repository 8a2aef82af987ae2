"""Names and addresses that a sandbox asks for: what the relay resolves, tries and refuses."""

import contextlib
import errno
import os
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_gvisor.guest.wire.mux import CREDIT, DATA, RESET, WINDOW
from pytest_gvisor.programs import relay
from tests.unit.programs.relays import Guest, answers, both, held_up, running, serving


@contextlib.contextmanager
def sandbox(path: Path, serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """A socket as a sandbox has it for a port, which serves one connection; yields its entry."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def once() -> None:
            with listener.accept()[0] as peer:
                serve(peer)

        thread = threading.Thread(target=once)
        thread.start()
        yield f"db:5432={path}"
        thread.join(30)


@pytest.mark.parametrize(
    ("answer", "problem"), [(b"\x6f", "Connection refused"), (b"", "no answer")]
)
def test_the_reason_of_another_sandbox_is_told(tmp_path: Path, answer: bytes, problem: str) -> None:
    """The reason is an error number in one byte. Without one, the sandbox has ended meanwhile."""
    served = sandbox(tmp_path / "s", lambda peer: peer.sendall(answer))
    with served as entry, running([entry]) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"] == f"from the other sandbox: {problem}"


def test_a_sandbox_that_is_closed_is_named(tmp_path: Path) -> None:
    """Whether its socket is gone, or nobody listens on it any more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "left"))
    with running([f"a:1={tmp_path}/left", f"b:1={tmp_path}/gone"]) as one:
        for number in (1, 2):
            one.guest.open(number, number - 1)
            assert one.guest.frame() == (RESET, number, b"")
        problems = [found["problem"] for found in one.counts()]
        assert problems == ["the other sandbox is closed"] * 2


def test_a_sandbox_that_ends_resets_a_connection(tmp_path: Path) -> None:
    """A unix socket has no reset, and yet no client takes a part for the whole."""

    def serve(peer: socket.socket) -> None:
        peer.sendall(b"\0part")

    place = "127.64.0.1:5432"
    with sandbox(tmp_path / "s", serve) as entry, both([entry], [place]) as outer:
        with (
            socket.create_connection(("127.64.0.1", 5432)) as client,
            pytest.raises(ConnectionResetError),
        ):
            client.makefile("rb").read()
        (found,) = outer.counts()
        assert (found["reached"], found["received"]) == (1, len(b"part"))


def test_an_address_that_leads_to_a_sandbox_is_allowed_for_no_name() -> None:
    """Else a name could have that port of the host's loopback."""
    with running(
        ["127.0.0.1:5432=/gone", "evil.example:5432"], resolver=answers("127.0.0.1")
    ) as one:
        one.guest.open(1, 1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert "which is loopback" in one.counts()[1]["problem"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::",
                "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "192.0.0.9", "fe80::1%lo", "::1",
                "0.0.0.0", "::", "224.0.0.1", "fd00:ec2::254"],
)  # fmt: skip
def test_a_name_that_answers_with_an_address_that_is_not_public_is_refused(address: str) -> None:
    """One of its addresses is enough, and nothing is tried."""
    with running(["evil.example:9"], resolver=answers("1.1.1.1", address)) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        (found,) = one.counts()
        assert (found["reached"], found["refused"]) == (0, 1)
        assert f"the name answers with {address}, which is " in str(found["problem"])


def test_the_address_itself_may_be_allowed_for_its_port_alone() -> None:
    """The entry of another port allows nothing."""
    with serving() as server:
        name, own = f"db.example:{server.port}", f"127.0.0.1:{server.port}"
        with running([name, own], resolver=answers("127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame() == (CREDIT, 1, struct.pack("!I", WINDOW))
        with running([name, "127.0.0.1:1"], resolver=answers("127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame() == (RESET, 1, b"")
    assert server.accepted == 1


def test_a_name_that_changes_its_answer_is_judged_at_each_connection() -> None:
    """Rebinding: first an address that it may have, then another of the host's loopback."""
    told = iter([["127.0.0.1"], ["127.0.0.9"]])
    with serving() as server:
        entries = [f"evil.example:{server.port}", f"127.0.0.1:{server.port}"]
        with running(entries, resolver=lambda _host, _port: next(told)) as one:
            one.guest.open(1)
            assert one.guest.frame()[:2] == (CREDIT, 1)
            one.guest.open(2)
            assert one.guest.frame() == (RESET, 2, b"")
            assert "127.0.0.9, which is loopback" in str(one.counts()[0]["problem"])
    assert server.accepted == 1


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    """The relay does as a client does."""
    with serving() as server:
        port = server.port
        entries = [f"db.example:{port}", f"127.0.0.1:{port}", f"127.0.0.9:{port}"]
        with running(entries, resolver=answers("127.0.0.9", "127.0.0.1")) as one:
            one.guest.open(1)
            assert one.guest.frame()[0] == CREDIT


def test_a_name_that_does_not_resolve_is_an_error_that_says_so() -> None:
    """The real resolver: RFC 6761 keeps this name from ever being there."""
    with running(["no-such-name.invalid:443"]) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert str(one.counts()[0]["problem"]).startswith("the name does not resolve: ")


def test_a_resolver_that_does_not_answer_holds_up_no_other_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And after some time its connection is refused."""
    held = threading.Event()

    with serving() as server:
        entries = ["slow.example:443", f"127.0.0.1:{server.port}"]
        with running(entries, resolver=held_up(held)) as one:
            one.guest.open(1)
            one.guest.open(2, entry=1)
            assert one.guest.frame()[:2] == (CREDIT, 2)
            monkeypatch.setattr(relay, "PATIENCE", 0.2)
            one.guest.open(3)
            assert one.guest.frame() == (RESET, 3, b"")
            assert one.counts()[0]["problem"] == "no answer in 0.2 s"
            held.set()
            assert one.guest.frame() == (RESET, 1, b"")


@pytest.mark.parametrize(
    ("error", "problem"), [(OSError(-2, "no such name"), "no such name"), (OSError("odd"), "odd")]
)
def test_the_resolver_s_error_is_the_problem(error: OSError, problem: str) -> None:
    """An error without a number has a text as well."""

    def resolver(_host: str, _port: int) -> Sequence[str]:
        raise error

    with running(["a.example:9"], resolver=resolver) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"] == f"the name does not resolve: {problem}"


@pytest.mark.parametrize(("address", "own"), [("::1", "[::1]:9"), ("127.0.0.1", "127.0.0.1:9")])
def test_the_problem_names_the_entry_that_would_allow_it(address: str, own: str) -> None:
    """A user may copy it; an address of IPv6 has brackets."""
    with running(["a.example:9"], resolver=answers(address)) as one:
        one.guest.open(1)
        assert one.guest.frame() == (RESET, 1, b"")
        assert one.counts()[0]["problem"].endswith(f"loopback: allow '{own}' too if that is meant")


def test_addresses_are_tried_in_the_resolver_s_order() -> None:
    """The last one's problem is shown."""
    with socket.socket() as nobody_else_s:
        nobody_else_s.bind(("", 0))
        port = nobody_else_s.getsockname()[1]
        entries = [f"a.example:{port}", f"127.0.0.1:{port}", f"127.0.0.9:{port}"]
        with running(entries, resolver=answers("127.0.0.1", "127.0.0.9")) as one:
            one.guest.open(1)
            assert one.guest.frame() == (RESET, 1, b"")
            assert one.counts()[0]["problem"] == "127.0.0.9: Connection refused"


def test_a_relay_without_descriptors_refuses_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address is tried, and other connections stay as they are."""
    tried: list[int] = []

    def none_left(family: int, _kind: int) -> socket.socket:
        tried.append(family)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    entries = ["127.0.0.1:9", "::1:9", "a.example:9", f"db:1={tmp_path}/s"]
    with running(entries, resolver=answers("::1", "127.0.0.1")) as one:
        monkeypatch.setattr(socket, "socket", none_left)
        for entry in (2, 3):
            one.guest.open(entry, entry)
            assert one.guest.frame() == (RESET, entry, b"")
        monkeypatch.undo()
        problems = [found["problem"] for found in one.counts()[2:]]
    assert problems == ["127.0.0.1: Too many open files", "Too many open files"]
    assert tried == [socket.AF_INET6, socket.AF_INET, socket.AF_UNIX]


def test_eight_names_are_resolved_at_once() -> None:
    """Others wait for their turn. The threads end with the relay, or with its program."""
    held, told = threading.Event(), queue.SimpleQueue[threading.Thread]()

    def resolver(host: str, _port: int) -> Sequence[str]:
        told.put(threading.current_thread())
        held.wait(30)
        return [host.removesuffix(".example")]

    with running([f"10.0.0.{number}.example:9" for number in range(10)], resolver=resolver) as one:
        for number in range(10):
            one.guest.open(number + 1, number)
        threads = {told.get(timeout=30) for _ in range(8)}
        assert (one.counts()[9]["refused"], len(threads)) == (0, 8)
        held.set()
        refused = sorted(one.guest.frame() for _ in range(10))
        assert refused == [(RESET, number, b"") for number in range(1, 11)]
        for number, found in enumerate(one.counts()):
            assert f"answers with 10.0.0.{number}, which is private" in found["problem"]
        assert {told.get(), told.get()} <= threads
    for thread in threads:
        assert thread.daemon
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.usefixtures("fewer")
def test_names_that_the_sandbox_has_given_up_are_bounded() -> None:
    """Each waits for the resolver: eight are with it, and 50 wait. The next connection is made."""
    held, told = threading.Event(), queue.SimpleQueue[None]()

    def resolver(_host: str, _port: int) -> Sequence[str]:
        told.put(None)
        return ["127.0.0.1"] if held.wait(30) else []

    with serving() as server:
        entries = [f"slow.example:{server.port}", f"127.0.0.1:{server.port}"]
        with running(entries, resolver=resolver) as one:
            for number in range(1, 59):
                one.guest.open(number)
                one.guest.send(RESET, number)
                if number <= 8:
                    told.get(timeout=30)
            assert one.counts()[0]["refused"] == 0
            one.guest.open(59)
            assert one.guest.frame() == (RESET, 59, b"")
            found = one.counts()[0]
            assert (found["refused"], found["problem"]) == (
                1, "too many names wait for the resolver"
            )  # fmt: skip
            held.set()
            for _ in range(50):
                told.get(timeout=30)
            one.guest.open(60)
            assert one.guest.frame()[:2] == (CREDIT, 60)
    assert server.accepted == 1


def test_a_host_that_is_reached_at_once_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may answer a connect with success, and not with one that is in progress."""

    class Fast(socket.socket):
        def connect_ex(self, address: object) -> int:
            self.setblocking(True)
            code = super().connect_ex(address)  # type: ignore[arg-type]
            self.setblocking(False)
            return code

    with serving() as server, running([f"127.0.0.1:{server.port}"]) as one:
        monkeypatch.setattr(socket, "socket", Fast)
        one.guest.open(1)
        assert one.guest.frame()[:2] == (CREDIT, 1)
        monkeypatch.undo()


def test_a_name_is_resolved_to_addresses() -> None:
    """A text of the resolver's, without its port."""
    assert relay.resolve("127.0.0.1", 9) == ["127.0.0.1"]
    assert relay.resolve("::1", 9) == ["::1"]


@pytest.mark.parametrize(
    ("wish", "entries"),
    [
        ("A.b.example.:65535", ["a.b.example:65535", "*.b.example:65535", "*.example:65535"]),
        ("[::1]:9", ["[::1]:9"]), ("::1:9", ["[::1]:9"]), ("1.2.3.4:9", ["1.2.3.4:9"]),
    ],
)  # fmt: skip
def test_the_entries_that_would_allow_a_wish(wish: str, entries: list[str]) -> None:
    """The nearest first; an address has one alone."""
    assert relay.covering(wish) == entries


def test_a_port_has_five_digits_at_most() -> None:
    """Another spelling of a port is another wish."""
    with pytest.raises(ValueError, match="no HOST:PORT"):
        relay.covering("a.example:000009")


def test_a_name_below_an_entry_with_a_star_is_reached() -> None:
    """At any depth, in any case of letters. Its entry has the figures, and so has the name."""
    asked: list[str] = []

    def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with serving() as server:
        port = server.port
        entries = [f"*.b.example:{port}", f"*.example:{port}", f"127.0.0.1:{port}"]
        with running(entries, resolver=resolver) as one:
            for number, name in enumerate(["a.example", "A.B.EXAMPLE.", "x.y.z.b.example"], 1):
                one.guest.ask(number, f"{name}:{port}".encode())
                assert one.guest.frame()[:2] == (CREDIT, number)
            one.guest.send(DATA, 1, b"hello")
            assert one.guest.frame() == (DATA, 1, b"hello")
            found = one.report()
    assert asked == ["a.example", "a.b.example", "x.y.z.b.example"]
    assert [entry["reached"] for entry in found["entries"]] == [2, 1, 0]
    assert [(name["entry"], name["sent"]) for name in found["names"]] == [
        (f"a.example:{port}", 5), (f"a.b.example:{port}", 0), (f"x.y.z.b.example:{port}", 0)
    ]  # fmt: skip


def test_an_entry_of_its_own_is_reached_by_the_proxy_too() -> None:
    """Programs that use the proxy ask it for every host. Such a name needs no figures beside."""
    with serving() as server:
        port = server.port
        entries = ["*.example:9", f"db.example:{port}", f"127.0.0.1:{port}"]
        with running(entries, resolver=answers("127.0.0.1")) as one:
            for number, host in enumerate(["db.example", "127.0.0.1", "[127.0.0.1]"], 1):
                one.guest.ask(number, f"{host}:{port}".encode())
                assert one.guest.frame()[:2] == (CREDIT, number)
            found = one.report()
    assert [entry["reached"] for entry in found["entries"]] == [0, 1, 2]
    assert found["names"] == []


ODD = {
    "not in the list": [
        b"example.com:443", b"a.example.com:80", b"a.example.com:0443", b"example.com.evil.com:443",
        b"evilexample.com:443", b"a.example.com.evil.com:443", b"localhost:443",
        b"169.254.169.254:443", b"[::ffff:127.0.0.1]:443", b"[::1]:443",
    ],
    "no host name": [
        b"evil.com#.example.com:443", b"evil.com/.example.com:443", b"evil.com\0.example.com:443",
        b"evil.com\n.example.com:443", b"evil.com%00.example.com:443",
        b"evil.com:80@a.example.com:443", b"evil.com:443:443", b"*.example.com:443",
        b".example.com:443", b"..example.com:443", b"a.example.com..:443", b"a b.example.com:443",
        b"-a.example.com:443", "b\xfccher.example.com:443".encode(), "a。example.com:443".encode(),
        "\u212a.example.com:443".encode(), b"x" * 64 + b".example.com:443",
        b"x." * 125 + b"example.com:443", b"x" * 32000 + b".example.com:443",
        b"[a.example.com]:443", b":443", b"[fe80::1%\n127.0.0.1:80: reached]:443",
        b"fe80::1%" + b"\1" * 30000 + b":443",
    ],
    "an odd spelling of an address": [b"127.1:443", b"2130706433:443", b"0x7f.0.0.1:443"],
    "no HOST:PORT": [
        b"nowhere", b"a.example.com", b"a.example.com:", b"a.example.com:443 ",
        b"a.example.com:-443", b"a.example.com:\xb2", b"a.example.com:" + b"4" * 5000, b"",
    ],
}  # fmt: skip


ALLOWED = {b"a.example.com:80": "a.example.com:80", b"[::1]:443": "[::1]:443"}


@pytest.mark.parametrize("problem", ODD)
def test_any_other_name_is_refused_and_never_resolved(problem: str) -> None:
    """The report says why, in bounded text without odd letters, and the relay goes on."""
    with running(["*.example.com:443"], resolver=lambda *_: pytest.fail("resolved")) as one:
        for at, wish in enumerate(ODD[problem]):
            for number in (2 * at + 1, 2 * at + 2):
                one.guest.ask(number, wish)
                assert one.guest.frame() == (RESET, number, b"")
            name = one.report()["names"][at]
            assert name["problem"].startswith(problem), wish
            if wish in ALLOWED:
                assert name["problem"].endswith(f": allow '{ALLOWED[wish]}' if that is meant")
            assert (name["refused"], name["reached"]) == (2, 0)
            assert len(name["entry"]) <= 260
            assert len(name["entry"]) == 260 or len(wish) < 260
            assert (name["entry"] == "nowhere") == (wish == b"nowhere")
            assert name["entry"].isascii()
            assert name["entry"].isprintable()
        assert one.counts()[0]["refused"] == 0


def test_ten_thousand_names_are_told_as_a_hundred_and_others() -> None:
    """The longest names, of the longest list: pytest gets the answer as one message."""
    entries = [f"*.{'x.' * 120}example{number}:9" for number in range(256)]

    def ask(guest: Guest) -> None:
        for number in range(1, 10_001):
            guest.ask(number, f"{'x' * 60}.{'y' * 60}.{'z' * 60}.{'a' * 50}.h{number}:9".encode())

    with running(entries, resolver=answers("169.254.169.254")) as one:
        sender = threading.Thread(target=ask, args=(one.guest,))
        sender.start()
        frames = [one.guest.frame() for _ in range(10_000)]
        sender.join()
        assert frames == [(RESET, number, b"") for number in range(1, 10_001)]
        for number in range(256):
            one.guest.ask(20_000 + number, f"y.{entries[number].removeprefix('*.')}".encode())
            assert one.guest.frame()[0] == RESET
        found = one.report()
    assert len(found["names"]) == 101
    assert found["names"][-1]["entry"] == "others"
    assert found["names"][-1]["refused"] == 10_000 - 100 + 256
    assert [entry["refused"] for entry in found["entries"]] == [1] * 256
    for counted in (*found["entries"], found["names"][-1]):
        assert "169.254.169.254, which is link-local" in counted["problem"]
