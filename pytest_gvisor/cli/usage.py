"""Parsers of the commands: description, exit statuses and examples, as wide as the terminal."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_gvisor import removed

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


def parser(
    command: str,
    *,
    description: str,
    statuses: Mapping[str, str],
    examples: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Return the parser of a command, or of an action of one, as in ``report merge``."""
    made = argparse.ArgumentParser(prog=f"pytest-gvisor {command}")
    for option, instead in removed.OPTIONS.get(command, {}).items():
        made.add_argument(
            option, action=_Removed, nargs="?", const=instead, help=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
        )  # fmt: skip
    return describe(made, description=description, statuses=statuses, examples=examples)


class _Removed(argparse.Action):
    """An option that is no more; ``const`` says what to write now."""

    def __call__(self, parser: argparse.ArgumentParser, *_more: Any, **_named: Any) -> NoReturn:
        """Exit as for an invalid command line."""
        parser.error(f"{self.option_strings[0]} is removed. {self.const}")


def describe(
    made: argparse.ArgumentParser,
    *,
    description: str,
    statuses: Mapping[str, str],
    examples: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Give a parser its description, its exit statuses and examples."""
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.description = textwrap.fill(description, width() - 2)
    made.epilog = "\n".join(_epilog({**SHARED, **statuses}, examples))
    return made


def _epilog(statuses: Mapping[str, str], examples: Sequence[str]) -> list[str]:
    lines = ["exit status:"]
    for status in sorted(statuses, key=_order):
        lines += textwrap.wrap(
            statuses[status], width() - 2,
            initial_indent=f"  {status:9} ", subsequent_indent=" " * 12,
        )  # fmt: skip
    if examples:
        # An example is for pasting: it is not wrapped.
        lines += ["", "examples:", *(f"  {example}" for example in examples)]
    return lines


def _order(status: str) -> tuple[bool, int]:
    return not status.isdecimal(), int(status) if status.isdecimal() else 0
