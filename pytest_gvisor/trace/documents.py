"""The trace of a run as JSON: in a form of ours, and in that of OSSF's package-analysis.

docs/trace.schema.json is the schema of the first. Sources of the other are internal/resultstore,
internal/strace and pkg/api/analysisrun/result.go of https://github.com/ossf/package-analysis.
"""

from __future__ import annotations

import dataclasses
import time
from base64 import b64encode
from typing import TYPE_CHECKING

from pytest_gvisor.base.completed import Completed, Outcome

if TYPE_CHECKING:
    from pytest_gvisor.base.traced import Trace

SCHEMA = 1
_LINES, _BYTES = 20, 4096
"""The end of each stream that package-analysis has."""


def ours(done: Completed, trace: Trace) -> dict[str, object]:
    """Return the trace with all that it has, and the end of its run."""
    return {
        "schema": SCHEMA,
        "args": done.args,
        "platform": done.platform,
        "outcome": done.outcome,
        "returncode": done.returncode,
        "complete": trace.complete,
        **dataclasses.asdict(trace),
    }


def package_analysis(done: Completed, trace: Trace) -> dict[str, object]:
    """Return the result of a dynamic analysis, with the run as its phase ``install``.

    A trace has no verified deletes and no names of hosts. The form has no field for the gaps of a
    trace: with one, its status is ``error_other``.
    """
    read = {one.path for one in trace.files if one.read or one.listed}
    written = {one.path for one in trace.files if one.written or one.created}
    paths = sorted({one.path for one in trace.files})
    found = {one.address for one in trace.connections} | {one.address for one in trace.listeners}
    sockets = [one.rpartition(":") for one in sorted(found) if one[:1] == "[" or one[:1].isdigit()]
    commands = {(one.argv, one.environment): None for one in (*trace.executed, *trace.attempts)}
    return {
        "Package": {"Name": "", "Version": "", "Ecosystem": ""},
        "CreatedTimestamp": int(time.time()),
        "Analysis": {
            "install": {
                "Status": _status(done, trace),
                "Stdout": _end(done.stdout_bytes),
                "Stderr": _end(done.stderr_bytes),
                "Files": [
                    {"Path": one, "Read": one in read, "Write": one in written, "Delete": False}
                    for one in paths
                ],
                "Sockets": [
                    {"Address": host.strip("[]"), "Port": int(port), "Hostnames": []}
                    for host, _, port in sockets
                ],
                "Commands": [{"Command": argv, "Environment": env} for argv, env in commands],
                "DNS": [],
            }
        },
    }


FORMS = {"json": ours, "package-analysis": package_analysis}
"""The forms of a file, by the names that ``pytest-gvisor run --format`` takes."""


def _status(done: Completed, trace: Trace) -> str:
    """Return a status of internal/analysis/status.go."""
    if trace.complete and done.outcome is Outcome.TIMED_OUT:
        return "error_timeout"
    if trace.complete and done.outcome in (Outcome.EXITED, Outcome.SIGNALLED):
        return "error_analysis" if done.returncode else "completed"
    return "error_other"


def _end(stream: bytes) -> str:
    """Return the end of a stream as Go writes bytes to JSON."""
    lines = stream[-_BYTES:].splitlines(keepends=True)[-_LINES:]
    return b64encode(b"".join(lines)).decode()
