"""The logs that runsc writes about a run: ``--log`` records, panic log, debug logs.

A workload can choose a part of their text. So at most 256 KiB are read, bytes that are not UTF-8
are shown as escapes, and so are control characters.
"""

from __future__ import annotations

import json
import os
import re

from pytest_gvisor.base.errors import on_error
from pytest_gvisor.base.escape import escape
from pytest_gvisor.run.capture import Capture, Drain
from pytest_gvisor.sessions.private import make_private

_MAX = 256 * 1024
_MAX_PANIC = 4096
_KEPT = 16 * 1024 * 1024
"""Bytes of one debug log that are kept, of its beginning and its end."""

_COMMANDS = ("boot", "gofer", "restore", "run")
"""The subcommands of runsc that write debug logs."""


class DebugLogs:
    """The debug logs of one run, each of them a named pipe in a folder.

    A file would grow with each system call of a workload. runsc waits while a pipe is full.
    """

    def __init__(self, folder: str) -> None:
        self._by_command: dict[str, Drain] = {}
        make_private(folder)
        with on_error(self.close):
            for command in _COMMANDS:
                path = os.path.join(folder, command)
                os.mkfifo(path, 0o600)
                # Opened for writing too: a pipe without a writer would read as ended before runsc
                # opens it.
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                self._by_command[command] = Drain(fd, Capture(_KEPT))

    @property
    def drains(self) -> list[Drain]:
        """The readers of the pipes."""
        return list(self._by_command.values())

    def captured(self) -> dict[str, Capture]:
        """Read all pending bytes; return each log that is not empty, by subcommand."""
        for drain in self.drains:
            drain.rest()
        return {name: d.capture for name, d in self._by_command.items() if d.capture.total}

    def keep(self, folder: str) -> None:
        """Write the kept bytes of each log to a folder. Raises `OSError`."""
        os.mkdir(folder, 0o700)
        for command, log in self.captured().items():
            with open(os.path.join(folder, f"{command}.log"), "wb") as file:
                file.write(log.data())

    def close(self) -> None:
        """Close the pipes."""
        while self._by_command:
            os.close(self._by_command.popitem()[1].fd)


def end(log: Capture) -> str:
    """Return the end of a log as escaped text, at most 256 KiB, and the number of bytes before."""
    text = escape(log.last(_MAX).decode("utf-8", "backslashreplace"))
    return text if log.total <= _MAX else f"{_CUT}{log.total - _MAX:,} bytes before …]\n{text}"


def panic(path: str) -> str:
    """Return the beginning of a panic log as escaped text, at most 4 KiB, or ``""``.

    Go's runtime writes the cause first. The stacks of the goroutines follow, the one that failed at
    their head.
    """
    return escape(_read(path, beginning=_MAX_PANIC))


def _read(path: str, *, beginning: int = 0) -> str:
    """Read ``beginning`` bytes of a file, or the last 256 KiB."""
    try:
        with open(path, "rb") as file:
            if not beginning:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX))
            return file.read(beginning or _MAX).decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def records(path: str) -> tuple[str, ...]:
    """Return the messages in a ``--log`` file: JSON objects, with nothing between them.

    Text that is not such an object becomes a message of its own, so that nothing is lost.
    """
    raw = _read(path)
    decoder = json.JSONDecoder()
    found, position = list[str](), 0
    while position < len(raw):
        if raw[position].isspace():
            position += 1
            continue
        # As guest/wire/checked_json.py, but that one text follows another.
        try:
            entry, end = decoder.raw_decode(raw, position)
            message = entry.get("msg") if isinstance(entry, dict) else None
            # Of a deep value that can just be read, a text may be too deep.
            found.append(str(message) if message is not None else json.dumps(entry))
        except (ValueError, RecursionError):
            found.append(raw[position:][:2000])
            break
        position = end
    return tuple(map(escape, found))


_OTHER_RELEASE = re.compile(
    r'build label "([^"]*)".* does not match the expected release "([^"]*)"'
)


def other_release(panic: str) -> str:
    """Describe the mismatch if a sentry is of another release than its runsc; else ``""``."""
    found = _OTHER_RELEASE.search(panic.partition("\n")[0])
    return f"the sentry beside it is {found[1]}, and runsc is {found[2]}" if found else ""


_PREFIX = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\] ")
_FINAL = re.compile(r"(?:FATAL ERROR|fatal error|panic): (.*)")
# Warnings in the logs of runs without a fault, on some release or machine.
_USUAL = (
    "Not setting product_name",
    "Failure to execute command",
    "ignoring unknown mount option",
    "Host limit is lower than recommended",
    "SECCOMP WARNING",
    "--allow-suid is disabled",
    "No precompiled program found",
    "gVisor startup is slower",
    "No usable null network namespace",
    "Unable to pin the gofer's network namespace",
    "Cannot pin files to the pin ring",
    "Sandbox still running 500ms after",
    'Sidecar "',
    "embedded sidecar binaries are deprecated",
    'Host setting "',
    "Error forwarding signal",
    "Failed to read TCP",
    "Failed to read if TCP SACK",
    "Failed to open /proc/net/",
    # A sandbox may end while runsc asks it for the status, which is the sentry's own then.
    "Will try waiting on the sandbox process instead",
)


def cause(*texts: str) -> str:
    """Return the best line on why a sandbox ended, from the first text with one, or ``""``.

    It is the line of a panic or a fatal error, else the last warning or error that runs without a
    fault do not have.
    """
    for text in texts:
        if found := _FINAL.search(text):
            return found[1].strip()
    for text in texts:
        for line in reversed(text.splitlines()):
            if line[:1] in "WEF" and _PREFIX.match(line) and not _is_usual(line):
                return _PREFIX.sub("", line).strip()
    return ""


def _is_usual(line: str) -> bool:
    return any(words in line for words in _USUAL)


_MOST_LINES = 30
_MOST_CALLS = 40
_TELLING = ("panic", "fatal", "FATAL", "error", "Error")


def relevant(log: str) -> list[str]:
    """Return the relevant lines of a boot log: warnings and errors, else its last ones.

    Warnings of runs without a fault are left out.
    """
    lines = log.splitlines()
    telling = [
        line
        for line in lines
        if (line[:1] in "WEF" or any(word in line for word in _TELLING)) and not _is_usual(line)
    ]
    return (telling or lines)[-_MOST_LINES:]


_STRACE = "strace.go"
_CUT = "[… "


def debugged(log: str) -> tuple[list[str], list[str]]:
    """Return a boot log's lines (see `relevant`), and the last lines of the strace in it.

    A line of the strace never counts as a warning, even if it quotes ``error``. A log that was cut
    begins with a line that says so.
    """
    lines = log.splitlines()
    cut = [lines.pop(0)] if log.startswith(_CUT) else []
    boot = "\n".join(line for line in lines if _STRACE not in line)
    return cut + relevant(boot), [line for line in lines if _STRACE in line][-_MOST_CALLS:]
