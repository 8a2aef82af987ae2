"""``pytest-gvisor``: parses the command line and calls the subcommand's module."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape

COMMANDS = {
    "cache": "list the unpacked images that are kept, or remove them",
    "doctor": "check whether this machine can run tests",
    "init": "write a file for a CI service, docker or Kubernetes, for the project in this folder",
    "install": "fetch runsc from gVisor's release bucket",
    "run": "run a command in a fresh sandbox",
    "report": "join the reports of several runs (merge), or print one (show)",
    "sweep": "remove the remains of dead sessions",
    "vm": "run a command in a throw-away VM in which gVisor's kvm platform works",
}

_MODULES = {"cache": "caches", "images": "caches"}
"""The modules of commands that have another name; ``images`` is the older one of ``cache``."""

FAILED = 125
"""Nothing can be said of the command, for a failure of what is around it; as of `docker run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that the arguments name; return the exit status."""
    _open_standard_streams()
    words = sys.argv[1:] if arguments is None else arguments
    options = parser()
    chosen = options.parse_args(words or ["--help"])
    if chosen.version:
        print(f"pytest-gvisor {metadata.version('pytest-gvisor')}")
        return 0
    if chosen.command is None:
        options.error("a COMMAND is missing")
    name: str = chosen.command
    try:
        status: int = module(name).main(chosen.rest)
        sys.stdout.flush()
        return status
    except GvisorError as error:
        return _tell(name, str(error), getattr(error, "exit_status", FAILED))
    except BrokenPipeError:
        # Whoever read our output has gone.
        _drop(1)
        return FAILED
    except (OSError, MemoryError) as error:
        _drop(1)
        return _tell(name, escape(str(error)) or "there is no memory left", FAILED)
    except KeyboardInterrupt:
        return 130


def module(command: str) -> Any:
    """Return the module of a command."""
    return importlib.import_module(f"pytest_gvisor.cli.{_MODULES.get(command, command)}")


def parser() -> argparse.ArgumentParser:
    """The options before the command, and the list of commands."""
    made = argparse.ArgumentParser(prog="pytest-gvisor", description="gVisor, at a shell.")
    lines = [f"  {name:8} {text}" for name, text in COMMANDS.items()]
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = "\n".join([
        "commands:", *lines, "", "COMMAND --help describes its options and exit statuses.",
    ])  # fmt: skip
    made.add_argument("--version", action="store_true", help="show the version")
    made.add_argument("command", choices=[*COMMANDS, "images"], metavar="COMMAND", nargs="?")
    made.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream: other files would get its number.

    Characters that the encoding of standard output lacks become escapes, as on standard error.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _tell(command: str, error: object, status: int) -> int:
    try:
        print(f"pytest-gvisor {command}: {error}", file=sys.stderr)
    except OSError:
        _drop(2)
    return status


def _drop(fd: int) -> None:
    """Discard further output: Python's flush at exit would fail once more."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)
