"""The readers of untrusted bytes, each as a function of bytes.

A target takes input, or refuses it with an error of its own tree. Anything else that it raises is a
find. Where a result can be checked, the target does that.
"""

import contextlib
import functools
import io
import json
import logging
import math
import os
import secrets
import socket
import string
import tempfile
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from _pytest.config import get_config
from _pytest.junitxml import LogXML

from pytest_gvisor.base import egress
from pytest_gvisor.base.completed import Completed, NoAnswer, Outcome
from pytest_gvisor.base.errors import (
    GvisorError,
    ImageError,
    ProtocolError,
    RemoteError,
    UsageError,
)
from pytest_gvisor.base.escape import escape, safe, uncoloured
from pytest_gvisor.base.platform_names import Platform
from pytest_gvisor.cli import run as cli_run
from pytest_gvisor.guest.tests.returns import Place
from pytest_gvisor.guest.wire import frames as guest_frames
from pytest_gvisor.guest.wire import mux, plain
from pytest_gvisor.images import choose, config, daemon_socket, docker, image_users, tar
from pytest_gvisor.images.streams import Budget, Inflated, Limits, check_digest, drain
from pytest_gvisor.inside.back.anchors import Anchors
from pytest_gvisor.inside.back.landing import Store
from pytest_gvisor.inside.back.returned import Agreed, Taker
from pytest_gvisor.inside.plugins import Bridges, live_log
from pytest_gvisor.inside.plugins.benchmark import Benchmarks
from pytest_gvisor.inside.plugins.junit import Junit
from pytest_gvisor.inside.wire import link as inside_link
from pytest_gvisor.inside.wire import reports, rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.oci import mounts, validate
from pytest_gvisor.oci.defaults import parse_user
from pytest_gvisor.oci.reader import load
from pytest_gvisor.oci.validate import check_id
from pytest_gvisor.programs import leftovers, relay
from pytest_gvisor.report import html, markdown, parse
from pytest_gvisor.report.merging import merge
from pytest_gvisor.run import logs, sentry
from pytest_gvisor.run.capture import Capture, streams
from pytest_gvisor.runsc import features, locate
from pytest_gvisor.sandbox import load as loaded
from pytest_gvisor.trace import points, protobuf
from pytest_gvisor.trace.recorder import Recorder
from tests.fakes.frames import fed

Target = Callable[[bytes], None]


class Source:
    """Bytes to be read."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read(self, count: int) -> bytes:
        """See `streams.Reader`."""
        found, self._data = self._data[:count], self._data[count:]
        return bytes(found)


def text(data: bytes) -> str:
    """Any text there is, lone surrogates too."""
    return data.decode("utf-8", "surrogateescape")


def moves(character: str) -> bool:
    """Whether a character can affect a terminal: a control, a change of direction, a surrogate."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs"} and character not in "\n\t"


def bundle_config(data: bytes) -> None:
    """An accepted config.json is the same when it is written and read again."""
    value = load(data, where="x")
    validate.drop_ignored(value)
    spec = validate.read(value)
    assert validate.read(spec.to_json()) == spec


def image_config(data: bytes) -> None:
    """An image's configuration, its user and volumes."""
    found = config.ImageConfig.parse(data)
    assert all(path.startswith("/") for path in found.volumes)
    listed = (json.loads(data).get("config") or {}).get("Env") or []
    assert dict(found.defaults.env) == dict(pair.split("=", 1) for pair in listed)
    assert "" not in found.defaults.env


def image_index(data: bytes) -> None:
    """An index.json or manifest list, which picks an image."""
    top = config.objects(config.load_json(data, "x"), "x")
    choose.choose(top, "", lambda _descriptor: {})


def tarball(data: bytes) -> None:
    """A tar stream, to its end."""
    budget = Budget(limits=Limits(max_bytes=10_000_000, max_entries=1000))
    found = tar.Tar(Inflated(Source(data), budget))
    for entry in found:
        budget.add_entry()
        assert entry.size >= 0
        drain(found)


_FOLDER: Final = Path(tempfile.gettempdir())


def in_file(name: str, data: bytes, use: Callable[[str], object]) -> None:
    """A folder with this file in it."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_FOLDER) as folder:
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        use(folder)


def passwd(data: bytes) -> None:
    """A user of an image, with their groups."""
    asked, _, rest = data.partition(b"\n")
    user, _, group = rest.partition(b"\0")

    def use(folder: str) -> None:
        Path(folder, "etc/group").write_bytes(group)
        found, home = image_users.find(folder, text(asked))
        assert 0 <= found.uid < 2**32
        assert isinstance(home, str)

    in_file("etc/passwd", user, use)


_PLAIN: Final = string.ascii_lowercase + string.digits


def ids(data: bytes) -> None:
    """Check sandbox ids, which name folders and runsc's arguments, and digests of images."""
    name = text(data)
    plain = 0 < len(name) <= 64 and name[0] in _PLAIN and not set(name) - set(_PLAIN + "_.-")
    try:
        assert check_id(name) == name
        assert plain
        assert os.path.normpath(f"/session/{name}") == f"/session/{name}"
    except UsageError:
        assert not plain
    with contextlib.suppress(ImageError):
        kind, _, digits = check_digest(name).partition(":")
        assert kind.isalnum()
        assert set(digits) <= set(string.hexdigits.lower())


