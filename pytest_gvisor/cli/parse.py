"""Argument types and steps that the subcommands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_gvisor import setting_values, settings
from pytest_gvisor.errors import UsageError
from pytest_gvisor.oci.mounts import parse_size
from pytest_gvisor.setting_table import SETTINGS, Kind
from pytest_gvisor.settings import Settings

if TYPE_CHECKING:
    from pytest_gvisor.harness.engine import Engine


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
        name, argument = setting.command_option, setting.commands.get(tool)
        if argument is None:
            continue
        group = parser if groups is None else groups[setting.name]
        if setting.kind == "flag":
            group.add_argument(name, action="store_true", default=None, help=argument.help)
        else:
            kind = _TYPES.get(setting.kind, str)
            group.add_argument(name, type=kind, metavar=argument.metavar, help=argument.help)


def settings_of(given: argparse.Namespace, tool: str) -> Settings:
    """The settings that a command was given. Raises `UsageError`."""
    written = {one.written: getattr(given, one.written) for one in SETTINGS if tool in one.commands}
    changes = {name: value for name, value in written.items() if value is not None}
    return settings.replaced(Settings(), changes)


def command(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[str, ...]:
    """Return the command after the options, without ``--``. Exits if there is none."""
    found = tuple(words[1:] if words and words[0] == "--" else words)
    if not found:
        parser.error("a command is missing: put it after --")
    return found


def end(engine: Engine, tool: str) -> None:
    """End the engine, and report on standard error what could not be removed."""
    for leak in engine.end():
        print(f"pytest-gvisor {tool}: not removed: {leak}", file=sys.stderr)
