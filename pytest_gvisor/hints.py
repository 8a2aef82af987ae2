"""Hints that name a setting: each program that shows one names its own option for it.

The text of a `Hint` is that for pytest and for calls from Python. `worded` gives the text for a
command of ``pytest-gvisor``. An error carries its hint as `GvisorError.next_step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.setting_table import BY_NAME


class Phrase(NamedTuple):
    """A part of a hint whose text depends on the program that shows it."""

    text: str
    """The text for pytest and for calls from Python."""

    commands: Mapping[str, str]
    """The text for each command that has one of its own."""

    others: str
    """The text for all other commands."""


class Hint(str):
    """A sentence on the next step, which any program can show."""

    parts: tuple[str | Phrase, ...]
    __slots__ = ("parts",)

    def __new__(cls, *parts: str | Phrase) -> Self:
        """Join texts, hints and phrases to a hint."""
        flat: list[str | Phrase] = []
        for part in parts:
            flat += part.parts if isinstance(part, Hint) else [part]
        text = "".join(part.text if isinstance(part, Phrase) else part for part in flat)
        made = super().__new__(cls, text)
        made.parts = tuple(flat)
        return made

    def __getnewargs__(self) -> tuple[str | Phrase, ...]:  # type: ignore[override]
        """Return the parts: a copy can be worded too."""
        return self.parts


def option(name: str, value: str = "") -> Phrase:
    """Return the phrase that names a setting; with ``value``, for this value of it."""
    setting = BY_NAME[name]
    commands = {
        tool: " ".join(filter(None, (setting.command_option, value or argument.metavar)))
        for tool, argument in setting.commands.items()
    }
    others = ", ".join(f"`pytest-gvisor {tool} {text}`" for tool, text in commands.items())
    metavar = next(iter(setting.commands.values())).metavar
    if value:
        text = f"{setting.written}={value}"
    elif "call" in setting.sources:
        text = f"{setting.written}={metavar or True} or {setting.option}"
    else:
        text = f"{setting.option} {metavar or ''}".rstrip()
    return Phrase(text, commands, others)


def worded(hint: str, command: str) -> str:
    """Return the text of a hint for a command of ``pytest-gvisor``."""
    if not isinstance(hint, Hint):
        return hint
    return "".join(
        part.commands.get(command, part.others) if isinstance(part, Phrase) else part
        for part in hint.parts
    )


def told(error: BaseException, command: str) -> str:
    """Return the text of an error for a command of ``pytest-gvisor``."""
    if isinstance(error, GvisorError) and error.next_step:
        return f"{error.message}\n{worded(error.next_step, command)}"
    return str(error)


class Command(NamedTuple):
    """A command that mends a machine: no shell reads it."""

    argv: tuple[str, ...]
    as_root: bool = False
