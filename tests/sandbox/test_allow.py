"""A sandbox with an allow-list reaches what is on it by name, and nothing else."""

import contextlib
import http.server
import io
import os
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Sandbox, SnapshotError, UsageError, directory, empty
from pytest_gvisor.programs import relay
from pytest_gvisor.programs.proc import children_of_self, words_of
from pytest_gvisor.run import egress_relays
from tests.runsc.conftest import wait_for

CERTIFICATE = Path(__file__).with_name("pypi.example.pem")
"""A self-signed one of pypi.example and files.example, for a hundred years, with its key."""

RESOLVER = """
import sys
sys.path.insert(0, {package!r})
sys.modules["pytest_gvisor"] = package = type(sys)("pytest_gvisor")
package.__path__ = [{package!r} + "/pytest_gvisor"]
from pytest_gvisor.programs import relay
names = {names!r}
relay.resolve = lambda host, port: names[host]
relay.Relay.__init__.__defaults__ = (relay.resolve,)
relay.main(sys.argv[1:])
"""


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the relay's resolver answer from a table."""

    def set_names(**table: list[str]) -> None:
        program = tmp_path / "relay_with_names.py"
        dotted = {name.replace("_", "."): addresses for name, addresses in table.items()}
        package = str(Path(relay.__file__).parents[2])
        program.write_text(RESOLVER.format(package=package, names=dotted))

        def command(_program: str, *words: object) -> list[str]:
            return [sys.executable, "-I", "-S", str(program), *map(str, words)]

        monkeypatch.setattr(egress_relays, "command", command)

    return set_names


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and writes no log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@contextlib.contextmanager
def served(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve in a thread, whose own threads end with it; yields the port."""
    assert isinstance(server, socketserver.ThreadingMixIn)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def website(folder: Path, tls: bool = True) -> Iterator[int]:
    """A server of the folder on the host's loopback; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

        def handle_error(self, *_: object) -> None:
            """Write nothing."""

    server = Server(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder)))
    if tls:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with served(server) as port:
        yield port


