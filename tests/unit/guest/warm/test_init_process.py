"""The guest program on this machine, spoken to in its own protocol."""

import ast
import contextlib
import os
import secrets
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.guest.warm import children
from pytest_gvisor.guest.wire.frames import TAG_SIZE, WINDOW, Encoder
from tests.unit.sandbox.conftest import GUEST, PATIENCE, Guest
from tests.waiting import wait_for

PROGRAM = [*GUEST.parent.glob("*.py"), *GUEST.parent.with_name("wire").glob("*.py")]


ROOT = {"uid": 0, "gid": 0, "groups": []}


def text_of(seen: list[tuple[dict[str, Any], bytes]], stream: int) -> bytes:
    """The data of one stream."""
    return b"".join(p for m, p in seen if m["op"] == "data" and m["s"] == stream)


def of(seen: list[tuple[dict[str, Any], bytes]], op: str) -> dict[str, Any]:
    """The only message of a kind."""
    (found,) = [message for message, _payload in seen if message["op"] == op]
    return found


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: path.name)
def test_it_is_python_3_8_and_imports_the_standard_library_alone(path: Path) -> None:
    """Each of its modules can be parsed by Python 3.8 and needs no package, nor this one."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    own = {module.stem for module in PROGRAM}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            assert top in sys.stdlib_module_names | own | {"pytest_gvisor"}, name


@pytest.mark.parametrize("user", sorted({os.getuid(), 65534 if os.getuid() == 0 else os.getuid()}))
def test_a_program_has_the_default_action_of_each_signal(user: int) -> None:
    """Signals that whoever started the guest ignores are not ignored by its programs."""
    ignores = f"import signal, sys; sys.path.insert(0, {str(GUEST.parent)!r}); "
    ignores += "import init_process as guest; "
    ignores += "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, signal.SIGUSR1)]; "
    guest = Guest(sys.executable, "-c", ignores + "guest.main()")
    try:
        guest.run(1, "grep", "SigIgn", "/proc/self/status", uid=user)
        ignored = int(text_of(guest.until("exit", "eof", "eof"), 1).split()[1], 16)
    finally:
        guest.close()
    assert [n for n in signal.valid_signals() if ignored >> (n - 1) & 1] == []


def test_a_program_without_input_reads_an_empty_one_and_cannot_write_to_it(guest: Guest) -> None:
    """Its standard input is /dev/null, open for reading alone."""
    guest.run(1, "sh", "-c", "cat; echo x 2>/dev/null >&0 || readlink /proc/self/fd/0")
    assert text_of(guest.until("exit", "eof", "eof"), 1) == b"/dev/null\n"


def test_a_stream_that_gets_no_credit_holds_nobody_up(guest: Guest) -> None:
    """A stream stops at its window while another program ends; with credit it goes on."""
    guest.run(1, "head", "-c", str(3 * WINDOW), "/dev/zero")
    got = 0
    while got < WINDOW:
        message, payload = guest.receive()
        got += len(payload) if message["op"] == "data" else 0
    guest.run(2, "echo", "hi")
    seen = guest.until("exit", "eof", "eof", number=2)
    assert {m["id"] for m, _p in seen if m["op"] in {"data", "eof"} and m.get("s") == 1} == {2}
    assert got == WINDOW
    for _ in range(2):
        guest.send({"op": "credit", "id": 1, "s": 1, "n": WINDOW})
    seen = guest.until("exit", "eof", "eof", number=1)
    assert got + len(text_of(seen, 1)) == 3 * WINDOW


def sleeping(seconds: str) -> list[Path]:
    """The processes of this machine that sleep so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().endswith(f"sleep\0{seconds}\0".encode()):
                found.append(path)
    return found


def test_a_kill_of_nothing_kills_nothing(guest: Guest) -> None:
    """A number that was never given out is no tree."""
    guest.send({"op": "kill", "id": 2, "of": 77, "uid": 0})
    assert of(guest.until("killed"), "killed")["left"] == 0


@pytest.mark.parametrize("bad", ["/a\0b", "/\ud800"], ids=["nul", "surrogate"])
def test_what_is_no_path_is_refused(guest: Guest, bad: str) -> None:
    """A NUL byte, or a character that no encoding has, is an error of that one request."""
    guest.run(1, "true", cwd=bad)
    guest.send({"op": "put", **ROOT, "id": 2, "path": bad, "mode": 0o600})
    guest.send({"op": "get", **ROOT, "id": 3, "path": bad})
    seen = guest.until("failed", "failed", "failed")
    assert [(m["id"], m["errno"]) for m, _p in seen] == [(1, 22), (2, 22), (3, 22)]
    guest.run(4, "true")
    assert of(guest.until("exit", "eof", "eof"), "exit")["status"] == 0


def test_a_running_program_is_never_forgotten() -> None:
    """A kill finds the tree of a program after any number of later starts."""
    forgetful = (
        f"import sys; sys.path.insert(0, {str(GUEST.parent)!r}); import init_process as guest; "
    )
    guest = Guest(sys.executable, "-c", forgetful + "guest._REMEMBERED = 2; guest.main()")
    mine = str(1000 + secrets.randbelow(10**9) / 10**6)
    try:
        for number in (1, 2):
            guest.run(number, "sh", "-c", f"echo up; setsid sleep {mine} & exec sleep {mine}")
            guest.until("data")
        for number in range(3, 8):
            guest.run(number, "true")
            guest.until("exit", "eof", "eof")
        wait_for(lambda: len(sleeping(mine)) == 4, "the fork of a shell")
        guest.send({"op": "kill", "id": 8, "of": 1, "uid": 0})
        seen = guest.until("killed", "exit", "eof", "eof")
        assert (of(seen, "killed")["left"], of(seen, "exit")["status"]) == (0, signal.SIGKILL)
        assert len(sleeping(mine)) == 2
    finally:
        guest.close()


@pytest.mark.parametrize("tag", [bytes(8), b"another!"])
def test_at_rest_another_frame_ends_it(guest: Guest, tag: bytes) -> None:
    """Nobody but the host has the tag, so anything else is no frame of the host's."""
    guest.send({"op": "rest", "id": 1, "tag": (b"x" * TAG_SIZE).hex()})
    guest.until("answer")
    guest.socket.sendall(Encoder(tag).head({"op": "wake", "id": 0, "restored": 0}))
    assert guest.process.wait(PATIENCE) != 0
    guest.process.returncode = 0  # for the fixture, which sees it end


@pytest.mark.parametrize(
    ("killed", "told"), [(True, signal.SIGKILL), (False, signal.SIGHUP)], ids=["kill", "hangup"]
)
def test_a_killed_program_has_ended_by_the_kill(killed: bool, told: int) -> None:
    """gVisor may send it SIGHUP amid that. Without a kill, SIGHUP is its end."""
    sent: list[dict[str, Any]] = []
    program = children.Exec(cast("Any", SimpleNamespace(send=sent.append)), 7)
    program.killed = killed
    program.end(signal.SIGHUP)
    assert sent == [{"op": "exit", "id": 7, "status": told}]
