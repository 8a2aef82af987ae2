"""`Sandbox.put`, `get` and `ping`."""

import errno
import os
from typing import Any

import pytest

from pytest_gvisor import Gvisor, InsideError, Sandbox, UsageError, is_gvisor_kernel


def test_files_go_in_and_come_out(gvisor_sandbox: Sandbox) -> None:
    """Any bytes, any size, any name; the folders above are made, and the mode is exact."""
    for path, data in {
        "/tmp/empty": b"",
        "/tmp/a/b/c/large": os.urandom(5_000_000),
        "/tmp/ä b\n\udcff": b"odd",
    }.items():
        gvisor_sandbox.put(path, data, mode=0o640)
        assert gvisor_sandbox.get(path) == data
        done = gvisor_sandbox.exec(["stat", "-c", "%a %u %s", path], check=True)
        assert done.stdout == f"640 0 {len(data)}\n"


def test_text_is_utf_8_and_a_file_is_replaced(gvisor_sandbox: Sandbox) -> None:
    """A shorter file leaves nothing of the longer one, and a script can be run."""
    gvisor_sandbox.put("/tmp/x", "a long text, é")
    assert gvisor_sandbox.get("/tmp/x") == "a long text, é".encode()
    gvisor_sandbox.put("/tmp/x", "#!/bin/sh\necho run\n", mode=0o755)
    assert gvisor_sandbox.exec(["/tmp/x"]).stdout == "run\n"


def test_what_a_program_writes_can_be_read(gvisor_sandbox: Sandbox) -> None:
    """Programs' files and files of the kernel can be read."""
    gvisor_sandbox.exec(["sh", "-c", "printf '\\377x' > /tmp/made"], check=True)
    assert gvisor_sandbox.get("/tmp/made") == b"\xffx"
    linux, version, release, *_ = gvisor_sandbox.get("/proc/version").decode().split()
    assert (linux, version, is_gvisor_kernel(release)) == ("Linux", "version", True)


def test_what_the_kernel_refuses_is_an_error(gvisor_sandbox: Sandbox) -> None:
    """Folders, FIFOs and devices are no files; read-only files stay so."""
    gvisor_sandbox.exec(["mkfifo", "/tmp/fifo"], check=True)
    for path, word in {
        "/tmp/missing": "ENOENT",
        "/tmp": "EISDIR",
        "/tmp/fifo": "EINVAL",
        "/dev/zero": "EINVAL",
        "/usr/bin/env/x": "ENOTDIR",
    }.items():
        with pytest.raises(InsideError, match=word):
            gvisor_sandbox.get(path)
    for path in ("/usr/new", "/tmp", "/tmp/fifo", "/dev/zero", "/usr/bin/env/x"):
        with pytest.raises(InsideError):
            gvisor_sandbox.put(path, b"x")
    assert gvisor_sandbox.exec(["true"]).returncode == 0


def test_a_user_has_the_rights_of_its_own(gvisor_sandbox: Sandbox) -> None:
    """The user owns what it makes, and other files are EACCES. A mode of None changes no mode."""
    box, me = gvisor_sandbox, "1000:1000"
    box.put("/tmp/mine/file", "1", mode=None, user=me)
    box.exec(["chmod", "750", "/tmp/mine/file"], user=me, check=True)
    box.put("/tmp/mine/file", "2", mode=None, user=me)
    done = box.exec(["stat", "-c", "%a %u %g", "/tmp/mine", "/tmp/mine/file"], check=True)
    assert done.stdout == "755 1000 1000\n750 1000 1000\n"
    assert box.get("/tmp/mine/file", user=(1000, 1000)) == b"2"
    box.put("/tmp/secret", "3", mode=0o600)
    for act in (lambda: box.get("/tmp/secret", user=me), lambda: box.put("/etc/x", "", user=me)):
        with pytest.raises(InsideError, match="EACCES"):
            act()
    assert box.get("/tmp/secret") == b"3"
    box.put("/etc/x", "root again")
    assert box.exec(["stat", "-c", "%u %g", "/etc/x"], check=True).stdout == "0 0\n"