@pytest.fixture
def echo() -> Iterator[int]:
    """A server on the host's loopback that sends everything back; its port."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
            self.request.sendall(b"that was all")

    class Server(socketserver.ThreadingTCPServer):
        request_queue_size = 256  # beyond it the kernel drops SYNs, and connecting takes seconds

    with served(Server(("127.0.0.1", 0), Echo)) as port:
        yield port


TALK = """
import socket, sys
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with socket.create_connection((host, port)) as peer:
    import threading
    data = bytes(range(256)) * (size // 256)
    def send():
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    thread = threading.Thread(target=send)
    thread.start()
    found = bytearray()
    while piece := peer.recv(1 << 16):
        found += piece
    thread.join()
print(found == data + b"that was all", len(found))
"""


def talk(box: Sandbox, host: str, port: int, size: int = 256) -> str:
    """Return the output of a program that sends ``size`` bytes and reads to the end."""
    done = box.exec(["python3", "-c", TALK, host, str(port), str(size)])
    return done.stdout or done.stderr


def test_a_program_reaches_an_allowed_port_of_the_host_s_loopback(
    gvisor: Gvisor, echo: int
) -> None:
    """By the address itself, which the entry names; each half of a connection ends alone."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        assert talk(box, "127.0.0.1", echo, 8_388_608) == "True 8388620\n"
        assert "Connection refused" in talk(box, "127.0.0.1", echo + 1)
        assert "Connection refused" in talk(box, "127.0.0.2", echo)


def test_it_reaches_a_host_by_name_with_tls(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path
) -> None:
    """The certificate is of the host's own name. `done.egress` has the bytes of each direction."""
    (tmp_path / "hello.txt").write_text("hello")
    names(pypi_example=["127.0.0.1"])
    code = (
        "import ssl, sys, urllib.request\n"
        "context = ssl.create_default_context(cafile='/tmp/ca.pem')\n"
        "print(urllib.request.urlopen(sys.argv[1], context=context).read())\n"
    )
    with website(tmp_path) as port:
        allow = [f"pypi.example:{port}", f"127.0.0.1:{port}"]
        with gvisor.sandbox(allow=allow) as box:
            box.put("/tmp/ca.pem", CERTIFICATE.read_text().partition("-----BEGIN CERT")[2].join(
                ["-----BEGIN CERT", ""]
            ))  # fmt: skip
            url = f"https://pypi.example:{port}/hello.txt"
            done = box.exec(["python3", "-c", code, url], check=True)
            assert done.stdout == "b'hello'\n"
            assert done.egress is not None
            assert done.egress.reached == (allow[0],)
            assert done.egress.sent > 300
            assert done.egress.received > 500
            quiet = box.exec(["true"])
            assert quiet.egress is not None
            assert (quiet.egress.reached, quiet.egress.sent) == ((), 0)


@pytest.mark.parametrize("by", ["names", "a star"])
def test_pip_downloads_from_an_allowed_index(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path, by: str
) -> None:
    """An index and a host of files, as PyPI has them. No DNS is asked, and pip gets no option."""
    wheel = "little-1.0-py3-none-any.whl"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("little.py", "x = 1\n")
        archive.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\n"
                         "Version: 1.0\n")  # fmt: skip
        archive.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: ours\n"
                         "Root-Is-Purelib: true\nTag: py3-none-any\n")  # fmt: skip
        archive.writestr("little-1.0.dist-info/RECORD", "")
    (tmp_path / "simple/little").mkdir(parents=True)
    (tmp_path / wheel).write_bytes(made.getvalue())
    names(pypi_example=["127.0.0.1"], files_example=["127.0.0.1"])
    with website(tmp_path) as port:
        link = f'<a href="https://files.example:{port}/{wheel}">{wheel}</a>'
        (tmp_path / "simple/little/index.html").write_text(link)
        hosts = [f"pypi.example:{port}", f"files.example:{port}"]
        allow = hosts if by == "names" else [f"*.example:{port}"]
        with gvisor.sandbox(allow=[*allow, f"127.0.0.1:{port}"]) as box:
            box.put("/tmp/ca.pem", CERTIFICATE.read_text())
            done = box.exec(
                [sys.executable, "-m", "pip", "download", "--isolated", "--no-cache-dir",
                 "--disable-pip-version-check", "--cert", "/tmp/ca.pem", "-d", "/tmp/found",
                 "--index-url", f"https://pypi.example:{port}/simple/", "little"],
                check=True,
            )  # fmt: skip
            assert done.egress is not None
            assert done.egress.reached == tuple(allow)
            assert [one.entry for one in done.egress.names] == (hosts if by == "a star" else [])
            assert box.get(f"/tmp/found/{wheel}") == made.getvalue()


@pytest.mark.parametrize("user", [0, 1000])
def test_programs_reach_names_below_a_star_by_the_proxy_that_their_environment_names(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path, user: int
) -> None:
    """By HTTP and by SOCKS 5, with TLS, and an entry without a star by the same proxy."""
    (tmp_path / "hello.txt").write_text("hello")
    names(pypi_example=["127.0.0.1"], a_b_files_example=["127.0.0.1"], other=["127.0.0.1"])
    code = (
        "import ssl, sys, urllib.request\n"
        "context = ssl.create_default_context(cafile='/tmp/ca.pem')\n"
        "print(urllib.request.urlopen(sys.argv[1], context=context).read().decode())\n"
    )
    with website(tmp_path) as port:
        star = f"*.example:{port}"
        allow = [star, f"other:{port}", f"127.0.0.1:{port}"]
        with gvisor.sandbox(allow=allow, user=user) as box:
            box.put("/tmp/ca.pem", CERTIFICATE.read_text())
            proxy = box.exec(["sh", "-c", "echo $https_proxy"]).stdout.strip()
            insecure = ["curl", "-sSk"]
            for command, host in (
                (["python3", "-c", code], "pypi.example"),
                (["curl", "-sS", "--cacert", "/tmp/ca.pem"], "pypi.example"),
                ([*insecure, "--proxy", proxy.replace("http", "socks5h")], "a.b.files.example"),
                ([*insecure, "--proxy", proxy.replace("http", "socks5h")], "other"),
                (insecure, "other"),
                (insecure, "127.0.0.1"),
            ):
                done = box.exec([*command, f"https://{host}:{port}/hello.txt"], check=True)
                assert done.stdout.strip() == "hello"
                assert done.egress is not None
                below = host.endswith("example")
                own = f"{host}:{port}"
                assert done.egress.reached == (star if below else own,)
                (traffic,) = [one for one in done.egress.entries if one.reached]
                told = [traffic._replace(entry=own)] if below else []
                assert list(done.egress.names) == told
                assert traffic.received > 500


