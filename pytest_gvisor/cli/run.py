"""``pytest-gvisor run``: the method ``gvisor.run`` as a command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_gvisor.base.completed import Completed, Outcome, WorkloadTimeout
from pytest_gvisor.base.errors import ReportError, UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_table import TRACES
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.cli import parsers
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.harness.gvisor import Gvisor
from pytest_gvisor.oci.defaults import HOSTNAME
from pytest_gvisor.oci.mounts import parse_mount
from pytest_gvisor.oci.rootfs import directory
from pytest_gvisor.report import outputs
from pytest_gvisor.report.run_texts import sections
from pytest_gvisor.run import terminal
from pytest_gvisor.run.not_started import AT_SHELL
from pytest_gvisor.run.request import Hooks, Record
from pytest_gvisor.trace.documents import FORMS

_PIECE = 64 * 1024
_AT_A_TERMINAL = 24 * 3600.0
_TIMED_OUT = 124
_DEBUG = (": boot log", ": strace")

_GROUPS = {
    "workload": (),
    "root and files": ("image",),
    "sandbox": ("platforms", "network", "netns", "runsc", "rootless"),
    "limits": ("timeout", "memory", "pids", "cpus", "shm", "max_output"),
    "looking into it": ("debug",),
}
"""The groups of options in the help, each with its settings."""

_EXAMPLES = (
    "pytest-gvisor run -- uname -r",
    "pytest-gvisor run --tty -- bash",
    'pytest-gvisor run --mount "$PWD:/data" --cwd /data --timeout 10 -- python3 script.py < input',
    "pytest-gvisor run --image app.tar --memory 256M --network sandbox",
    "pytest-gvisor run --platform ptrace --debug -- ls /nonexistent",
    "pytest-gvisor run --network host --trace trace.json -- pip install --target /tmp/site PACKAGE",
)


def parser() -> parsers.Parser:
    """The subcommand's options."""
    made = parsers.Parser(
        "run",
        description="Runs COMMAND in a fresh sandbox, like gvisor.run(): no network, the host's "
        "system folders read-only, nothing of home folders.",
        statuses={
            "N": "the exit status of COMMAND, or 128 + S if the signal S ended it",
            str(_TIMED_OUT): "the deadline passed; COMMAND was killed",
            "126": "COMMAND cannot be executed in the sandbox",
            "127": "COMMAND is not in the sandbox",
        },
        examples=_EXAMPLES,
    )
    groups = {title: made.add_argument_group(title) for title in _GROUPS}
    of_setting = {name: groups[title] for title, names in _GROUPS.items() for name in names}
    parsers.add_settings(made, "run", of_setting)
    workload, root = groups["workload"], groups["root and files"]
    workload.add_argument(
        "--tty", action="store_true",
        help="a terminal for COMMAND, connected with this one; the deadline is then a day",
    )  # fmt: skip
    workload.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    workload.add_argument("--cwd", metavar="DIR", help="folder inside (default: /, or the image's)")
    workload.add_argument(
        "--user", metavar="UID[:GID]",
        help="user inside (default: 0, or the image's); with --image also by name",
    )  # fmt: skip
    workload.add_argument("--hostname", default=HOSTNAME, help=f"default: {HOSTNAME}")
    root.add_argument("--entrypoint", metavar="PROGRAM", help="replace the image's entrypoint")
    root.add_argument("--rootfs", metavar="DIR", help="a folder as root instead of the host's")
    root.add_argument("--readonly", action="store_true", help="forbid writing to the root")
    root.add_argument(
        "--mount", action="append", default=[], metavar="SOURCE:TARGET[:MODE]",
        help="a folder of the host's; MODE is ro (the default), rw, or dangerous: see bind(); "
        "may be repeated",
    )  # fmt: skip
    looking = groups["looking into it"]
    looking.add_argument(
        "--trace", metavar="FILE.json",
        help="write the files, commands and connections of COMMAND to FILE.json",
    )  # fmt: skip
    looking.add_argument(
        "--format", choices=FORMS, metavar="FORM",
        help=f"the form of that file: {' or '.join(FORMS)} (default: json)",
    )  # fmt: skip
    looking.add_argument(
        "--trace-with", choices=TRACES, metavar="MORE",
        help="put more into that file: unverified paths of renames and the like (paths), values "
        "of variables (values), or both (paths,values)",
    )  # fmt: skip
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND…")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command and write its output at its end, at a terminal immediately.

    Raises what `Gvisor.run` raises, and `UsageError`.
    """
    known = parser()
    given = known.parse_args(arguments)
    if given.image is not None and given.rootfs is not None:
        raise UsageError("--image and --rootfs exclude each other")
    # An image has a command of its own.
    optional = given.image is not None and given.command in ([], ["--"])
    command = () if optional else parsers.command(known, given.command)
    settings, options = _settings(given), _options(given)
    engine = Engine()
    gvisor = None
    try:
        platform = engine.platforms_of(settings)[0]
        engine.availability(platform, settings).check()
        gvisor = engine.gvisor(platform, settings, Hooks(), asker=AT_SHELL)
        if given.tty:
            done = _at_terminal(engine, gvisor, command, options)
            _show_end(done)
            return _status(done)
        stdin = None if os.isatty(0) else standard_input()
        done = gvisor.run(command, input=stdin, **options)
        _show(done)
        return _status(done)
    except WorkloadTimeout as error:
        if not given.tty:
            _show(error.completed)
        print(f"pytest-gvisor run: {error}", file=sys.stderr)
        return _TIMED_OUT
    finally:
        # Whoever reads what is told may have gone: the session ends all the same.
        try:
            if gvisor is not None:
                _tell(gvisor, given)
        finally:
            parsers.end(engine, "run")


def _settings(given: argparse.Namespace) -> Settings:
    if given.tty and given.timeout is None:
        given.timeout = _AT_A_TERMINAL
    settings = parsers.settings_of(given, "run")
    if settings.native or len(settings.platforms) > 1:
        names = given.platform or os.environ["PYTEST_GVISOR_PLATFORM"]
        raise UsageError(
            f"--platform {names}: a command runs on one platform",
            next_step="Name one of gVisor's, or call the tool once for each.",
        )
    if given.trace is None:
        for option, value in (("--format", given.format), ("--trace-with", given.trace_with)):
            if value is not None:
                raise UsageError(f"{option} {value} needs --trace FILE.json")
        return settings
    if not given.trace.endswith(".json"):
        raise UsageError(f"--trace {given.trace}: the name of the file ends with .json")
    given.trace = outputs.check(given.trace)
    return dataclasses.replace(settings, trace=given.trace_with or True)


def _options(given: argparse.Namespace) -> dict[str, Any]:
    """Return the workload's options as arguments of `Gvisor.run`."""
    return {
        "env": dict(map(pair_of, given.env)),
        "cwd": given.cwd,
        "user": given.user,
        "rootfs": None if given.rootfs is None else directory(given.rootfs),
        "entrypoint": given.entrypoint,
        "mounts": [parse_mount(text, "--mount") for text in given.mount],
        "hostname": given.hostname,
        "readonly": given.readonly,
    }


