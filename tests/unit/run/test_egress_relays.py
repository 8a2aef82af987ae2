"""The last figures of a run's relay."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_gvisor.base.egress import Egress, Traffic
from pytest_gvisor.base.settings import Network, Platform
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.oci.vocabulary import NamespaceType
from pytest_gvisor.run import egress_relays
from pytest_gvisor.run.egress_relays import OuterRelay
from pytest_gvisor.run.request import Request


class Relay:
    """A relay whose sandbox ends its connections one question after the other."""

    def __init__(self, sending: int) -> None:
        self.sending, self.asked = sending, 0

    def egress(self, *, settled: bool) -> Egress:
        """The figures do not change at first, as on a busy machine."""
        assert settled
        self.asked += 1
        self.sending = max(0, self.sending - 1)
        sent = 0 if self.sending else 5
        return Egress(entries=(Traffic(entry="a:1", reached=1, sent=sent),))


def test_the_last_figures_wait_for_the_end_of_each_connection() -> None:
    """Figures that stand still for a while are not the last ones."""
    relay = Relay(sending=4)
    found = egress_relays.last_egress(cast("OuterRelay", relay))
    assert (found.sent, found.error, relay.asked) == (5, "", 4)


def test_a_host_that_reads_nothing_is_waited_for_until_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection never ends, and the figures say so."""
    monkeypatch.setattr(egress_relays, "SETTLED", 0.05)
    found = egress_relays.last_egress(cast("OuterRelay", Relay(sending=10**9)))
    told = "not all is counted: after 0.05 s, a connection has not ended"
    assert (found.sent, found.error) == (0, told)


LATE = """
import json, socket, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
for pause in 0.5, 0, 0:
    to = control.recv(32).split()[1].decode()
    time.sleep(pause)
    figures = {"entries": [], "names": [], "error": f"answer {to}", "sending": 0, "to": to}
    control.send(json.dumps(figures).encode())
control.recv(32)
"""


def test_an_answer_that_comes_too_late_is_none_to_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its figures would be those of an earlier program. The next question has its own answer."""
    monkeypatch.setattr(egress_relays, "_PATIENCE", 0.2)
    monkeypatch.setattr(
        egress_relays,
        "command",
        lambda _program, _link, control, *_words: [sys.executable, "-c", LATE, str(control)],
    )
    with OuterRelay([], [], []) as relay:
        assert relay.egress().error == "not all is counted: the relay does not answer"
        assert "at relay: it does not answer" in str(relay.failure)
        relay._control.settimeout(30)
        assert (relay.egress().error, relay.failure) == ("answer 2", None)


ENDS = """
import json, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
figures = {"reached": 0, "refused": 0, "sent": 0, "received": 0, "problem": ""}
for figures["sent"] in 1, 2:
    told = {"entries": [figures], "names": [], "error": "", "sending": 0}
    to = control.recv(32).partition(b" ")[2].decode() or "the end"
    control.send(json.dumps({**told, "to": to}).encode())
"""


def test_the_figures_of_a_relay_that_is_ended_are_its_last_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The relay sends them when nothing is connected any more."""
    monkeypatch.setattr(
        egress_relays,
        "command",
        lambda _program, _link, control, *_words: [sys.executable, "-c", ENDS, str(control)],
    )
    with OuterRelay(["a:1"], [], ["127.64.0.1:1"]) as relay:
        assert relay.egress().sent == 1
    assert relay.egress().sent == 2


def test_a_relay_that_is_killed_leaves_no_figures_that_pass_for_whole() -> None:
    """Nobody knows what it has passed on since its last answer, also when it is ended.

    Before, it tells the figures of the longest list. A Ctrl-C does not reach it.
    """
    entries = [f"127.0.0.1:{port}" for port in range(1, 257)]
    with OuterRelay(entries, [], entries) as relay:
        assert relay.egress().error == ""
        assert os.getsid(relay._process.pid) == relay._process.pid
        os.kill(relay._process.pid, signal.SIGKILL)
    assert relay.egress().error == "not all is counted: the relay does not answer"


