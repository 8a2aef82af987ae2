"""The end of a session whose tests inside have sent files: writes them, and says what came back."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_gvisor.inside.returned import MOST_LINES, Store, Tally

_KEY = "gvisor_returned"
_FEW = 5
_tally_key = pytest.StashKey[Tally]()


def write(session: pytest.Session, store: Store) -> None:
    """Write the files of this process; a worker of xdist sends its controller what came of it."""
    tally = store.write()
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is None:
        add(session.config, tally)
    else:
        output[_KEY] = dataclasses.asdict(tally)


def take_worker(config: pytest.Config, worker: str, output: dict[str, Any]) -> None:
    """Add what a worker of xdist has sent."""
    if _KEY in output:
        add(config, Tally(**output[_KEY]), f"{worker}: ")


def add(config: pytest.Config, tally: Tally, source: str = "") -> None:
    """Add what came of the files of one process."""
    known = config.stash.setdefault(_tally_key, Tally())
    for path, (digest, sandbox) in tally.digests.items():
        other = known.digests.setdefault(path, [digest, source + sandbox])
        if other[0] != digest:
            known.errors.append(
                f"{path} came back with different content, and is that of the worker which ended "
                f"last: from {other[1]} and {source}{sandbox}"
            )
    for name in ("written", "errors", "notes", "others"):
        lines = getattr(known, name)
        room = MOST_LINES - len(lines)
        lines += [source * (name != "written") + line for line in getattr(tally, name)[:room]]
    known.count += tally.count
    known.more += tally.more
    known.whole = known.whole and tally.whole


def fail(session: pytest.Session) -> None:
    """Let a session fail of which a file could not be written."""
    tally = session.config.stash.get(_tally_key, Tally())
    if tally.errors and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def show(reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report which files came back, and which did not."""
    tally = config.stash.get(_tally_key, Tally())
    verbose = config.get_verbosity() > 0
    if tally.count and config.get_verbosity() >= 0:
        reporter.write_line(f"gvisor: {_files(tally.count)} came back from inside")
        _show_names(reporter, tally.written if verbose else [], tally.count)
    if tally.more and config.get_verbosity() >= 0:
        least = "" if tally.whole else "at least "
        hint = "" if verbose else ", -v names them"
        count = least + _files(tally.more, "other file")
        reporter.write_line(
            f"gvisor: {count} that tests wrote in the project stayed inside (gvisor_returns brings "
            f"files back{hint})"
        )
        _show_names(reporter, tally.others if verbose else [], tally.more)
    notes = tally.notes if verbose else tally.notes[:_FEW]
    for line in notes:
        reporter.write_line(f"gvisor: {line}", yellow=True)
    if len(notes) < len(tally.notes):
        reporter.write_line(f"gvisor: {len(tally.notes) - len(notes)} more such lines with -v")
    for line in tally.errors:
        reporter.write_line(f"gvisor: ERROR: {line}", red=True, bold=True)


def _show_names(reporter: pytest.TerminalReporter, names: list[str], count: int) -> None:
    for name in names:
        reporter.write_line(f"gvisor:   {name}")
    if names and count > len(names):
        reporter.write_line(f"gvisor:   and {count - len(names)} more")


def _files(count: int, word: str = "file") -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