def _tell(gvisor: Gvisor, given: argparse.Namespace) -> None:
    """Write the results of --debug to standard error, and the file of --trace."""
    for record in gvisor.records:
        if gvisor.settings.debug:
            for title, text in sections([record], debug=True):
                if title.endswith(_DEBUG):
                    print(title, text, sep="\n", file=sys.stderr)
        done = record.completed
        if done is not None and done.trace is not None:
            for gap in done.trace.gaps:
                print(f"pytest-gvisor run: the trace is not complete: {gap}", file=sys.stderr)
            text = json.dumps(FORMS[given.format or "json"](done, done.trace), indent=1)
            if problem := outputs.replaced(given.trace, [text, "\n"]):
                raise ReportError(f"{escape(given.trace)} could not be written: {problem}")


def _status(done: Completed) -> int:
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _at_terminal(
    engine: Engine, gvisor: Gvisor, command: Sequence[str], options: dict[str, Any]
) -> Completed:
    if "TERM" in os.environ:
        options["env"].setdefault("TERM", os.environ["TERM"])
    request = gvisor.request(command, **options)
    record = Record()
    gvisor.records.append(record)
    parsers.exit_on_signals()  # else the terminal would stay as it is then
    with terminal.raw(0, 1) as user:
        return terminal.run(request, engine.launcher, record, user)


def pair_of(text: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``. Raises `UsageError`."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageError(f"--env {text!r} is not NAME=VALUE")
    return name, value


def standard_input() -> Iterator[bytes]:
    """Yield standard input as it comes; a pause is an empty piece, for deadlines."""
    while True:
        if not select.select([0], [], [], 0.05)[0]:
            yield b""
        elif piece := os.read(0, _PIECE):
            yield piece
        else:
            return


def _show(done: Completed) -> None:
    for stream, data in ((sys.stdout, done.stdout_bytes), (sys.stderr, done.stderr_bytes)):
        stream.buffer.write(data)
        stream.flush()
    _show_end(done)


def _show_end(done: Completed) -> None:
    cut = "the output above is cut in the middle" if done.truncated else ""
    limit = done.end if done.outcome in {Outcome.OUT_OF_MEMORY, Outcome.OUT_OF_TASKS} else ""
    for text in filter(None, (cut, limit, done.hint)):
        print(f"pytest-gvisor run: {text}", file=sys.stderr)
