"""`Sandbox.network`: hosts and ports that a sandbox reaches for a while."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor import (
    Gvisor,
    InsideError,
    Sandbox,
    SandboxCrashed,
    SnapshotError,
    UsageError,
    empty,
)
from tests.sandbox import test_allow
from tests.sandbox.conftest import sentry
from tests.sandbox.test_allow import relays, talk

echo, names = test_allow.echo, test_allow.names


def known(box: Sandbox) -> str:
    """The text of /etc/hosts inside."""
    return box.get("/etc/hosts").decode()


def forks(box: Sandbox) -> list[str]:
    """The pids of the guest's own forks."""
    script = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    line = open(f'/proc/{pid}/cmdline').read()\n"
        "    if pid != '1' and 'init_' + 'process' in line: print(pid)\n"
    )
    return box.exec(["python3", "-c", script], check=True).stdout.split()


def test_a_host_is_reached_in_the_block_and_not_before_or_after(
    gvisor_sandbox: Sandbox, names: Callable[..., None], echo: int
) -> None:
    """By its name, which only the block has; the figures are those of each program."""
    names(pypi_example=["127.0.0.1"])
    allow = [f"pypi.example:{echo}", f"127.0.0.1:{echo}"]
    before = known(gvisor_sandbox)
    assert "Connection refused" in talk(gvisor_sandbox, "127.0.0.1", echo)
    for _ in range(2):
        with gvisor_sandbox.network(allow=allow):
            done = gvisor_sandbox.exec(["true"])
            assert talk(gvisor_sandbox, "pypi.example", echo, 1 << 20) == "True 1048588\n"
            assert done.egress is not None
            assert done.egress.reached == ()
        assert "not known" in (told := talk(gvisor_sandbox, "pypi.example", echo)) or "Temp" in told
        assert "Connection refused" in talk(gvisor_sandbox, "127.0.0.1", echo)
        assert known(gvisor_sandbox) == before


def test_programs_have_the_traffic_of_their_own_time(gvisor_sandbox: Sandbox, echo: int) -> None:
    """A program that began before the block has it too; one that begins later has none."""
    assert gvisor_sandbox.exec(["true"]).egress is None
    waits = gvisor_sandbox.popen(["cat"])
    assert relays() == []
    with gvisor_sandbox.network(allow=[f"127.0.0.1:{echo}"]):
        talk(gvisor_sandbox, "127.0.0.1", echo)
        assert len(relays()) == 1
    assert relays() == []
    waits.stdin.close()
    waits.wait()
    egress, later = waits.completed().egress, gvisor_sandbox.exec(["true"]).egress
    assert egress is not None
    assert later is not None
    assert (egress.reached, egress.sent) == ((f"127.0.0.1:{echo}",), 256)
    assert (later.reached, later.sent) == ((), 0)


READ = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    peer.sendall(b"x")
    peer.recv(1)
    print("open", flush=True)
    peer.recv(1)
"""


def test_a_connection_that_is_open_at_the_end_is_reset(gvisor_sandbox: Sandbox, echo: int) -> None:
    """No program takes a part for the whole. An error in the block closes it too."""
    allow = [f"127.0.0.1:{echo}"]
    with contextlib.suppress(ZeroDivisionError), gvisor_sandbox.network(allow=allow):
        reads = gvisor_sandbox.popen(["python3", "-c", READ, str(echo)])
        reads.wait_for_output("open\n")
        raise ZeroDivisionError
    assert reads.wait() == 1
    assert b"ConnectionResetError" in reads.stderr.captured
    assert relays() == []


def test_blocks_nest_and_each_closes_its_own(
    gvisor: Gvisor, names: Callable[..., None], echo: int
) -> None:
    """Also beside the sandbox's own list; an entry that is open cannot be opened again."""
    names(a_example=["127.0.0.1"], b_example=["127.0.0.1"])
    a, b, own = f"a.example:{echo}", f"b.example:{echo}", f"127.0.0.1:{echo}"
    with gvisor.sandbox() as box:
        with box.network(allow=[a, own]):
            refused = pytest.raises(UsageError, match="is open already")
            with refused, box.network(allow=[a]):
                pytest.fail("it opened")
            with box.network(allow=[b]):
                told = talk(box, "b.example", echo)
                assert "True" not in told  # this list lacks the address
                assert talk(box, "a.example", echo) == "True 268\n"
            assert talk(box, "a.example", echo) == "True 268\n"
            assert "b.example" not in known(box)
        first, second = box.network(allow=[a, own]), box.network(allow=[b])
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        with box.network(allow=[own, a]):  # each has its place, whatever the order is
            assert talk(box, "a.example", echo) == "True 268\n"
        second.__exit__(None, None, None)


