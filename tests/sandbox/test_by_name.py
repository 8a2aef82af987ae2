"""Sandboxes that reach each other by name: the list of one has a port of the other."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Sandbox, SandboxPort, UsageError
from tests.sandbox.conftest import SERVER

TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080)) as peer:
    peer.sendall(b"hello")
    try:
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has been reset, as the read says
    print(peer.makefile().read())
"""

TUNNEL = """
import http.client, os, socket
proxy = http.client.HTTPConnection(os.environ["http_proxy"].rpartition("/")[2])
proxy.set_tunnel("one.db", 8080)
proxy.connect()
proxy.sock.sendall(b"hello")
proxy.sock.shutdown(socket.SHUT_WR)
print(proxy.sock.makefile().read())
"""

MUCH = """
import socket, threading
data = bytes(range(256)) * 16384
with socket.create_connection(("db", 8080)) as peer:
    def send():
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=send)
    thread.start()
    print(peer.makefile("rb").read() == data + b"that was all")
    thread.join()
"""


def talk(box: Sandbox, host: str) -> str:
    """Return the output of a program that greets port 8080 of a name, and reads to the end."""
    done = box.exec(["python3", "-c", TALK, host])
    return done.stdout or done.stderr


@contextlib.contextmanager
def echoing(box: Sandbox) -> Iterator[SandboxPort]:
    """An echo server in the sandbox, and its port."""
    with box.popen(["python3", "-c", SERVER]) as server:
        server.wait_for_output("ready\n")
        yield box.port(8080)


def test_one_reaches_a_server_in_the_other_by_name(gvisor: Gvisor) -> None:
    """All bytes pass in both directions, each half ends alone, and the figures are an entry's."""
    with gvisor.sandbox() as db, echoing(db) as port:
        with gvisor.sandbox(allow={"db:8080": port}) as box:
            done = box.exec(["python3", "-c", MUCH], check=True)
            assert done.stdout == "True\n"
            assert done.egress is not None
            assert done.egress.reached == ("db:8080",)
            assert (done.egress.sent, done.egress.received) == (4_194_304, 4_194_316)
            assert "Connection refused" in talk(box, "127.0.0.1")
        assert db.exec(["true"]).egress is None


def test_a_fresh_sandbox_reaches_a_warm_one(gvisor: Gvisor) -> None:
    """`gvisor.run` takes the same mapping."""
    with gvisor.sandbox() as db, echoing(db) as port:
        done = gvisor.run(["python3", "-c", TALK, "db"], allow={"db:8080": port})
    assert done.stdout == "hellothat was all\n"
    assert done.egress is not None
    assert done.egress.reached == ("db:8080",)


def test_a_list_may_have_both_hosts_and_sandboxes(gvisor: Gvisor) -> None:
    """Two sandboxes by the same port, and a host whose value is None."""
    with gvisor.sandbox() as one, gvisor.sandbox() as two, echoing(one) as port:
        allow = {"one:8080": port, "127.0.0.1:9": None, "two:8080": two.port(8080)}
        with gvisor.sandbox(allow=allow) as box:
            assert talk(box, "one") == "hellothat was all\n"
            assert "ConnectionResetError" in talk(box, "two")
            with echoing(two):
                assert talk(box, "two") == "hellothat was all\n"


def test_all_names_below_a_star_may_lead_to_one_sandbox(gvisor: Gvisor) -> None:
    """By the proxy, as to hosts. No name of it is resolved."""
    with (
        gvisor.sandbox() as db,
        echoing(db) as port,
        gvisor.sandbox(allow={"*.db:8080": port}) as box,
    ):
        done = box.exec(["python3", "-c", TUNNEL], check=True)
    assert done.stdout == "hellothat was all\n"
    assert done.egress is not None
    assert done.egress.reached == ("*.db:8080",)
    assert [one.entry for one in done.egress.names] == ["one.db:8080"]


def test_a_port_without_a_server_and_a_closed_sandbox_are_named(gvisor: Gvisor) -> None:
    """The hint has the entry and the reason. The client sees a reset."""
    with gvisor.sandbox() as db, gvisor.sandbox(allow={"db:8080": db.port(8080)}) as box:
        args = ["python3", "-c", TALK, "db"]
        done = box.exec(args)
        assert "ConnectionResetError" in done.stderr
        assert done.hint == "db:8080: from the other sandbox: Connection refused."
        db.close()
        done = box.exec(args)
        assert "ConnectionResetError" in done.stderr
        assert done.hint == "db:8080: the other sandbox is closed."
        assert done.egress is not None
        assert done.egress.refused == {"db:8080": "the other sandbox is closed"}


def test_only_this_user_can_connect_and_nothing_is_left(gvisor: Gvisor) -> None:
    """The way there is a socket in the session's folder, which is gone with the sandbox."""
    with gvisor.sandbox() as db:
        port = db.port(8080)
        assert db.port(8080) == port
        assert port.number == 8080
        folder = Path(port.path).parent
        assert any(not stat.S_IMODE(os.stat(f).st_mode) & 0o077 for f in (folder, *folder.parents))
    assert not os.path.exists(port.path)


def test_a_name_leads_to_a_sandbox_and_not_to_an_address(gvisor: Gvisor) -> None:
    """An entry that is an address may be another sandbox's, and then no name may have it."""
    with gvisor.sandbox() as db, echoing(db) as port:
        with gvisor.sandbox(allow={"127.0.0.1:8080": port}) as box:
            assert talk(box, "127.0.0.1") == "hellothat was all\n"
        with pytest.raises(UsageError, match="'db:8080' leads to 8080"):
            gvisor.sandbox(allow={"db:8080": 8080})  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="0 is not a TCP port"):
            db.port(0)
