"""The logs that runsc writes about a run: ``--log`` records, panic log, debug logs.

All of it may hold text that the workload chose. So it is read bounded, decoded without failing, and
control characters are escaped.
"""

from __future__ import annotations

import json
import os
import re

from pytest_gvisor.escape import escape

_MAX = 256 * 1024
_MAX_PANIC = 4096


def text(path: str) -> str:
    """Return the end of a file as escaped text, at most 256 KiB; ``""`` if it is missing."""
    return escape(_read(path))


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

    What cannot be read as such is one message of its own, so that nothing is lost.
    """
    raw = _read(path)
    decoder = json.JSONDecoder()
    found = []
    position = 0
    while position < len(raw):
        if raw[position].isspace():
            position += 1
            continue
        # As guest/checked_json.py, but that one text follows another.
        try:
            entry, position = decoder.raw_decode(raw, position)
        except (ValueError, RecursionError):
            found.append(raw[position:][:2000])
            break
        message = entry.get("msg") if isinstance(entry, dict) else None
        found.append(str(message) if message is not None else json.dumps(entry))
    return tuple(map(escape, found))


def folder(path: str) -> dict[str, str]:
    """Return the debug logs in a folder by their subcommand: ``run``, ``gofer``, ``boot``, …"""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return {}
    found: dict[str, str] = {}
    for name in names:
        # runsc.log.20260101-120000.000000.boot.txt
        command = name.split(".")[-2] if name.count(".") > 1 else name
        found[command] = found.get(command, "") + text(os.path.join(path, name))
    return found


_OTHER_RELEASE = re.compile(
    r'build label "([^"]*)".* does not match the expected release "([^"]*)"'
)


def other_release(panic: str) -> str:
    """Describe the mismatch if a sentry is of another release than its runsc; else ``""``."""
    found = _OTHER_RELEASE.search(panic.partition("\n")[0])
    return f"the sentry beside it is {found[1]}, and runsc is {found[2]}" if found else ""


_PREFIX = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\] ")
_FINAL = re.compile(r"(?:FATAL ERROR|fatal error|panic): (.*)")
# What runs without a fault warn of too, in boot, gofer and run logs, by release and by machine.
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

    Its last words before the end, else the last warning or error that is not each boot's own.
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


def debugged(log: str) -> tuple[list[str], list[str]]:
    """Return a boot log's lines (see `relevant`), and the last lines of the strace in it.

    A strace is no warning, whatever words it quotes.
    """
    lines = log.splitlines()
    boot = "\n".join(line for line in lines if _STRACE not in line)
    return relevant(boot), [line for line in lines if _STRACE in line][-_MOST_CALLS:]
