"""Completion of ``pytest-gvisor`` for bash, zsh and tcsh, made by shtab from the parsers."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence

from pytest_gvisor.setting_table import SETTINGS
from pytest_gvisor.settings import CHOICES

_FILES = ("FILE", "PATH", "REF", "COMMAND", "SOURCE")
_FOLDERS = ("DIR",)


def script(shell: str, shells: Sequence[str], commands: Mapping[str, str]) -> str:
    """Return the shell's script that completes the commands and their options."""
    import shtab  # noqa: PLC0415 -- only for this

    whole = argparse.ArgumentParser(prog="pytest-gvisor")
    whole.add_argument("--version", action="store_true", help="show the version")
    whole.add_argument("--print-completion", choices=shells, help="print such a script")
    below = whole.add_subparsers()
    for name, text in commands.items():
        options = importlib.import_module(f"pytest_gvisor.cli.{name}").parser()
        _choices(options, name)
        below.add_parser(name, help=text, parents=[options], add_help=False)
    for action in _actions(whole):
        words = f"{action.metavar or ''}"
        if any(word in words for word in _FOLDERS):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif any(word in words for word in _FILES):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    made: str = shtab.complete(whole, shell=shell)
    return made


def _choices(made: argparse.ArgumentParser, tool: str) -> None:
    """Let an option that has a list of values complete these."""
    known = {
        one.command_option: tuple(map(str, CHOICES[one.kind]))
        for one in SETTINGS
        if one.kind in CHOICES and tool in one.commands
    }
    for action in made._actions:
        for name in action.option_strings:
            action.choices = known.get(name, action.choices)


def _actions(made: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in made._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
