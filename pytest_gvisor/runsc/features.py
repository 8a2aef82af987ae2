"""The features of a runsc by its own answers: version, flags, subcommands, platforms.

runsc differs by release, so nothing is assumed. The checked file is executed by its descriptor with
`--version`, `flags`, `help` and `help platforms`, all at the same time. All four have one deadline,
and their output is bounded. It is escaped before it gets into a message.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pytest_gvisor.base.errors import LaunchError, RunscFailed, UnwantedRelease, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.base.trust import SHORTAGES
from pytest_gvisor.programs import ask_runsc, clock
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import ENVIRONMENT, command
from pytest_gvisor.runsc.locate import CheckedBinary

DEADLINE = 20.0
"""Seconds for all four. They take 0.06 on two idle processors, and a multiple on busy ones. On an
emulated one they take 40 times as long."""

_PROGRAM = ask_runsc.__file__
OUTPUT_LIMIT = 256 * 1024

QUESTIONS = (("--version",), ("flags",), ("help",), ("help", "platforms"))
_SHOWN = 400

# Releases before this date register at the start of each process, later ones for kvm alone.
_REGISTERS_UNTIL = dt.date(2026, 7, 14)


_OLDEST = "20240729"
# gVisor got this flag between March and July 2024, and the release of September 2026 has it too.
# It tells more than a date: a build from source may have none.
_FLAG_OF_OLDEST = "net-disconnect-ok"

# The forms of Go's flag.PrintDefaults ("  -name type", the usage in a line of its own after a tab)
# and of google/subcommands ("\tname   synopsis" under "Subcommands…:").
_VERSION = re.compile(r"^runsc version +(\S.*?)\s*$", re.MULTILINE)
_DATE = re.compile(r"(?<!\d)(20\d\d)(\d\d)(\d\d)(?!\d)")
_FLAG = re.compile(r"^ {2}--?([A-Za-z0-9][\w.-]*)", re.MULTILINE)
_SUBCOMMANDS = re.compile(r"^Subcommands.*:\n((?:[ \t]+\S.*\n?)*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The answers of a runsc, as values."""

    version: str
    """The version as users know it: ``20240729.0``."""

    date: dt.date | None
    """The date of the version, or None if it has none."""

    flags: frozenset[str] = field(repr=False)
    """The names of its flags, without dashes."""

    subcommands: frozenset[str] = field(repr=False)
    """The names of its subcommands."""

    platforms: frozenset[Platform]
    """The platforms that are compiled in. Whether they work on this host is another question."""


def registers_in_vain(date: dt.date | None, platform: Platform) -> bool:
    """Whether a runsc of ``date`` registers for a membarrier(2) that ``platform`` does not use.

    See programs/child.py.
    """
    used = platform not in (Platform.SYSTRAP, Platform.PTRACE)
    return date is not None and date < _REGISTERS_UNTIL and not used


def parse_version(text: str) -> tuple[str, dt.date | None]:
    """Return a version in the form for users, and its date if it holds one.

    ``0.0~20240729.0`` (Debian) and ``release-20240729.0`` (upstream) are both ``20240729.0``. Any
    other text, such as Nix's ``VERSION_MISSING``, stays as it is.
    """
    shown = text.strip().removeprefix("release-").removeprefix("0.0~")
    date = None
    if match := _DATE.search(shown):
        with contextlib.suppress(ValueError):
            date = dt.date(*map(int, match.groups()))
    return shown, date


# --- asking


class _Question:
    """One running ``runsc WORDS…``, and the file that it prints to."""

    def __init__(
        self, command: str, process: subprocess.Popen[bytes], pidfd: int | None, file: int
    ) -> None:
        self._command, self._process, self._pidfd, self._file = command, process, pidfd, file
        self._output = b""

    def wait(self, end: float) -> None:
        """Wait for its end, and read its output. Raises `RunscFailed` if that is late."""
        over, is_over = select.poll(), True
        if self._pidfd is not None:
            over.register(self._pidfd)
            is_over = bool(over.poll(1000 * max(0.0, end - clock.monotonic())))
        self._output = os.pread(self._file, OUTPUT_LIMIT, 0)
        if not is_over:
            raise self._failed("did not answer in time")

    def answer(self) -> str:
        """Return all output as text; only a death by signal makes it useless."""
        if len(self._output) == OUTPUT_LIMIT:
            raise self._failed(f"printed more than {OUTPUT_LIMIT} bytes")
        if self._process.returncode < 0:
            raise self._failed(f"was ended by signal {-self._process.returncode}")
        return self._output.decode(errors="backslashreplace")

    def _failed(self, what: str) -> RunscFailed:
        """Return the error that names this command, its failure ``what``, and its first output."""
        start = self._output[:_SHOWN].decode(errors="backslashreplace")
        return RunscFailed(
            f"runsc {what} when it was asked for its features",
            command=self._command,
            stderr=escape(start),
        )