def test_a_plain_request_reaches_a_name_below_a_star(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path
) -> None:
    """The server sees an ordinary request. Each may be for another host."""
    (tmp_path / "hello.txt").write_text("hello")
    names(a_example=["127.0.0.1"], b_example=["127.0.0.1"])
    with website(tmp_path, tls=False) as port:
        allow = [f"*.example:{port}", f"127.0.0.1:{port}"]
        with gvisor.sandbox(allow=allow) as box:
            urls = [f"http://{host}.example:{port}/hello.txt" for host in "abab"]
            done = box.exec(["curl", "-sSf", *urls], check=True)
            assert done.stdout == "hello" * 4
            assert done.egress is not None
            assert [one.reached for one in done.egress.names] == [2, 2]
            code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read())"
            assert box.exec(["python3", "-c", code, urls[0]]).stdout == "b'hello'\n"


def test_a_refused_name_has_a_hint_with_the_entry_that_is_missing(
    gvisor: Gvisor, names: Callable[..., None]
) -> None:
    """The bare domain, another port, another host: none of them is resolved."""
    names()
    with gvisor.sandbox(allow=["*.example.com:443"]) as box:
        for host in ("example.com:443", "a.example.com:444", "a.example.com.evil.com:443"):
            done = box.exec(["curl", "-sS", f"https://{host}/"])
            assert done.returncode != 0
            assert "403" in done.stderr
            assert done.hint == f"{host}: not in the list: allow '{host}' if that is meant."
            assert done.egress is not None
            assert done.egress.reached == ()
        fine = box.exec(["curl", "-sS", "http://example.com/"])
        assert fine.stdout == "403 Not allowed or not reached"


def test_odd_names_from_a_program_are_refused_and_told(
    gvisor: Gvisor, names: Callable[..., None]
) -> None:
    """NUL, an odd spelling of an address, a fragment. A name that does not end has a bound too."""
    names()
    code = (
        "import os, socket, sys\n"
        "host, port = os.environ['http_proxy'].rpartition('/')[2].split(':')\n"
        "for name in sys.stdin.buffer.read().split(b'|'):\n"
        "    with socket.create_connection((host, int(port))) as peer:\n"
        "        peer.sendall(b'CONNECT ' + name + b' HTTP/1.1\\r\\n\\r\\n')\n"
        "        try: print(peer.recv(12).decode())\n"
        "        except ConnectionError: print('reset')\n"
    )
    odd = [b"a\0.example:9", b"127.1:9", b"evil.com#.example:9", b"x" * 65536 + b".example:9"]
    with gvisor.sandbox(allow=["*.example:9"]) as box:
        done = box.exec(["python3", "-c", code], input=b"|".join(odd), check=True)
    *refused, endless = done.stdout.splitlines()
    assert refused == ["HTTP/1.1 403"] * 3
    assert endless in ("HTTP/1.1 431", "reset")
    assert done.egress is not None
    assert (done.egress.reached, done.egress.error) == ((), "")
    assert {one.entry: one.problem for one in done.egress.names} == {
        r"a\x00.example:9": "no host name",
        "127.1:9": "an odd spelling of an address",
        "evil.com#.example:9": "no host name",
    }


def test_a_name_that_answers_with_loopback_is_refused_and_told(
    gvisor: Gvisor, names: Callable[..., None], echo: int
) -> None:
    """Unless that address is allowed itself. The program sees a reset."""
    names(evil_example=["127.0.0.1"])
    entry = f"evil.example:{echo}"
    with gvisor.sandbox(allow=[entry]) as box:
        code = f"import socket; socket.create_connection(('evil.example', {echo})).recv(1)"
        done = box.exec(["python3", "-c", code])
    assert "ConnectionResetError" in done.stderr
    assert done.egress is not None
    assert done.egress.reached == ()
    (told,) = done.egress.refused.values()
    assert told == (
        f"the name answers with 127.0.0.1, which is loopback: allow '127.0.0.1:{echo}' too if "
        "that is meant"
    )
    assert done.hint == f"{entry}: {told}."


