"""A runsc that follows the script beside it, also in faults that the real one never shows.

It answers ``--version``, ``flags``, ``help`` and ``help platforms`` as the real one does. For
``run``, ``kill`` and ``delete`` the script holds a list of steps. Each is the name of a function
here and its arguments. The last step of a list may end the process; without one it ends with 0.

Each test starts this several times. It imports what takes no time, and the rest where it is needed.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SUBCOMMANDS = "\n".join(f"\t{name}   x" for name in ("create", "delete", "flags", "kill", "run"))
HELP = (
    f"Usage: runsc <flags> <subcommand>\n\nSubcommands:\n{SUBCOMMANDS}\n\nAdditional help topics\n"
)
FLAGS = ("debug-log", "ignore-cgroups", "log", "net-disconnect-ok",
         "network", "overlay2", "panic-log", "platform",
         "pod-init-config", "root", "rootless")  # fmt: skip
POINTS = "Name: container/start, optional fields: [env], context fields: [time|cwd]"
PLATFORMS = ("ptrace", "kvm", "systrap")
PR_SET_PDEATHSIG = 1


class Run:
    """One ``runsc run``: the steps of its script."""

    def __init__(self, flags: dict[str, str], name: str) -> None:
        self.flags = flags
        self.name = name
        self.events: _socket.socket | None = None
        self.gofer_pid = 0

    def play(self, steps: list[list[Any]]) -> None:
        """Do one step after the other."""
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def write(self, stream: int, text: str, times: int = 1) -> None:
        """Write text, as Latin-1, to standard output (1) or standard error (2)."""
        data = memoryview(text.encode("latin-1") * times)
        while data:
            data = data[os.write(stream, data) :]

    def pour(self, streams: list[int], mebibytes: int) -> None:
        """Write so many MiB of dots to each of these streams, in turns."""
        block = b"." * (1 << 16)
        for _ in range(mebibytes * 16):
            for stream in streams:
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(stream, rest) :]

    def close(self, stream: int) -> None:
        """Close a standard stream."""
        os.close(stream)

    def echo(self) -> None:
        """Copy standard input to standard output until its end."""
        while data := os.read(0, 65536):
            self.write(1, data.decode("latin-1"))

    def log(self, message: str) -> None:
        """Write one error record as runsc does, with no line feed after it."""
        import json

        self.append("log", json.dumps({"msg": message, "level": "error", "time": "now"}))

    def panic(self, text: str) -> None:
        """Write to the panic log."""
        self.append("panic-log", text)

    def append(self, flag: str, text: str) -> None:
        """Write to the file that a flag names, if it was given."""
        if flag in self.flags:
            with open(self.flags[flag], "a", encoding="latin-1") as file:
                file.write(text)

    def note(self, path: str) -> None:
        """Add an x to a file, to be counted."""
        with open(path, "a") as file:
            file.write("x")

    def connect(self) -> None:
        """Connect to the endpoint of the trace session, and shake hands."""
        with open(self.flags["pod-init-config"], encoding="utf-8") as file:
            endpoint = file.read().partition('"endpoint"')[2].split('"')[1]
        self.events = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.events.connect(endpoint)
        self.events.send(b"\x08\x01")
        assert self.events.recv(100) == b"\x08\x01"

    def event(self, kind: int, payload: str, dropped: int = 0) -> None:
        """Send a message with these bytes, in hexadecimal."""
        head = (
            (8).to_bytes(2, "little") + kind.to_bytes(2, "little") + dropped.to_bytes(4, "little")
        )
        self.send(head + bytes.fromhex(payload))

    def raw_event(self, data: str) -> None:
        """Send bytes, in hexadecimal, that need not be a message."""
        self.send(bytes.fromhex(data))

    def send(self, data: bytes) -> None:
        """Send a datagram; a listener that has hung up is not this one's concern."""
        if self.events is not None:
            try:  # contextlib takes longer to import than this to read
                self.events.send(data)
            except OSError:
                return

    def started(self) -> None:
        """Report that the container's first process was started."""
        self.event(1, "0a0161")

    def task_exit(self, status: int, process: int = 1, thread: int = 1) -> None:
        """Report the end of a thread, with a raw wait status."""
        context = b"\x10" + varint(thread) + b"\x20" + varint(process)
        payload = b"\x0a" + varint(len(context)) + context
        self.event(5, (payload + (b"\x10" + varint(status) if status else b"")).hex())

    def flood(self, messages: int) -> None:
        """Report the ends of so many processes, none of them the first."""
        for number in range(messages):
            self.task_exit(0, process=number + 2, thread=number + 2)

    def state(self) -> None:
        """Leave a sandbox's files in the state folder while it runs: a file, a lock, a socket."""
        import socket

        for kind in ("state", "lock"):
            path = os.path.join(self.flags["root"], f"{self.name}_sandbox:{self.name}.{kind}")
            with open(path, "w") as file:
                file.write("{}")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(os.path.join(self.flags["root"], f"runsc-{self.name}.sock"))

    def gofer(self) -> None:
        """Start a process that ends when this one does, as gofer and sandbox do."""
        import ctypes
        import signal

        reader, writer = os.pipe()
        self.gofer_pid = os.fork()
        if self.gofer_pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.closerange(0, 3)
            words = [sys.executable, "-I", "-S", __file__, "--root", self.flags["root"], "gofer"]
            os.set_inheritable(writer, True)
            os.execv(sys.executable, [*words, str(writer)])
        os.close(writer)
        os.read(reader, 1)  # until it is there

    def kill_gofer(self) -> None:
        """Kill it as soon as an ancestor watches it by a pidfd, and wait for its end."""
        import signal

        deadline = time.monotonic() + 60
        while not any(watches(pid, self.gofer_pid) for pid in ancestors()):
            assert time.monotonic() < deadline, "nobody watches the gofer"
            time.sleep(0.01)
        os.kill(self.gofer_pid, signal.SIGKILL)
        os.waitpid(self.gofer_pid, 0)

    def orphan(self, keeps_streams: bool) -> None:
        """Start a grandchild that nothing ends but SIGKILL, holding the streams or not."""
        import signal

        reader, writer = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if not keeps_streams:
                    os.closerange(0, 3)
                os.close(writer)
                self.hang()
            os._exit(0)
        os.close(writer)
        os.wait()
        os.read(reader, 1)  # until the grandchild is on its way

    def on_term(self, steps: list[list[Any]]) -> None:
        """Do these steps on SIGTERM."""
        import signal

        signal.signal(signal.SIGTERM, lambda *_: self.play(steps))

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        time.sleep(seconds)

    def await_file(self, path: str) -> None:
        """Do nothing until a file is there."""
        deadline = time.monotonic() + 60
        while not os.path.exists(path):
            assert time.monotonic() < deadline, f"no {path}"
            time.sleep(0.01)

    def hang(self) -> None:
        """Do nothing for ever."""
        import signal

        while True:
            signal.pause()

    def spin(self) -> None:
        """Send messages for ever."""
        while True:
            self.task_exit(0, process=2, thread=2)

    def stop(self) -> None:
        """SIGSTOP: only SIGKILL and SIGCONT reach this process from here on."""
        import signal

        os.kill(os.getpid(), signal.SIGSTOP)

    def exit(self, status: int) -> None:
        """End with a status."""
        os._exit(status)

    def signal(self, number: int) -> None:
        """End by a signal."""
        import signal

        signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
        os.kill(os.getpid(), number)
        self.hang()

    def pass_on(self) -> None:
        """Send SIGTERM to the process of ``run``, as ``kill`` does to the workload."""
        import signal

        with open(os.path.join(self.flags["root"], "pid")) as file:
            os.kill(int(file.read()), signal.SIGTERM)


