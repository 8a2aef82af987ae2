"""Live output is as harmless in pieces as in one."""

from __future__ import annotations

import re

import pytest

from pytest_gvisor.inside.output import Live

BAD = [
    "::error::x",
    "   ::error::x",
    "quiet ##[error]x",
    "##vso[task.setvariable]x",
    "== 1 passed in 0.1s ==",
    "\x1b]52;c;eA==\x07",
]


def in_pieces(text: str, *cuts: int) -> str:
    """The shown output of a text that comes in pieces."""
    shown: list[str] = []
    live = Live(shown.append)
    data = text.encode()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        live.add_bytes(data[begin:end])
    return "".join(shown)


@pytest.mark.parametrize("bad", BAD)
def test_no_cut_makes_a_command(bad: str) -> None:
    """No cut makes a command of a CI system or terminal, or a line like pytest's last one."""
    for first in range(1, len(bad)):
        for second in range(first, len(bad)):
            shown = in_pieces(bad, first, second)
            found = re.search(r"(?m)^\s*::|##(\[|vso\[)|\x1b|\x07|^[ =]*\d+ passed in \d", shown)
            assert not found, (bad[:first], bad[first:second], bad[second:])


def test_what_is_harmless_is_shown_as_it_is() -> None:
    """Harmless output keeps its colours and its characters, also if a piece ends in one."""
    text = "plain\n\x1b[31mred\x1b[0m a::b # ü 🎉\n"
    assert in_pieces(text) == text
    assert in_pieces("ü 🎉::", 1, 4, 6) == "ü 🎉::"