def test_a_file_has_a_largest_size(gvisor_sandbox: Sandbox) -> None:
    """A sparse file of a hundred gigabytes is an error, soon, and not this machine's memory."""
    gvisor_sandbox.exec(["truncate", "-s", "100G", "/tmp/sparse"], check=True)
    with pytest.raises(InsideError, match="longer than 1000000 bytes"):
        gvisor_sandbox.get("/tmp/sparse", limit=1_000_000)
    gvisor_sandbox.put("/tmp/ten", b"x" * 10)
    assert gvisor_sandbox.get("/tmp/ten", limit=10) == b"x" * 10
    with pytest.raises(InsideError, match="longer than 9"):
        gvisor_sandbox.get("/tmp/ten", limit=9)


@pytest.mark.gvisor(shm="1M")
def test_a_full_disk_is_an_error(gvisor_sandbox: Sandbox) -> None:
    """The error for data that does not fit has the kernel's reason."""
    with pytest.raises(InsideError, match="ENOSPC"):
        gvisor_sandbox.put("/dev/shm/large", b"x" * (2 << 20))
    assert gvisor_sandbox.exec(["true"]).returncode == 0


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("get", ["relative"]), ("get", [""]), ("get", ["/a\0b"]), ("get", ["/" + "x" * 5000]),
        ("get", [b"/x"]), ("put", ["x", b""]), ("put", ["/tmp/x", b"", -1]),
        ("put", ["/tmp/x", b"", True]), ("forward", [0]), ("forward", [65536]),
        ("forward", ["80"]), ("wait_for_port", [True]), ("wait_for_port", [80, -1]),
        ("ping", [float("nan")]), ("get", ["/\ud800"]), ("put", ["/\ud800", b""]),
        ("port", [0]), ("wait_for_http", [0]), ("wait_for_http", [80, "/", 200, -1]),
    ],
    ids=range(19),
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(unconnected: Sandbox, name: str, args: list[Any]) -> None:
    """Senseless arguments are refused before the sandbox gets a request."""
    with pytest.raises(UsageError):
        getattr(unconnected, name)(*args)


def test_a_limit_is_a_number(unconnected: Sandbox) -> None:
    """A size as text, such as that of `memory`, is refused, and the sandbox lives."""
    with pytest.raises(UsageError, match="limit='10M' is no number of bytes"):
        unconnected.get("/tmp/x", limit="10M")  # type: ignore[arg-type]


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox that fails the test when it is used."""
    from types import SimpleNamespace

    made = Sandbox.__new__(Sandbox)
    request = SimpleNamespace(settings=SimpleNamespace(timeout=1.0))
    made._request = request  # type: ignore[assignment]
    monkeypatch.setattr(made, "_live", lambda: pytest.fail("it was used"))
    return made


def test_it_can_be_asked_whether_it_is_well(gvisor_sandbox: Sandbox) -> None:
    """The answer's time comes back."""
    assert 0 < gvisor_sandbox.ping(timeout=50) < 50
    assert gvisor_sandbox.alive


def test_links_of_the_system_and_of_one_s_own_are_followed(gvisor: Gvisor) -> None:
    """Through folders, relative and absolute, to a file that is not there yet, and of a user."""
    make = (
        "mkdir -p /data/real; ln -s real /data/folder; ln -s /data/real/new /data/new;"
        "ln -s /data/folder/one /tmp/one; ln -s ../data/folder /tmp/two; ln -s loop /data/loop;"
        "chmod 777 /data/real"
    )
    with gvisor.sandbox() as sandbox:
        sandbox.exec(["sh", "-c", make], check=True)
        assert sandbox.get("/bin/true") == sandbox.get("/usr/bin/true")
        assert sandbox.get("/bin/sh")[:4] == b"\x7fELF"
        assert sandbox.get("/proc/self/status").startswith(b"Name:")
        places = {
            "/data/folder/a": "a", "/data/new": "new", "/tmp/one": "one", "/tmp/two/b/c": "b/c",
            "//data/./folder/../real/d": "d",
        }  # fmt: skip
        for path, place in places.items():
            sandbox.put(path, path)
            assert sandbox.get(f"/data/real/{place}") == sandbox.get(path) == path.encode()
        with pytest.raises(InsideError) as found:
            sandbox.get("/data/loop")
        assert found.value.errno == errno.ELOOP
        sandbox.exec(["sh", "-c", "cd /tmp; mkdir mine; ln -s mine own"], user=1000, check=True)
        sandbox.put("/tmp/own/file", "mine", user=1000)
        assert sandbox.get("/tmp/mine/file") == b"mine"
