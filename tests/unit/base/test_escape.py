"""Untrusted text on its way to a reader."""

import re
import tracemalloc
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base import escape as module
from pytest_gvisor.base.escape import Live, escape, safe_but_colour, uncoloured

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# What XML 1.0 can hold: https://www.w3.org/TR/xml/#charsets
XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")

anything = st.text(st.characters(codec=None))


@given(text=anything)
def test_what_comes_out_is_plainly_visible(text: str) -> None:
    """The result has only line feeds, tabs and visible characters, valid in XML and UTF-8."""
    found = escape(text)
    seen = {unicodedata.category(character) for character in found if character not in "\n\t"}
    assert not seen & HIDDEN
    assert XML.fullmatch(found)
    assert found.encode().decode() == found


@given(text=anything)
def test_escaping_twice_is_escaping_once(text: str) -> None:
    """Escaped text is safe already."""
    assert escape(escape(text)) == escape(text)


ANYWHERE = re.compile(r"##(\[|vso\[|teamcity\[)", re.IGNORECASE)
pieces = st.one_of(
    st.sampled_from(
        ["::", ":", "#", "##vso[", "##[", "##TeamCity[", "[", "\n", " ", "\t", "\u3000"]
    ),
    st.characters(codec=None),
)


@pytest.mark.fault("E8")
@given(text=st.lists(pieces, max_size=12).map("".join))
def test_no_line_has_a_command_for_a_ci_system(text: str) -> None:
    """No line starts with a command, after white space or not; some commands must be nowhere."""
    found = escape(text)
    assert not ANYWHERE.search(found)
    assert not [line for line in found.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.parametrize("text", ["", "plain ~!\n\ttext", "Grüße, 世界, €", "a::b", "## heading"])
def test_printable_text_stays_as_it_is(text: str) -> None:
    """Printable text of any language is unchanged."""
    assert escape(text) == text


@pytest.mark.fault("E8")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]52;c;eA==\x07", "\\x1b]52;c;eA==\\x07"),
        ("\x1b]8;;http://x\x1b\\", "\\x1b]8;;http://x\\x1b\\"),
        ("a\rb", "a\\rb"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u200b\ufeff", "\\u200b\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
        ("\U000e0041", "\\U000e0041"),
        ("\uffff", "\\uffff"),
        ("::error::x", "\\x3a:error::x"),
        ("\u3000::warning::", "\u3000\\x3a:warning::"),
        (" \t##vso[task]", " \t\\x23#vso[task]"),
        ("text ##vso[task] ##VSO[", "text \\x23#vso[task] \\x23#VSO["),
        ("a ##teamcity[x", "a \\x23#teamcity[x"),
        ("x\n##[section]", "x\n\\x23#[section]"),
    ],
)
def test_what_moves_hides_or_commands_is_written_out(text: str, shown: str) -> None:
    """The escape sequence names the character."""
    assert escape(text) == shown


def test_a_large_text_takes_no_time() -> None:
    """A megabyte of either kind: a quadratic way would never end here."""
    assert escape("x" * 2**20) == "x" * 2**20
    assert len(escape("\x1b" * 2**18)) == 4 * 2**18
    assert len(escape("::\n" * 2**18)) == 6 * 2**18


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m \x1b[1mbold\x1b[39;49;00m",
        "\x1b[1;31micdiff's\x1b[m",
        "\x1b[0;32mits other\x1b[m",
        "\x1b[32m{'a': \x1b[0m\x1b[37;42m2\x1b[0m\x1b[32m}\x1b[0m",
    ],
)
def test_colours_of_what_shows_differences_stay(text: str) -> None:
    """pytest's own, icdiff's, and pytest-clarity's white on a background up to a reset."""
    assert safe_but_colour(text) == text
    assert "\x1b" not in uncoloured(text)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[37;42mwithout an end", "\x1b[37;42ma \x1b[32mgreen on green\x1b[0m",
        "\x1b[32;42mgreen on green\x1b[0m", "\x1b[37;47mwhite on white\x1b[0m", "\x1b[42ma\x1b[0m",
        "\x1b[0;30mblack\x1b[0m", "\x1b[8mhidden\x1b[0m", "\x1b[2Jcleared\x1b[0m",
    ],
)  # fmt: skip
def test_a_colour_that_can_hide_text_is_written_out(text: str) -> None:
    """A background under any other colour could be of that colour."""
    assert safe_but_colour(text).startswith("\\x1b[")


BAD_IN_PIECES = [
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
    live.add("\n")  # all others share the line
    shown.clear()
    data = text.encode()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        live.add_bytes(data[begin:end])
    return "".join(shown)


@pytest.mark.parametrize("bad", BAD_IN_PIECES)
def test_no_cut_makes_a_command(bad: str) -> None:
    """No cut makes a command of a CI system or terminal, or a line like pytest's last one."""
    for first in range(1, len(bad)):
        for second in range(first, len(bad)):
            shown = in_pieces(bad, first, second)
            found = re.search(r"(?m)^\s*::|##(\[|vso\[)|\x1b|\x07|^[ =]*\d+ passed in \d", shown)
            assert not found, (bad[:first], bad[first:second], bad[second:])


@pytest.mark.parametrize("between", ["", "abc\n"])
def test_no_text_of_another_makes_a_command(between: str) -> None:
    """One of another sandbox, of a debugger that opens again, or of pytest goes before it."""
    for bad in ("\n::error::x", "##vso[task.complete]"):
        for cut in range(1, len(bad)):
            shown: list[str] = []
            Live(shown.append).add("\nabc")
            shown.append(between)
            Live(shown.append).add(bad[:cut].lstrip("\n") if between else bad[:cut])
            Live(shown.append).add(bad[cut:])
            assert not re.search(r"(?m)^::|##vso\[", "".join(shown)), (bad[:cut], bad[cut:])


def test_what_is_harmless_is_shown_as_it_is() -> None:
    """Harmless output keeps its colours and its characters, also if a piece ends in one."""
    text = "plain\n\x1b[31mred\x1b[0m a::b # ü 🎉\n"
    assert in_pieces(text) == text
    assert in_pieces("ü 🎉::", 1, 4, 6) == "ü 🎉::"


@pytest.mark.parametrize("character", ["\x7f", "\u200b", "\U000e0001", "\u3000"])
def test_a_long_text_takes_the_memory_of_what_it_is_escaped_to(character: str) -> None:
    """No object is made for each of its characters: a message may have 60 million."""
    tracemalloc.start()
    escaped = escape(character * 100_000 + "\0")
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(escaped.encode("utf-16"))


def test_further_colours_of_one_text_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes some hundred bytes."""
    monkeypatch.setattr(module, "_MOST_COLOURS", 2)
    assert safe_but_colour("\x1b[31ma\x1b[0mb\x1b[31mc") == "\x1b[31ma\x1b[0mb\\x1b[31mc"