def mount(data: bytes) -> None:
    """A mount as it is written on the command line, a size, a user."""
    words = text(data)
    for read in (mounts.parse_mount, cli_run.pair_of, mounts.parse_size, parse_user):
        with contextlib.suppress(GvisorError):
            read(words)


def answers_of_runsc(data: bytes) -> None:
    """Read the version, platforms and subcommands that runsc prints."""
    words = text(data)
    features._parse_platforms(words)
    features._parse_subcommands(words)
    if features._VERSION.search(words):
        features.parse_version(words)


def nix_wrapper(data: bytes) -> None:
    """A wrapper script, which names a binary."""
    found, problem = locate.named_binary(data)
    assert problem or not found or found.startswith("/")


def log_of_runsc(data: bytes) -> None:
    """Read the error records of runsc, and the relevant lines of a boot log."""
    found: list[str] = []
    in_file("log", data, lambda folder: found.extend(logs.records(os.path.join(folder, "log"))))
    assert not any(moves(character) for line in found for character in line)
    logs.relevant(text(data))


def guest_frame(data: bytes) -> None:
    """Frames of a warm sandbox's guest."""
    with contextlib.suppress(guest_frames.FrameError):
        for message, _payload in fed(guest_frames.Decoder(), data):
            assert isinstance(message, dict)


def inside_message(data: bytes) -> None:
    """Messages of a pytest inside."""
    with contextlib.suppress(guest_frames.FrameError):
        for message, _payload in fed(inside_link.decoder(limit=1_000_000), data):
            assert isinstance(message["type"], str)