def test_another_name_is_not_known_inside_and_the_hint_has_its_entry(
    gvisor: Gvisor, echo: int
) -> None:
    """Its name leaves the sandbox for no DNS."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        code = "import urllib.request as r; r.urlopen('https://pypi.org/simple/')"
        done = box.exec(["python3", "-c", code])
    assert "Temporary failure in name resolution" in done.stderr
    assert "add allow=['pypi.org:443'] to gvisor.sandbox(…)" in done.hint


def test_programs_of_any_user_reach_it_and_none_can_use_the_socket_of_the_relay(
    gvisor: Gvisor, echo: int
) -> None:
    """The relay in the sandbox has the only descriptor. No other user opens or signals it."""
    look = "import os; print(os.listdir('/proc/self/fd'))"
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"], user=1000) as box:
        assert talk(box, "127.0.0.1", echo) == "True 268\n"
        assert box.exec(["python3", "-c", look]).stdout == "['0', '1', '2', '3']\n"
        steal = (
            "import os\n"
            "acts = [lambda: open(f'/proc/{p}/{n}') for p in (1, 2) for n in ('mem', 'fd/3')]\n"
            "for act in [*acts, lambda: os.kill(2, 9)]:\n"
            "    try: act(); print('done')\n"
            "    except OSError: pass\n"
        )
        assert box.exec(["python3", "-c", steal], check=True).stdout == ""
        assert talk(box, "127.0.0.1", echo) == "True 268\n"


def test_without_its_relay_a_sandbox_has_no_network(gvisor: Gvisor, echo: int) -> None:
    """A program of root may kill the relay inside. The sandbox is cut off then, and goes on."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        box.exec(["sh", "-c", "kill -9 2; while [ -e /proc/2 ]; do :; done"], check=True)
        assert "Connection refused" in talk(box, "127.0.0.1", echo)
        assert box.exec(["true"]).returncode == 0


def test_an_allow_list_is_for_network_none_and_cannot_be_saved(gvisor: Gvisor) -> None:
    """Each of the others is an error that says so, and not a sandbox without a network."""
    allow = ["127.0.0.1:9"]
    with pytest.raises(UsageError, match="needs network='none'"):
        gvisor.sandbox(allow=allow, network="sandbox")
    refused = pytest.raises(SnapshotError, match="with an allow-list cannot be saved")
    with gvisor.sandbox(allow=allow) as box, refused:
        box.snapshot()
    with pytest.raises(UsageError, match="/etc/hosts is made for allow"):
        gvisor.sandbox(allow=allow, mounts={"/etc/hosts": "/etc/hosts"})


@pytest.mark.parametrize("kind", ["empty", "folder"])
def test_a_root_without_python_and_without_etc_hosts_reaches_a_name(
    gvisor: Gvisor, names: Callable[..., None], tmp_path: Path, busybox: bytes, kind: str
) -> None:
    """A static program reads /etc/hosts, which is mounted there."""
    (tmp_path / "hello.txt").write_text("hello")
    rootfs = empty({"bin/busybox": busybox})
    if kind == "folder":
        for name in ("bin", "etc", ".pytest-gvisor", "proc", "dev", "sys", "tmp"):
            (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root/etc/hosts").write_text("127.0.0.1 own.example\n")
        (tmp_path / "root/bin/busybox").write_bytes(busybox)
        (tmp_path / "root/bin/busybox").chmod(0o755)
        rootfs = directory(tmp_path / "root")
    names(web_example=["127.0.0.1"])

    class Files(Handler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)) as port:
        allow = [f"web.example:{port}", f"127.0.0.1:{port}"]
        with gvisor.sandbox(allow=allow, rootfs=rootfs) as box:
            url = f"http://web.example:{port}/hello.txt"
            done = box.exec(["/bin/busybox", "wget", "-q", "-O", "-", url])
            assert (done.stdout, done.stderr) == ("hello", "")
            assert b"own.example" not in box.get("/etc/hosts")
    if kind == "folder":
        assert (tmp_path / "root/etc/hosts").read_text() == "127.0.0.1 own.example\n"