def test_a_relay_that_fails_ends() -> None:
    """No thread of it waits for the end of pytest then, and pytest waits for no answer."""
    with OuterRelay(["no port"], [], ["-"]) as relay:
        assert relay._process.wait(30) == 1
        assert relay.egress().error == "not all is counted: the relay does not answer"


def test_the_container_of_a_relay_is_the_sandbox_and_the_workload_s_is_in_it() -> None:
    """The workload's container has process ids of its own: process 1 of the sandbox is the relay.

    All other namespaces are those of its specification.
    """
    spec = default_spec(["true"], root_path="/x")
    told, annotations = egress_relays.beside(spec, "g1-23")
    assert annotations == {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "r1-23",
    }
    kinds = [one.type for one in told.linux.namespaces]
    assert kinds.count(NamespaceType.PID) == 1
    assert set(kinds) == {NamespaceType.PID, *(one.type for one in spec.linux.namespaces)}
    settings = SimpleNamespace(network=Network.NONE)
    request = cast("Request", SimpleNamespace(settings=settings, platform=Platform.PTRACE))
    argv = egress_relays.argv(request, "g1-23", "/f", ["--flag"], 5)
    bundle = argv.index("--bundle")
    assert (argv[bundle + 1], argv[-1]) == ("/f/relay/bundle", "r1-23")
    assert egress_relays.FIRST_PROCESS == 2


class Late(BaseException):
    """The exception of a signal's handler."""


def test_a_signal_ends_a_wait_for_figures_and_no_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next question is answered; and an end that is interrupted is one."""

    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    relay = OuterRelay(["127.0.0.1:9"], [], ["127.0.0.1:9"])
    try:
        for asks in (relay.egress, relay.__exit__):
            assert relay.egress().error == ""
            os.kill(relay._process.pid, signal.SIGSTOP)
            monkeypatch.setattr(egress_relays, "_PATIENCE", 0.2)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Late):
                asks()
            if relay.is_open:
                os.kill(relay._process.pid, signal.SIGCONT)
    finally:
        signal.signal(signal.SIGALRM, before)
        relay.__exit__()
    assert relay._process.returncode == -signal.SIGKILL  # it was still stopped


@pytest.fixture
def fork() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Forks this process; each fork does something and then lives on."""
    pids = []

    def forked(act: Callable[[], object]) -> int:
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                act()
                os.write(writer, b"a")
                signal.pause()
            os._exit(1)
        pids.append(pid)
        os.close(writer)
        assert os.read(reader, 1) == b"a"
        os.close(reader)
        return pid

    yield forked
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_neither_keeps_nor_ends_nor_asks_a_relay(
    fork: Callable[[Callable[[], object]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork has copies of the sockets, as a pool of processes has that stays open."""
    monkeypatch.setattr(egress_relays, "_PATIENCE", 100.0)
    relay = OuterRelay(["127.0.0.1:9"], [], ["127.0.0.1:9"])

    def act() -> None:
        assert not relay.is_open
        relay.egress()
        relay.__exit__()

    with relay:
        fork(act)
        assert relay.egress().sent == 0
        began = time.monotonic()
    assert time.monotonic() - began < 50
    assert relay._process.returncode == 0


def test_a_relay_ends_with_its_process_though_a_fork_lives_on(tmp_path: Path) -> None:
    """The kernel closes no socket that the fork has too."""
    script = (
        "import os, signal\n"
        "from pytest_gvisor.run.egress_relays import OuterRelay\n"
        "relay = OuterRelay(['127.0.0.1:9'], [], ['127.0.0.1:9'])\n"
        "relay.egress()\n"
        "if pid := os.fork():\n"
        "    print(pid, relay._process.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as made:
        assert made.stdout is not None
        fork, pid = map(int, made.stdout.readline().split())
        pidfd = os.pidfd_open(pid)
        made.kill()
        try:
            assert select.select([pidfd], [], [], 30)[0]
        finally:
            os.close(pidfd)
            os.kill(fork, signal.SIGKILL)