@contextlib.contextmanager
def _asking(checked: CheckedBinary, words: tuple[str, ...], error_pipe: int) -> Iterator[_Question]:
    """Ask one question; at the end of the block nothing of it is left."""
    fds = (checked.fd, error_pipe)
    with closing(os.memfd_create("answer")) as file:
        # A group of its own, so that a descendant can be killed with it. Both streams are one:
        # `runsc flags` answers on standard error and the others on standard output.
        process = subprocess.Popen(
            command(_PROGRAM, os.getpid(), *fds, OUTPUT_LIMIT, *words),
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        try:
            with contextlib.ExitStack() as held:
                pidfd = None
                # A handler of SIGCHLD may wait for each child: the number of an ended one is free.
                with contextlib.suppress(ProcessLookupError):
                    pidfd = held.enter_context(closing(os.pidfd_open(process.pid)))
                yield _Question(shlex.join([checked.path, *words]), process, pidfd, file)
        finally:
            # The number is still the leader's: it is a zombie if it has ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)  # at once, but for a process that the kernel holds


def ask(
    checked: CheckedBinary,
    questions: Sequence[tuple[str, ...]] = QUESTIONS,
    *,
    deadline: float = DEADLINE,
) -> tuple[str, ...]:
    """Ask ``checked`` all questions at once within ``deadline`` seconds, and return the answers.

    Raises `RunscFailed` where it cannot be executed, or overruns the deadline or `OUTPUT_LIMIT`
    bytes. Raises `LaunchError` where a step on the way fails, or this process is short of
    descriptors, processes or memory. Nothing that was started is left then.
    """
    end = clock.monotonic() + deadline
    why = f"{checked.path} cannot be asked for its features"
    with contextlib.ExitStack() as started, stage("runsc", why):
        reader, low = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        started.enter_context(closing(reader))
        with closing(low):
            # Above 2: if pytest has a standard stream closed, the pipe would have its number, and
            # the child's own stream would take its place.
            writer = started.enter_context(closing(fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 3)))
        asked = [started.enter_context(_asking(checked, words, writer)) for words in questions]
        for question in asked:
            question.wait(end)
        with contextlib.suppress(BlockingIOError):
            raise _not_asked(checked, os.read(reader, 4096).decode())
    return tuple(question.answer() for question in asked)


def _not_asked(checked: CheckedBinary, report: str) -> LaunchError | RunscFailed:
    """Return the error for the first report in the error pipe."""
    stage, number, text = report.splitlines()[0].split(" ", 2)
    if stage == "execve" and int(number) not in SHORTAGES:
        return RunscFailed(f"{checked.path} cannot be executed: {text}")
    return LaunchError(stage, f"runsc cannot be asked for its features: {text}", errno=int(number))


# --- understanding


def parse(checked: CheckedBinary, answers: Sequence[str]) -> Features:
    """Return the features in the answers to `QUESTIONS`.

    Raises `RunscFailed` where ``checked`` answers as runsc does not. Raises `UnwantedRelease` for a
    release before 20240729.
    """
    version, flags, subcommands, platforms = answers
    match = _VERSION.search(version)
    if match is None:
        raise _no_runsc(checked, "--version", version)
    text, date = parse_version(escape(match[1])[:_SHOWN])
    known_flags = frozenset(_FLAG.findall(flags))
    if "root" not in known_flags:
        raise _no_runsc(checked, "flags", flags)
    known_subcommands = _parse_subcommands(subcommands)
    if "run" not in known_subcommands:
        raise _no_runsc(checked, "help", subcommands)
    if _FLAG_OF_OLDEST not in known_flags:
        raise UnwantedRelease(
            f"runsc {text} ({escape(checked.path)}) is older than {_OLDEST}, and is not used: "
            "`pytest-gvisor install` gets the current release",
            version=text,
            wanted=f">={_OLDEST}",
        )
    return Features(
        version=text,
        date=date,
        flags=known_flags,
        subcommands=known_subcommands,
        platforms=_parse_platforms(platforms),
    )


def _no_runsc(checked: CheckedBinary, word: str, answer: str) -> RunscFailed:
    shown = escape(answer[:_SHOWN])
    return RunscFailed(
        f"{checked.path} does not answer as runsc does: {shown!r}",
        command=shlex.join([checked.path, word]),
        stderr=shown,
    )


def _parse_subcommands(text: str) -> frozenset[str]:
    lines = map(str.split, "".join(_SUBCOMMANDS.findall(text)).splitlines())
    return frozenset(words[0] for words in lines if words)


def _parse_platforms(text: str) -> frozenset[Platform]:
    """Return the lines that have the form of a platform's name."""
    found = set()
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.add(Platform(line.strip()))
    return frozenset(found)
