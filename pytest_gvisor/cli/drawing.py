"""Colours, boxes and progress at a terminal, drawn by rich; imported only there.

Text is shown as it is: rich reads no markup in it, and `escape` has made control characters plain.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

from pytest_gvisor.cli import usage
from pytest_gvisor.escape import escape

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "-": "yellow", "NO": "bold red"}


def is_drawn(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and the user wants them."""
    term = os.environ.get("TERM", "")
    return stream.isatty() and not os.environ.get("NO_COLOR") and term not in {"", "dumb"}


def console(stream: TextIO) -> Console:
    """Return rich's console for a stream; it guesses no markup, links, numbers or emoji."""
    from rich.console import Console  # noqa: PLC0415 -- at a terminal only

    return Console(
        file=stream, width=usage.width(100), markup=False, highlight=False, emoji=False,
        force_terminal=True, force_jupyter=False,
    )  # fmt: skip


def findings(rows: Sequence[tuple[str, str, str, str]], stream: TextIO) -> None:
    """Draw findings: a mark, a name, the details and the next step of each."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(ratio=1, overflow="fold")
    for mark, name, detail, step in rows:
        text = Text(escape(detail))
        if step:
            text.append(f"\n-> {escape(step)}", style="cyan")
        table.add_row(Text(mark, style=_STYLES[mark]), Text(escape(name)), text)
    console(stream).print(table)


def verdict(text: str, *, good: bool, stream: TextIO) -> None:
    """Draw the last line of the findings."""
    from rich.text import Text  # noqa: PLC0415

    console(stream).print(Text(f"\n{text}", style="bold green" if good else "bold red"))


def box(title: str, lines: Sequence[str], stream: TextIO) -> None:
    """Draw lines in a box without sides, and without blanks after them: they can be pasted."""
    from rich.rule import Rule  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = console(stream)
    drawn.print(Rule(Text(title), align="left"))
    for line in lines:
        style = "dim" if line.startswith("#") else ""
        drawn.print(Text(escape(line), style), overflow="ignore", no_wrap=True, crop=False)
    drawn.print(Rule())


class Progress:
    """A bar of progress that `show` redraws; it has no thread."""

    def __init__(self, stream: TextIO) -> None:
        from rich import progress  # noqa: PLC0415

        bar: Any = progress.Progress(
            progress.BarColumn(),
            progress.TextColumn("{task.description}", markup=False),
            console=console(stream),
            auto_refresh=False,
        )
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, text: str, come: int, whole: int | None) -> None:
        """Show a text beside the bar, which is full when all has come."""
        self._bar.update(self._task, description=escape(text), completed=come, total=whole)
        self._bar.refresh()