def test_nothing_inside_keeps_a_network_open(gvisor_sandbox: Sandbox, echo: int) -> None:
    """If root inside halts the relay there, it is killed, and the next block has another."""
    box, allow = gvisor_sandbox, [f"127.0.0.1:{echo}"]
    with box.network(allow=allow):
        reads = box.popen(["python3", "-c", READ, str(echo)])
        reads.wait_for_output("open\n")
        (relay,) = forks(box)
        halt = "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGSTOP)"
        box.exec(["python3", "-c", halt, relay], check=True)
    assert (relays(), forks(box)) == ([], [])
    reads.wait()
    with box.network(allow=allow):
        assert talk(box, "127.0.0.1", echo) == "True 268\n"


def test_no_other_user_reaches_the_relay_inside(gvisor_sandbox: Sandbox) -> None:
    """Its memory and its descriptors are closed to them. The relay ends with the block."""
    box = gvisor_sandbox
    steal = (
        "import os\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    for name in ('mem', 'fd/3'):\n"
        "        if int(pid) != os.getpid():\n"
        "            try: open(f'/proc/{pid}/{name}'); print(pid, name)\n"
        "            except OSError: pass\n"
    )
    with box.network(allow=["127.0.0.1:9"]):
        assert len(forks(box)) == 1
        for user in (0, 1000):
            done = box.exec(["python3", "-c", steal], user=user, check=True)
            assert done.stdout == ""
    assert forks(box) == []


def test_a_program_that_started_in_the_block_has_no_descriptor_of_it(
    gvisor_sandbox: Sandbox,
) -> None:
    """And its input ends, though the relay inside was forked while it was open."""
    cat = gvisor_sandbox.popen(["cat"])
    with gvisor_sandbox.network(allow=["127.0.0.1:9"]):
        cat.stdin.write("fine")
        cat.stdin.close()
        assert cat.wait(20) == 0
        look = "import os; print(os.listdir('/proc/self/fd'))"
        done = gvisor_sandbox.exec(["python3", "-c", look])
        assert done.stdout == "['0', '1', '2', '3']\n"


def test_a_sandbox_that_ends_in_the_block_ends_it(gvisor: Gvisor) -> None:
    """Closed or crashed, no error hides that of the block, and no relay is left."""
    with gvisor.sandbox() as box, box.network(allow=["127.0.0.1:9"]):
        box.close()
    assert relays() == []
    with pytest.raises(UsageError, match="is closed"), box.network(allow=["127.0.0.1:9"]):
        pytest.fail("it opened")
    with gvisor.sandbox() as box, box.network(allow=["127.0.0.1:9"]):
        os.kill(sentry(gvisor), signal.SIGKILL)
        with pytest.raises(SandboxCrashed):
            box.exec(["true"])
    assert relays() == []


def test_a_snapshot_is_for_the_time_after_a_block(gvisor: Gvisor, echo: int) -> None:
    """A copy has no network, and a block opens one there too."""
    allow = [f"127.0.0.1:{echo}"]
    with gvisor.sandbox() as box:
        refused = pytest.raises(SnapshotError, match="cannot be saved in a block of network")
        with box.network(allow=allow), refused:
            box.snapshot()
        with box.snapshot() as saved, gvisor.sandbox(snapshot=saved) as copy:
            assert "Connection refused" in talk(copy, "127.0.0.1", echo)
            with copy.network(allow=allow):
                assert talk(copy, "127.0.0.1", echo) == "True 268\n"


