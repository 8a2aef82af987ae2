"""``--gvisor-explain``: why a test passes on the host and fails in gVisor, or the other way round.

The tests that differ run again in pytests of their own, all of them together: five times on both
sides, then once on each side with a log of system calls. Programs of `programs.warden` own these
pytests, so none of them outlives this process, and each one's folder goes with it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from pytest_gvisor.base.errors import GvisorError, on_error, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_values import NATIVE
from pytest_gvisor.plugin import phase_marks
from pytest_gvisor.programs import clock, paths, warden
from pytest_gvisor.programs.linux import closing, ready
from pytest_gvisor.report import parse
from pytest_gvisor.report.model import Cell, Report, Row, State
from pytest_gvisor.sessions import private
from pytest_gvisor.trace.call_logs import CallLog, failed_as_told, first_difference, sentence

TIMES, MOST_TESTS, MOST_SECONDS = 5, 50, 600.0
"""How often a test that differs runs again, how many such tests do, and the seconds for them."""

_PATIENCE, _SLOWER = 20.0, 4
"""Seconds for tests whose calls are logged, and how often they may take the time without a log."""

_BAD = {State.FAILED, State.ERROR}
_PAGE = "https://gvisor.dev/docs/user_guide/compatibility/"
_TABLE = f"{_PAGE}linux/{'arm64' if platform.machine() == 'aarch64' else 'amd64'}/#"


class Pair(NamedTuple):
    """A test that differs: its cell on the host, and the first other one that is opposite."""

    test: str
    host: Cell
    gvisor: Cell


def why(config: pytest.Config, report: Report) -> Iterator[str]:
    """Yield a sentence for each test that differs between the host and a platform of gVisor."""
    if config.pluginmanager.hasplugin(phase_marks.__name__):
        return  # this is one of the pytests below, in a project that always asks for it
    groups: dict[tuple[str, ...], list[Pair]] = collections.defaultdict(list)
    for pair in [pair for row in report.differing if (pair := _pair(row))][:MOST_TESTS]:
        # The command is ``python -m pytest ID`` and options, which most tests have in common.
        groups[tuple(shlex.split(pair.gvisor.command)[4:])].append(pair)
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if groups and terminal is not None:
        terminal.write_sep("-", "gVisor: the tests that differ run again")
    deadline = clock.monotonic() + MOST_SECONDS
    for words, pairs in groups.items():
        try:
            with stage("explain", "the pytest that repeats it cannot be started"):
                found = _Repeater(config, words, pairs, deadline).sentences()
        except GvisorError as error:
            told = escape(str(error).replace("\n", " "))
            found = {pair.test: f"it did not run again: {told}" for pair in pairs}
        yield from (f"{test}: {text}" for test, text in found.items())


def _pair(row: Row) -> Pair | None:
    host = row.on(NATIVE)
    if host is None or not {host.state} & {*_BAD, State.PASSED}:
        return None
    wanted = {State.PASSED} if host.state in _BAD else _BAD
    other = next((cell for cell in row.verdicts if cell is not host and cell.state in wanted), None)
    return None if other is None else Pair(row.test, host, other)


class _Repeater:
    """Pytests that run some tests again, with the same options."""

    def __init__(
        self, config: pytest.Config, words: Sequence[str], pairs: Sequence[Pair], deadline: float
    ) -> None:
        self._config, self._words, self._pairs, self._deadline = config, words, pairs, deadline
        self._slowest = 0.0
        self._strace = shutil.which("strace", path=paths.SYSTEM_PATH)

    def sentences(self) -> dict[str, str]:
        """Return a sentence for each test."""
        # Twice the same option: pytest takes both of them together.
        sides = NATIVE if "--gvisor-platform" in self._words else f"auto,{NATIVE}"
        states: dict[tuple[str, str], list[State]] = collections.defaultdict(list)
        for _ in range(TIMES):
            report = self._run(None, *self._words, f"--gvisor-platform={sides}")
            for row in parse.parse(report).rows if report else ():
                for cell in row.cells:
                    states[row.test, cell.platform].append(cell.state)
        found, real = {}, []
        for pair in self._pairs:
            one, two = (states[pair.test, cell.platform] for cell in (pair.host, pair.gvisor))
            if not one or not two:
                found[pair.test] = "it did not run again: the pytest that repeats it ended before"
            elif {*one} == {pair.host.state} and {*two} == {pair.gvisor.state}:
                real.append(pair)
            else:
                host, gvisor = (f"{a.count(State.PASSED)} of {len(a)} times" for a in (one, two))
                text = f"a flake: repeated, it passed {host} on the host, and {gvisor} in gVisor"
                found[pair.test] = text
        return found | (self._explained(real) if real else {})

    def _explained(self, pairs: Sequence[Pair]) -> dict[str, str]:
        inside, host = (CallLog(phase_marks.FOLDER, host=which) for which in (False, True))
        self._run(inside, *self._words, "--gvisor-isolation=session")
        missing = "strace(1) is not installed"
        if self._strace is not None:
            self._run(host, "--no-gvisor")
            missing = "" if host.raised else "strace(1) may not trace here"
        return {pair.test: _sentence(pair, host, inside, missing) for pair in pairs}

    def _run(self, log: CallLog | None, *words: str) -> bytes:
        """Run the tests in a pytest: with a log of its calls, or else return its report."""
        config = self._config
        folder = tempfile.mkdtemp(prefix="pytest-gvisor-explain-", dir=private.temporary())
        fifo, report = os.path.join(folder, "boot"), os.path.join(folder, "report.json")
        with on_error(shutil.rmtree, folder, ignore_errors=True):
            os.mkfifo(fifo, 0o600)
        ids = [shlex.split(pair.gvisor.command)[3] for pair in self._pairs]
        # Where the folder of the start is not on this sys.path, ``-m`` would import from it first.
        safe = [] if {"", str(config.invocation_params.dir)} & {*sys.path} else ["-P"]
        argv = [sys.executable, *safe, "-m", "pytest", *ids, *_same(config, folder), *words]
        begin = clock.monotonic()
        left = max(0.1, self._deadline - begin)
        if log is None:
            argv.append(f"--gvisor-report={report}")
        else:  # a test may hang because it is traced
            left = min(left, _PATIENCE + _SLOWER * self._slowest)
            if log.host:
                argv = [str(self._strace), "-f", "-y", "-o", fifo, *argv]
            else:
                argv.append(f"--gvisor-strace={folder}")
        with (
            on_error(shutil.rmtree, folder, ignore_errors=True),
            closing(os.pidfd_open(os.getpid())) as me,
            closing(os.open(fifo, os.O_RDWR | os.O_NONBLOCK)) as lines,
            subprocess.Popen(
                paths.command(warden.__file__, me, left, folder, *argv),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "GITHUB_STEP_SUMMARY": "", "PYTEST_ADDOPTS": ""},
                cwd=config.invocation_params.dir, pass_fds=(me,), start_new_session=True,
            ) as process,
        ):  # fmt: skip
            assert process.stdout is not None
            _follow(lines, process.stdout.fileno(), log)
            self._slowest = max(self._slowest, clock.monotonic() - begin)
            with contextlib.suppress(OSError), open(report, "rb") as file:
                return file.read()
        return b""


def _follow(lines: int, answer: int, log: CallLog | None) -> None:
    """Read lines of a log until the warden answers that all processes have ended."""
    rest, ended = b"", False
    while not ended:
        ended = answer in ready(lines, answer)
        while True:
            try:
                rest += os.read(lines, 1024 * 1024)
            except BlockingIOError:
                break
            *whole, rest = rest.split(b"\n")
            rest = rest[-64 * 1024 :]
            if log is not None:
                for line in whole:
                    log.add(line.decode("utf-8", "backslashreplace"))


def _same(config: pytest.Config, folder: str) -> list[str]:
    """Return options that make another pytest like this one, without its effects on files."""
    option = config.option
    words = [f"--rootdir={config.rootpath}", "--maxfail=0", f"--basetemp={folder}/base"]
    words += ["-c", str(config.inipath)] if config.inipath else []
    words += [f"-p{name}" for name in (*option.plugins, phase_marks.__name__)]
    words += [f"-o{text}" for text in option.override_ini or ()]
    # Among the options of the ini file may be reports, which these pytests would replace.
    words += ["-oaddopts=", f"--import-mode={option.importmode}"]
    words += [f"--confcutdir={option.confcutdir}"] if option.confcutdir else []
    flags = ("noconftest", "disable_plugin_autoload")
    words += [f"--{name.replace('_', '-')}" for name in flags if getattr(option, name, False)]
    files = {"cacheprovider": f"-ocache_dir={folder}/cache", "logging": "-olog_file="}
    return [*words, *(word for name, word in files.items() if config.pluginmanager.hasplugin(name))]


def _sentence(pair: Pair, host: CallLog, inside: CallLog, missing: str) -> str:
    """Return the sentence on a test whose logs are complete."""
    number, fails_inside = phase_marks.number(pair.test), pair.gvisor.state in _BAD
    calls, message = inside.calls[number], (pair.gvisor if fails_inside else pair.host).message
    if not missing and host.raised.get(number, False) is fails_inside:
        missing = "the test ended otherwise under strace(1)"
    if missing:
        text = f"the host's side is missing, because {missing}"
        call = failed_as_told(calls, message) if fails_inside else None
        if call is not None:
            text += f"; in gVisor, {call.shown} {call.answer}: {_TABLE}{call.name}"
        return escape(text)
    found = first_difference(host.calls[number], calls, message, fails_inside=fails_inside)
    if found is None:
        return f"no call has another error or count; the data of one may differ: {_PAGE}"
    return escape(f"{sentence(*found)}: {_TABLE}{found[0].name}")
