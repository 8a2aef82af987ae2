"""The runs of a test as texts: sections of a failed test, and details of a report."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_gvisor.base.completed import WorkloadTimeout
from pytest_gvisor.base.errors import InsideError, ProgramNotStarted, RunscFailed
from pytest_gvisor.base.escape import escape, quoted
from pytest_gvisor.run.logs import debugged

if TYPE_CHECKING:
    from pytest_gvisor.run.request import Record


_LONGEST = 4000
"""Characters of a stream, a command or a log."""

_SHOWN_RUNS = 5
_FIRST_LINES, _LAST_LINES = 10, 40


_LONGEST_COMMAND = 20_000


_LONGEST_TITLE = 50
"""Characters: pytest draws a line to both sides of a title, if 80 columns leave room for one."""


def sections(records: Sequence[Record], *, debug: bool) -> Iterator[tuple[str, str]]:
    """Yield title and text of each section, for the last runs of a test."""
    for record in records[-_SHOWN_RUNS:]:
        words = shlex.join(record.args) or "(nothing was started)"
        cut = words if len(words) <= _LONGEST_TITLE else f"{words[:_LONGEST_TITLE]}…"
        title = "gvisor: " + escape(cut).replace("\n", "\\n")
        yield title, _told(record, debug=debug)
        if record.completed is not None and record.completed.trace is not None:
            yield "gvisor: what it did", record.completed.trace.first_lines()
        if debug:
            yield from _debug(title, record)
    if len(records) > _SHOWN_RUNS:
        more = len(records) - _SHOWN_RUNS
        yield "gvisor: earlier runs", f"{more} earlier runs of this test are not shown"


def _told(record: Record, *, debug: bool) -> str:
    """Tell how a run ended, what it wrote last, and what is left of it."""
    done = record.completed
    lines = [escape(_ended(record))]
    if done is not None:
        # runsc writes its own error to the same stream, and the line above has it.
        written = not isinstance(record.error, RunscFailed)
        for name, stream in (("stdout", done.stdout), ("stderr", done.stderr)):
            if stream and written:
                lines += [f"{name}:", quoted(_ends(stream.removesuffix("\n"), name))]
        if done.hint and written:
            lines.append(escape(done.hint))
    if record.panic:
        lines += ["panic log:", quoted(record.panic)]
    lines += [escape(f"noted: {note}") for note in record.notes]
    if record.kept:
        lines.append(escape(f"kept in {record.kept}; repeat it with {record.kept}/replay.sh"))
    if debug:
        command = head(record.command, _LONGEST_COMMAND)
        lines.append(escape(f"ran: {command or '(runsc was not reached)'}"))
    return "\n".join(lines)


def _ends(stream: str, name: str) -> str:
    """Return the first and last lines of a stream, and where those between are."""
    lines = stream.split("\n")
    between = len(lines) - _FIRST_LINES - _LAST_LINES
    if between <= 0:
        return tail(stream, _LONGEST)
    first, last = "\n".join(lines[:_FIRST_LINES]), "\n".join(lines[-_LAST_LINES:])
    gap = f"[… {between} lines between: {name} of the result, or of the error, has them …]"
    return "\n".join([head(first, _LONGEST // 4), gap, tail(last, _LONGEST)])


def _ended(record: Record) -> str:
    done, error = record.completed, record.error
    if done is None:
        return str(error or "no workload was started")
    if isinstance(error, ProgramNotStarted | InsideError):
        return error.message
    words = "".join(f", {key}={value!r}" for key, value in done.settings.items())
    facts = head(
        f"{done.end} after {done.duration:.2f} s on {done.platform}{words}", _LONGEST_COMMAND
    )
    if error is None or isinstance(error, WorkloadTimeout):
        return facts
    # The panic log has a part of its own.
    text = error.message.partition("\n")[0] if record.panic else error.message
    return f"{facts}\n{text}"


def _debug(title: str, record: Record) -> Iterator[tuple[str, str]]:
    boot, strace = debugged(record.debug_logs.get("boot", ""))
    if boot:
        yield f"{title}: boot log", quoted("\n".join(boot))
    if strace:
        yield f"{title}: strace", quoted("\n".join(strace))


_MAX_CONFIG = 24_000


def run_of(record: Record, did: str = "") -> dict[str, str]:
    """Return a run in the form of the report; each text is bounded and escaped.

    ``did`` is the trace of a test inside. A run on the host has its own.

    xdist cannot send a lone surrogate, which an argument that is no UTF-8 has.
    """
    done = record.completed
    did = did or (done.trace.tree() if done is not None and done.trace is not None else "")
    texts = {
        "args": head(shlex.join(record.args), _LONGEST),
        "command": head(record.command, _LONGEST),
        "ended": head(_ended(record), _LONGEST),
        "stdout": "" if done is None else tail(done.stdout, _LONGEST),
        "stderr": "" if done is None else tail(done.stderr, _LONGEST),
        "config": _config(record),
        "log": _log(record),
        "trace": head(did, _MAX_CONFIG),
    }
    return {name: escape(text) for name, text in texts.items()}


def head(text: str, limit: int) -> str:
    """Return the first ``limit`` characters, and the number of the rest."""
    return text if len(text) <= limit else f"{text[:limit]}\n[… {len(text) - limit} more …]"


def tail(text: str, limit: int) -> str:
    """Return the last ``limit`` characters, and the number of those before."""
    return text if len(text) <= limit else f"[… {len(text) - limit} before …]\n{text[-limit:]}"


def _config(record: Record) -> str:
    if record.spec is None:
        return ""
    return head(json.dumps(record.spec.to_json(), indent=1, default=str), _MAX_CONFIG)


def _log(record: Record) -> str:
    boot, _strace = debugged(record.debug_logs.get("boot", ""))
    texts = ("\n".join(record.runsc_records), record.panic, "\n".join(boot))
    return "\n".join(tail(text, _LONGEST) for text in texts if text)