def test_names_need_a_file_that_can_be_written(gvisor: Gvisor, busybox: bytes) -> None:
    """A root without /etc gets one; a read-only root has an error, and then no relay."""
    rootfs = empty({"bin/busybox": busybox})
    with gvisor.sandbox(rootfs=rootfs) as box, box.network(allow=["a.example:9"]):
        assert known(box) == "127.64.0.1\ta.example\n"
    with gvisor.sandbox(readonly=True) as box:
        refused = pytest.raises(InsideError, match="cannot write /etc/hosts")
        with refused, box.network(allow=["a.example:9"]):
            pytest.fail("it opened")
        assert relays() == []
        with box.network(allow=["127.0.0.1:9"]):
            assert box.exec(["true"]).returncode == 0


def test_a_port_that_a_program_has_cannot_be_opened(gvisor_sandbox: Sandbox) -> None:
    """The error has the list and the reason. Nothing of the block is left."""
    box, before = gvisor_sandbox, known(gvisor_sandbox)
    code = "import socket; s = socket.socket(); s.bind(('', 8000)); s.listen(); input()"
    with box.popen(["python3", "-c", code]):
        box.wait_for_port(8000)
        refused = pytest.raises(
            InsideError, match=r"listen for allow=\['a.example:8000'\].*EADDRINUSE"
        )
        with refused, box.network(allow=["a.example:8000"]):
            pytest.fail("it opened")
        assert (known(box), relays(), forks(box)) == (before, [], [])
    with box.network(allow=["a.example:8000"]):
        assert "a.example" in known(box)


def test_a_network_is_for_a_sandbox_without_another(gvisor: Gvisor) -> None:
    """And its entries are checked as those of a list."""
    with gvisor.sandbox(network="host") as box:
        refused = pytest.raises(UsageError, match="needs network='none'")
        with refused, box.network(allow=["127.0.0.1:9"]):
            pytest.fail("it opened")
        with pytest.raises(UsageError, match="is not HOST:PORT"), box.network(allow=["a"]):
            pytest.fail("it opened")
    with gvisor.sandbox(allow=["*.example.com:443"]) as box:
        refused = pytest.raises(UsageError, match="this sandbox has a proxy for names with")
        with refused, box.network(allow=["*.example.org:443"]):
            pytest.fail("it opened")


def test_a_block_may_have_names_below_a_star(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path
) -> None:
    """One after another, beside names of other lists, which programs reach without the proxy."""
    (tmp_path / "hello.txt").write_text("hello")
    names(a_first=["127.0.0.1"], b_second=["127.0.0.1"], other=["127.0.0.1"])
    show = ["sh", "-c", "echo $https_proxy $no_proxy"]
    with contextlib.ExitStack() as undo:
        port, second = (undo.enter_context(test_allow.website(tmp_path)) for _ in range(2))
        with gvisor.sandbox(allow=[f"other:{second}", f"127.0.0.1:{second}"]) as box:

            def fetch(host: str, at: int = port) -> str:
                return box.exec(["curl", "-sSk", f"https://{host}:{at}/hello.txt"]).stdout

            for host, star in (("a.first", "*.first"), ("b.second", "*.second")):
                stars = [f"{star}:{port}", f"*.first:{port}"]
                with box.network(allow=[*stars, f"127.0.0.1:{port}"]):
                    assert (fetch(host), fetch("other", second)) == ("hello", "hello")
                    variables = "http://127.64.0.2:3128 localhost,127.0.0.1,::1,other,127.0.0.1\n"
                    assert box.exec(show).stdout == variables
                assert box.exec(show).stdout == "\n"
                assert fetch(host) == ""
            done = box.exec(["true"])
            assert done.egress is not None
            assert [one.entry for one in done.egress.entries][2:] == [
                f"*.first:{port}", f"127.0.0.1:{port}", f"*.second:{port}"
            ]  # fmt: skip


def test_the_end_of_a_sandbox_in_a_block_is_what_the_test_sees(gvisor: Gvisor) -> None:
    """With an allow-list of its own, its names are in a file of the host's, which is gone too."""
    with gvisor.sandbox(allow=["127.0.0.1:9"]) as box:

        def use() -> None:
            with box.network(allow=["db.example.com:5432"]):
                os.kill(sentry(gvisor), signal.SIGKILL)
                box.exec(["sleep", "60"])

        with pytest.raises(SandboxCrashed):
            use()
