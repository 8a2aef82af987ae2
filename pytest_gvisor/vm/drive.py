"""The driver of a VM: starts the warden, passes output on, and reports the end.

The command's output comes as it is, through two files in the VM's folder. That folder lies beside
the session folders and is swept like them. When the caller of `run` ends in any way, the VM is dead
and the folder gone within a second.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator

from pytest_gvisor.base.errors import MachineFailed, MachineTimeout, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.programs import paths, warden
from pytest_gvisor.programs.linux import closing, ready
from pytest_gvisor.sessions.session_folder import SessionDir
from pytest_gvisor.vm import machine as machines
from pytest_gvisor.vm import parts as found_parts

MAX_OUTPUT = 1024 * 1024 * 1024
"""Bytes of one stream: the VM's folder may be in this machine's memory."""

MAX_STATUS = 255
"""The kernel keeps the lowest 8 bits of an exit status: 256 would be success."""

_SHARED = "shared"
"""The folder in the session's that the VM may write: lock, journal and sockets are beside it."""

_PATIENCE = 10.0
"""Seconds for the warden to kill the VM and to remove its folder."""

_POLL = 0.05
_PIECE = 256 * 1024

# QEMU writes this twice for each processor feature that its emulator lacks.
_EXPECTED = "TCG doesn't support requested feature"

Sink = Callable[[bytes], object]


def run(machine: machines.Machine, timeout: float, stdout: Sink, stderr: Sink) -> int:
    """Run the command in a VM, pass its output on as it comes, and return its exit status.

    Raises `MachineFailed` where there is no VM, or it ended before the command. Raises
    `MachineTimeout` where the command had not ended after ``timeout``, boot included. The VM is
    dead then.
    """
    parts = found_parts.find(qemu=machine.qemu, kernel=machine.kernel)
    session = SessionDir.create(SessionDir.choose()[0])
    try:
        with _warden(machine, parts, timeout, session) as process:
            console, shared = _Console(process), os.path.join(session.path, _SHARED)
            tails = [_Tail(shared, "stdout", stdout), _Tail(shared, "stderr", stderr)]
            assert process.stdout is not None
            # The warden sends something at the end.
            while process.poll() is None and not ready(process.stdout.fileno(), seconds=_POLL):
                console.read()
                for tail in tails:
                    tail.pass_on()
            for tail in tails:
                tail.pass_on()
            console.read()
            return _status(shared, process.stdout.read().decode(), timeout, console)
    finally:
        session.remove()


@contextlib.contextmanager
def _warden(
    machine: machines.Machine, parts: found_parts.Parts, timeout: float, session: SessionDir
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the VM under a warden (``programs/warden.py``), and end it with the block.

    None of its processes outlives this one. The warden removes the session's folder.
    """
    folder = session.path
    shared = os.path.join(folder, _SHARED)
    command = machines.vng(machine, parts, shared)
    with stage("vm", f"cannot prepare {folder}"):
        os.mkdir(shared)
        with open(os.path.join(shared, "script"), "wb") as script:
            script.write(machines.guest(machine))
        os.mkdir(os.path.join(folder, "tmp"))
    # vng and virtiofsd put sockets and pid files there.
    env = {
        "PATH": parts.path,
        "HOME": folder,
        "TMPDIR": os.path.join(folder, "tmp"),
        "LC_ALL": "C.UTF-8",
    }
    with stage("vm", "its warden cannot be started"), closing(os.pidfd_open(os.getpid())) as pidfd:
        process = subprocess.Popen(
            paths.command(warden.__file__, pidfd, timeout, folder, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # the warden's, for its answer
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=(pidfd, *session.held),
            start_new_session=True,
            cwd="/",
        )
    try:
        yield process
    finally:
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Let the warden kill the rest and end; its work is bounded."""
    # A Ctrl-C waits until that is over. The warden itself does not get the terminal's signals.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Console:
    """The last lines of the VM's console, of vng and of QEMU.

    They come through one pipe: QEMU opens its standard error anew, and truncates a file then.
    """

    _KEPT = 64 * 1024

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._fd = process.stderr.fileno()
        self._last = b""
        os.set_blocking(self._fd, False)

    def read(self) -> None:
        """Read all pending output: a full pipe would stop the VM."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._fd, _PIECE):
                self._last = (self._last + piece)[-self._KEPT :]

    def end(self) -> str:
        """Return the last lines, to follow a message."""
        text = self._last.decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        kept = [line for line in lines if _EXPECTED not in line]
        return "".join(f"\n  {escape(line)}" for line in kept[-8:])


def _opened(path: str) -> int:
    """Open a file that the VM has left. Raises `FileNotFoundError`, and `MachineFailed` for another
    one than a regular file that can be read.
    """
    try:
        # O_PATH opens no FIFO and no device. The VM may exchange the file at any moment.
        with closing(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as found:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise MachineFailed(f"the VM has left no regular file as {os.path.basename(path)}")
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        text = f"the VM has left a {os.path.basename(path)} that cannot be read: {error.strerror}"
        raise MachineFailed(text) from error


class _Tail:
    """A reader that passes on the bytes that a file gains."""

    def __init__(self, folder: str, name: str, sink: Sink) -> None:
        self._path = os.path.join(folder, name)
        self._sink = sink
        self._at = 0

    def pass_on(self) -> None:
        """Pass on the new bytes. Raises `MachineFailed` if there are too many."""
        with contextlib.suppress(FileNotFoundError), closing(_opened(self._path)) as file:
            while piece := os.pread(file, _PIECE, self._at):
                self._at += len(piece)
                self._sink(piece)
                if self._at > MAX_OUTPUT:
                    raise MachineFailed(
                        f"the command wrote more than {MAX_OUTPUT} bytes",
                        next_step="Write to a file in a folder that is given with --share.",
                    )


def _status(folder: str, told: str, timeout: float, console: _Console) -> int:
    """Return the command's status, from the VM's files and the warden's report."""
    text = ""
    with contextlib.suppress(FileNotFoundError), closing(_opened(f"{folder}/status")) as file:
        text = os.read(file, 100).decode("ascii", "replace").strip()
    if re.fullmatch("[0-9]{1,3}", text) and int(text) <= MAX_STATUS:
        return int(text)
    log = console.end()
    if text == "no-kvm":
        raise MachineFailed(
            f"the VM has no /dev/kvm: its kernel could not load kvm_amd{log}",
            next_step="Use another kernel: --kernel /boot/vmlinuz-….",
        )
    if told == "late":
        raise MachineTimeout(
            f"the command in the VM did not end within {timeout:g} s; the VM is dead{log}",
            next_step="Give it longer with --timeout; the emulated processor is about 40 times "
            "slower than a real one. If it did not boot, use another kernel: --kernel.",
        )
    raise MachineFailed(
        f"the VM ended before its command did (vng: {told or 'its warden was killed'}){log}",
        next_step="The lines above are of vng, QEMU and the VM's console; more memory is given "
        "with --memory.",
    )
