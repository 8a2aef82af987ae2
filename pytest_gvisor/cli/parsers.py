"""Parsers, argument types and steps that the subcommands share.

A parser has a description, exit statuses and examples, as wide as the terminal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pytest_gvisor.base import removed, setting_values, settings
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.setting_table import SETTINGS, Kind, unknown_variable
from pytest_gvisor.oci.mounts import parse_size

if TYPE_CHECKING:
    from types import FrameType

    from pytest_gvisor.harness.engine import Engine

_WIDEST = 100
_NARROWEST = 40
SHARED: Mapping[str, str] = {
    "2": "the command line is invalid; nothing was done",
    "125": "a failure of the tool, or of the machine",
    "130": "Ctrl-C",
}
"""The exit statuses that each command has."""


def width(default: int = 80) -> int:
    """Return the width of text: of COLUMNS, else of the terminal, else the default; at most 100."""
    return max(_NARROWEST, min(shutil.get_terminal_size((default, 24)).columns, _WIDEST))


class Parser(argparse.ArgumentParser):
    """The parser of a command, or of an action of one, as in ``report merge``.

    Its help has the exit statuses and examples.
    """

    def __init__(
        self,
        command: str = "",
        *,
        description: str,
        statuses: Mapping[str, str],
        examples: Sequence[str] = (),
        **more: Any,
    ) -> None:
        more.setdefault("prog", f"pytest-gvisor {command}")  # argparse has that of an action
        super().__init__(
            description=textwrap.fill(description, width() - 2),
            epilog="\n".join(_epilog({**SHARED, **statuses}, examples)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **more,
        )
        for option, instead in removed.OPTIONS.get(self.prog.partition(" ")[2], {}).items():
            self.add_argument(
                option, action=_Removed, nargs="?", const=instead, help=argparse.SUPPRESS,
                default=argparse.SUPPRESS,
            )  # fmt: skip


class _Removed(argparse.Action):
    """An option that is no more; ``const`` says what to write now."""

    def __call__(self, parser: argparse.ArgumentParser, *_more: Any, **_named: Any) -> NoReturn:
        """Exit as for an invalid command line."""
        parser.error(f"there is no {self.option_strings[0]}. {self.const}")


def _epilog(statuses: Mapping[str, str], examples: Sequence[str]) -> list[str]:
    lines = ["exit status:"]
    for status in sorted(statuses, key=lambda one: (not one.isdecimal(), len(one), one)):
        lines += textwrap.wrap(
            statuses[status], width() - 2,
            initial_indent=f"  {status:9} ", subsequent_indent=" " * 12,
        )  # fmt: skip
    if examples:
        # An example is for pasting: it is not wrapped.
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    return lines


def seconds(text: str) -> float:
    """Parse a number of seconds. Raises `argparse.ArgumentTypeError`."""
    try:
        return setting_values.seconds(text, "the number of seconds")
    except UsageError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def count(text: str) -> int:
    """Parse a whole number above 0. Raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def size(text: str) -> int:
    """Parse a number of bytes, ``2G`` for instance, or 0. Raises the errors of `seconds`."""
    try:
        return 0 if text == "0" else parse_size(text)
    except (UsageError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


_TYPES: Mapping[Kind, Callable[[str], object]] = {"count": count, "number": float, "bytes": size}
"""How argparse reads an option of a kind; the other kinds are read by `settings` alone."""


def add_settings(
    parser: argparse.ArgumentParser,
    tool: str,
    groups: Mapping[str, argparse._ArgumentGroup] | None = None,
) -> None:
    """Declare the settings that a command has as options; ``groups`` has the group of each name."""
    for setting in SETTINGS:
        if tool not in setting.sources:
            continue
        name, text = setting.command_option, setting.command_help or setting.help
        group = parser if groups is None else groups[setting.name]
        if setting.kind == "flag":
            group.add_argument(name, action="store_true", default=None, help=text)
        else:
            metavar = setting.command_metavar or setting.metavar
            kind = _TYPES.get(setting.kind, str)
            group.add_argument(name, type=kind, metavar=metavar, help=text)


def settings_of(given: argparse.Namespace, tool: str) -> settings.Settings:
    """The settings of a command: its options, then the environment. Raises `UsageError`."""
    if wrong := unknown_variable(os.environ):
        raise UsageError(wrong)
    found = settings.Settings()
    for one in SETTINGS:
        value, where = getattr(given, one.written, None), ""
        if value is None and {tool, "environment"} <= {*one.sources}:
            value, where = os.environ.get(one.variable) or None, f"{one.variable}: "
        if value is not None and tool in one.sources:
            try:
                found = settings.replaced(found, {one.written: value})
            except UsageError as error:
                raise UsageError(where + error.message, next_step=error.next_step) from None
    return found


def command(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str, ...]:
    """Return the command after the options, without ``--``. Exits if there is none."""
    found = tuple(words[1:] if words and words[0] == "--" else words)
    if not found:
        parser.error("a command is missing: put it after --")
    return found


def exit_on_signals() -> None:
    """Unwind on signals that by default end the process on the spot."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT):
        signal.signal(number, leave)


def end(engine: Engine, tool: str) -> None:
    """End the engine, and report on standard error what could not be removed."""
    for leak in engine.end():
        print(f"pytest-gvisor {tool}: not removed: {leak}", file=sys.stderr)