def test_the_relay_ends_when_pytest_is_killed(gvisor: Gvisor, tmp_path: Path) -> None:
    """SIGKILL leaves no process of it."""
    program = (
        "import os, sys\n"
        "from pytest_gvisor import session\n"
        "from pytest_gvisor.programs.proc import children_of_self\n"
        "with session(runsc=sys.argv[1], platform=sys.argv[2]) as gvisor:\n"
        "    with gvisor.sandbox(allow=['127.0.0.1:9']) as box:\n"
        "        box.exec(['true'])\n"
        "        print(*children_of_self(), flush=True)\n"
        "        sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, gvisor.runsc.path, gvisor.platform],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(relay.__file__).parents[2])},
    ) as killed:  # fmt: skip
        assert killed.stdout is not None
        children = [int(pid) for pid in killed.stdout.readline().split()]
        found = [pid for pid in children if relay.__file__ in words_of(pid)]
        assert len(found) == 1
        killed.kill()
    wait_for(lambda: relay.__file__ not in words_of(found[0]), "the end of the relay")


SENDS_AND_DIES = """
import os, socket, sys
peers = [socket.socket() for _ in range(5)]
for peer in peers:
    peer.connect(("127.0.0.1", int(sys.argv[1])))
    peer.send(b"x" * 1000)
os.kill(os.getpid(), 9)
"""


def test_all_that_a_killed_program_has_sent_is_its_own(gvisor: Gvisor, echo: int) -> None:
    """Its figures wait until the relay in the sandbox has passed on what it has left there."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        for _ in range(40):
            done = box.exec(["python3", "-I", "-S", "-c", SENDS_AND_DIES, str(echo)])
            assert done.returncode == -9
            assert done.egress is not None
            (found,) = done.egress.entries
            assert (found.reached, found.sent, done.egress.error) == (5, 5000, "")
            quiet = box.exec(["true"]).egress
            assert quiet is not None
            assert (quiet.reached, quiet.sent, quiet.error) == ((), 0, "")


def test_a_relay_that_is_stopped_is_told(gvisor: Gvisor, echo: int) -> None:
    """A program of root may stop the relay inside: an empty ``reached`` is no proof then."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        done = box.exec(["sh", "-c", "kill -STOP 2"], check=True)
        assert done.egress is not None
        assert done.egress.error == "not all is counted: after 2 s, a connection is not settled"


FEW_DESCRIPTORS = """
import sys
from pytest_gvisor import session
with session(runsc=sys.argv[1], platform=sys.argv[2]) as gvisor:
    with gvisor.sandbox(allow=["127.0.0.1:" + sys.argv[3]]) as box:
        print(box.exec(["python3", "-c", sys.argv[4], sys.argv[3]], check=True).stdout)
"""

ASKS_180_TIMES = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
peers = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(180)]
for peer in peers:
    peer.sendall(b"x")
print(sum(peer.recv(1) == b"x" and peer.close() is None for peer in peers))
"""


def test_where_pytest_has_few_descriptors_connections_wait_and_none_is_reset(
    gvisor: Gvisor, echo: int, tmp_path: Path
) -> None:
    """180 at once under a limit of 100: the relay in the sandbox accepts what it has room for."""
    words = [gvisor.runsc.path, gvisor.platform, str(echo), ASKS_180_TIMES]
    few = ["sh", "-c", 'ulimit -Sn 100 && exec "$@"', "sh", sys.executable, "-c", FEW_DESCRIPTORS]
    done = subprocess.run(
        [*few, *words], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(relay.__file__).parents[2])},
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == ("180", "")


def relays() -> list[int]:
    """The relays that this process has started."""
    return [pid for pid in children_of_self() if relay.__file__ in words_of(pid)]


def test_the_relay_ends_with_its_sandbox(gvisor: Gvisor) -> None:
    """Whether that is closed, or its keeper dies."""
    with gvisor.sandbox(allow=["127.0.0.1:9"]):
        assert len(relays()) == 1
    assert relays() == []


def test_a_relay_that_is_killed_is_an_error_and_no_silence(gvisor: Gvisor, echo: int) -> None:
    """The program is cut off. Its result would have wrong figures."""
    with gvisor.sandbox(allow=[f"127.0.0.1:{echo}"]) as box:
        os.kill(relays()[0], signal.SIGKILL)
        wait_for(lambda: not relays(), "the end of the relay")
        with pytest.raises(Exception, match="relay"):
            box.exec(["true"])


def test_a_sandbox_without_a_list_has_no_relay(gvisor_sandbox: Sandbox) -> None:
    """And no figures."""
    assert gvisor_sandbox.exec(["true"]).egress is None
    assert relays() == []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "Connection refused" in talk(gvisor_sandbox, "127.0.0.1", port)