DEFAULTS: dict[str, list[list[Any]]] = {"run": [], "kill": [["pass_on"]], "delete": []}


def ancestors() -> Iterator[int]:
    """This process's parent, its parent, and so on."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])


def watches(pid: int, watched: int) -> bool:
    """Whether a process has a pidfd of another one, by the kernel's list of its descriptors."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fdinfo")
    except PermissionError:
        return False
    for descriptor in descriptors:
        try:
            with open(f"/proc/{pid}/fdinfo/{descriptor}") as file:
                if f"Pid:\t{watched}\n" in file.read():
                    return True
        except FileNotFoundError:
            continue
    return False


def varint(number: int) -> bytes:
    """A protobuf varint."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The global flags, and the subcommand with its arguments."""
    flags: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            return flags, [word, *words]
        name, equals, value = word.lstrip("-").partition("=")
        switch = name in {"ignore-cgroups", "rootless", "version"}
        flags[name] = value if equals else ("true" if switch else next(words))
    return flags, []


def main() -> None:
    """Answer, or play the script."""
    with open(os.path.join(os.path.dirname(__file__), "script"), "rb") as file:
        script: dict[str, Any] = marshal.load(file)
    flags, words = parse(sys.argv[1:])
    usages = [f"  -{name} string\n    \tx\n" for name in FLAGS]
    answers: dict[tuple[str, ...], Callable[[], object]] = {
        ("flags",): lambda: sys.stderr.writelines(usages),
        ("help",): lambda: print(HELP),
        ("help", "platforms"): lambda: print(*script.get("platforms", PLATFORMS), sep="\n"),
        ("trace", "metadata"): lambda: print(POINTS),
    }
    if "version" in flags:
        print("runsc version release-20260101.0\nspec: 1.2.0")
    elif tuple(words) in answers:
        answers[tuple(words)]()
    elif words[0] == "gofer":
        os.write(int(words[1]), b"x")
        Run(flags, "").hang()
    else:
        run = Run(flags, words[-1] if words[0] != "kill" else words[-2])
        if words[0] == "run":
            with open(os.path.join(flags["root"], "pid"), "w") as file:
                file.write(str(os.getpid()))
        run.play(script.get(words[0], DEFAULTS[words[0]]))


if __name__ == "__main__":
    main()