def held_back(data: bytes) -> None:
    """Frames that a pytest inside holds back, of which the first half has been sent already."""
    decoder = inside_link.decoder(limit=1_000_000)
    with contextlib.suppress(guest_frames.FrameError):
        list(fed(decoder, data[: len(data) // 2]))
        for size, message in decoder.ahead(data):
            assert size <= len(data)
            assert isinstance(message["type"], str)


def journal(data: bytes) -> None:
    """A dead session's journal: the session is swept, and only our own cgroups are touched."""

    def sweep(base: str) -> None:
        session = os.path.join(base, "s-1")
        for path in map(Path, leftovers.journalled_cgroups(session)):
            assert path.parts[:4] == ("/", "sys", "fs", "cgroup")
            assert path.name.startswith("pytest-gvisor-")
            assert not {".", ".."} & set(path.parts)
        # As the sweep does, but that it looks for processes in all of /proc.
        assert leftovers.clear_session(session, everywhere=False) == []
        assert os.listdir(base) == []

    in_file(f"s-1/{leftovers.JOURNAL}", data, sweep)


def sentry_event(data: bytes) -> None:
    """Read an event of the sentry."""
    try:
        protobuf.fields(data)
        sentry.exit_of_first_process(data)
    except ValueError:
        pass


def trace_events(data: bytes) -> None:
    """Fold messages of a traced run, each after its kind and its size in two bytes."""
    asked = [*points.USUAL, *points.wanted(points.calls())]
    recorder = Recorder({one.name: one.context + one.optional for one in asked}, "")
    while len(data) > 3:
        kind, size = data[0], 3 + int.from_bytes(data[1:3], "big")
        with contextlib.suppress(ValueError):
            recorder.take(kind, data[3:size])
        data = data[size:]
    trace = recorder.trace(dropped=0, broken=False, ended=True)
    assert not any(map(moves, f"{trace}{trace!r}"))


def daemon_answer(data: bytes) -> None:
    """HTTP of a program that listens at a daemon's socket, the same at each connection."""

    def connect(connection: Any) -> None:
        ours, theirs = socket.socketpair()
        connection.sock = daemon_socket._Socket(fileno=ours.detach())
        connection.sock.adapter = connection._adapter
        with theirs:
            theirs.sendall(data[:100_000])  # which a socket holds without a reader

    with (
        mock.patch.object(daemon_socket._Connection, "connect", connect),
        contextlib.suppress(ImageError),
        docker.Daemon() as daemon,
    ):
        daemon.find("x", docker.Pull.NEVER)


def docker_answer(data: bytes) -> None:
    """JSON of a daemon: its errors, and the events of its work."""
    assert isinstance(docker._message(data), str)
    value = config.load_json(data, "x")
    events = value if isinstance(value, list) else [value]
    with contextlib.suppress(ImageError):
        docker._follow((config.objects(event, "x") for event in events), lambda: None)


_CONFIG: Final = get_config([])
"""The configuration of a pytest that does not run: its hooks make reports of the messages."""


_ITEM: Final[Any] = SimpleNamespace(
    nodeid="test_x.py::test_x", location=("test_x.py", 1, "test_x"), keywords=("test_x",)
)


def inside_report(data: bytes) -> None:
    """A report, or a warning, of a pytest inside."""
    try:
        message = inside_link._decode(data)
    except guest_frames.FrameError:
        return
    reports.warn(_CONFIG, message, "x", SessionBounds(_CONFIG))
    history = _CONFIG.hook.pytest_warning_recorded._call_history
    assert history is not None
    history.clear()
    with contextlib.suppress(ProtocolError):
        short = reports.revive_passed(message.get("passed", message), _ITEM)
        assert short.passed
        assert _CONFIG.hook.pytest_report_to_serializable(config=_CONFIG, report=short)
    report = reports.revive(_CONFIG, message, _ITEM, SessionBounds(_CONFIG))
    assert (report.nodeid, report.location) == (_ITEM.nodeid, _ITEM.location)
    assert "test_x" in report.keywords
    assert report.when in ("setup", "call", "teardown")
    assert report.passed + report.failed + report.skipped <= 1
    for shown in (report.longreprtext, report.caplog, report.capstdout, report.head_line):
        assert isinstance(shown, str | None)
    assert _CONFIG.hook.pytest_report_to_serializable(config=_CONFIG, report=report)


def inside_file(data: bytes) -> None:
    """The messages of a sandbox's first process: no file leads out of its place."""
    store = Store(Anchors("/"), files=100, size=10_000)
    places = Place("/guarded"), Place("/free", free=True), Place("/own", own=True)
    taker = Taker(store, Agreed(places=places, project="/"))
    with contextlib.suppress(guest_frames.FrameError, ProtocolError), contextlib.closing(store):
        for line in data.split(b"\n"):
            taker.take(inside_link._decode(line))
    for path in store._files:
        assert path.isprintable()
        assert os.path.normpath(path) == path
        assert path.startswith(("/free/", "/guarded/", "/own/"))
        assert path.startswith("/free/") or os.path.splitext(path)[1] not in ("", ".py", ".so")
        assert not path.startswith("/guarded/") or not path.endswith((".txt", ".yml"))
    for shown in (*store.tally.others, *store.tally.notes):
        assert not any(map(moves, shown))


class _Metadata:
    """A stand-in for the class of pytest-benchmark."""

    def __init__(self, fixture: Any, iterations: int, options: dict[str, Any]) -> None:
        self.shown = [fixture.name, fixture.group, *options, *options.values()]
        self.stats = SimpleNamespace(data=[])


class _LiveLog(logging.StreamHandler[io.StringIO]):
    """A stand-in for pytest's handler of the live log."""

    _when = None

    def set_when(self, when: str | None) -> None:
        """Begin a phase."""
        assert when is None or when.isalpha()


def bridge_data(data: bytes) -> None:
    """Data from inside for one of the bridges."""
    try:
        message = inside_link._decode(data)
    except guest_frames.FrameError:
        return
    bounds = SessionBounds(_CONFIG)
    made = Bridges(_CONFIG, bounds)
    xml = LogXML(os.devnull, None, family="xunit1")
    terminal = io.StringIO()
    handler = _LiveLog(terminal)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s:%(lineno)d %(message)s"))
    session = SimpleNamespace(benchmarks=[])
    made._ends |= {
        "junit": Junit(xml, bounds).take,
        "live log": functools.partial(live_log.show, handler),
        "benchmark": Benchmarks(session, _Metadata, bounds).take,
    }
    item: Any = SimpleNamespace(name="test_x", nodeid="test_x.py::test_x")
    made.take(message, rules.Sender(item, "test_x.py::test_x", over=False))
    xml.pytest_sessionstart()
    xml.pytest_sessionfinish()
    assert not moves_any(terminal.getvalue())
    for benchmark in session.benchmarks:
        assert all(map(math.isfinite, benchmark.stats.data))
        assert not any(moves_any(one) for one in benchmark.shown if isinstance(one, str))


def moves_any(shown: str) -> bool:
    """Whether a text, without colours, moves a cursor."""
    return any(map(moves, uncoloured(shown)))


def report_file(data: bytes) -> None:
    """A report that was made elsewhere: joined with itself, and shown in each way."""
    found = parse.parse(data)
    assert parse.parse(found.to_json().encode()) == found
    both = merge([found, parse.parse(data)])
    assert len(both.legs) == 2 * len(found.legs)
    for shown in (html.render(both), markdown.render(both)):
        assert not any(map(moves, shown))
        shown.encode()


def proxied_host(data: bytes) -> None:
    """A host and port that a sandbox asks for mean the entry of an allow-list that is read so."""
    with contextlib.suppress(ValueError):
        for entry in relay.covering(data.decode("latin-1")):
            assert str(egress.parse(entry)) == entry


def shown_text(data: bytes) -> None:
    """Escape untrusted text, and check that no part of it moves a cursor."""
    for shown in (escape(text(data)), safe(text(data))):
        assert not any(map(moves, shown))
        shown.encode()


def relay_frames(data: bytes) -> None:
    """Frames of a sandbox for the relay on the host, which holds a window of each connection."""
    (link, theirs), (control, asked) = socket.socketpair(), socket.socketpair()
    peers: list[socket.socket] = []
    host = relay.Relay(theirs, asked, ["10.0.0.5:9", "slow.example:9", "*.example.com:443"])

    def made(one: relay.Attempt, _addresses: object) -> None:
        sock, peer = socket.socketpair()
        sock.setblocking(False)
        peers.append(peer)
        host._attempts.pop(one.number)
        host.begin(one, sock)

    try:
        with (
            mock.patch.object(relay, "_THREADS", 0),
            mock.patch.object(host, "_judge", made),
            contextlib.suppress(mux.MuxError),
        ):
            link.sendall(data[:100_000])
            link.shutdown(socket.SHUT_WR)
            while host.turn(0):
                held = host.connections.values()
                assert len(held) <= mux.MOST
                assert all(len(one.out) + one.granted <= mux.WINDOW for one in held)
    finally:
        host.close()
        for sock in (link, control, asked, *peers):
            sock.close()


class _Loaded:
    """A stand-in for the process of a loaded module, which has sent these bytes and has ended."""

    def __init__(self, data: bytes) -> None:
        self._source = Source(data)
        self.stdout = self
        self.channel = SimpleNamespace(gone=False)

    def read(self, count: int, *, timeout: float) -> bytes:
        """See `output.Reader.read`."""
        assert timeout > 0
        return self._source.read(count)

    def left(self, deadline: float) -> float:
        """See `Peer.left`."""
        return deadline - time.monotonic()

    def completed(self, _outcome: object = None) -> Completed:
        """See `Process.completed`."""
        return Completed(
            args=(), returncode=0, **streams(Capture(0), Capture(0)), duration=0.0,
            platform=Platform("systrap"), outcome=Outcome.EXITED,
        )  # fmt: skip

    def write_input(self, *_: object) -> bool:
        """Take a request."""
        return True

    wait_over = write_input

    def kill(self) -> None:
        """Do nothing: it has ended."""


def load_reply(data: bytes) -> None:
    """Replies of a loaded module: each is plain data, an error of the module's, or no answer."""
    process: Any = _Loaded(data)
    link = loaded.Link(process, 30)
    fixed = mock.patch.object(secrets, "token_hex", return_value="0" * 16)
    with fixed, contextlib.suppress(RemoteError, NoAnswer):
        while True:
            found = [link.ask("get", None)]
            while found:
                one = found.pop()
                assert type(one) in {*plain.EXACT, loaded.Remote, loaded.Loaded} or (
                    type(one).__name__ == "ndarray"
                )
                if isinstance(one, dict):
                    found += [*one.keys(), *one.values()]
                elif isinstance(one, list | tuple | set | frozenset):
                    found += one


def any_json(data: bytes) -> None:
    """JSON of any depth and kind."""
    load(data, where="x")


TARGETS: Mapping[str, Target] = {
    function.__name__: function
    for function in (
        bundle_config, image_config, image_index, tarball, passwd, mount, answers_of_runsc,
        nix_wrapper, log_of_runsc, ids, guest_frame, inside_message, held_back, journal,
        sentry_event, trace_events, daemon_answer, docker_answer, inside_report, inside_file,
        bridge_data, report_file, proxied_host, shown_text, any_json, relay_frames,
        load_reply,
    )
}  # fmt: skip


def judged(target: Target, data: bytes) -> None:
    """Run a target; a `GvisorError` is a right answer."""
    try:
        target(data)
    except GvisorError as error:
        str(error)


class TooLong(Exception):
    """An input took more than a second of a processor."""


def in_time(target: Target, data: bytes) -> None:
    """Run a target. Raises `TooLong`; other work on the machine makes no input longer."""
    begun = time.process_time()
    judged(target, data)
    spent = time.process_time() - begun
    if spent > 1:
        raise TooLong(f"{spent:.1f} s of a processor for {len(data)} bytes")
