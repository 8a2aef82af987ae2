"""Escaping of untrusted text for a terminal, a report or a CI log.

A workload's output may move the cursor, set the clipboard (OSC 52) or reorder text (bidirectional
controls). It may hold characters that XML forbids. A line of it may begin with a command for the CI
system whose log it is. Line feeds and tabs stay; all else that is not plainly visible is written as
an escape sequence of Python's.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping

# Cc: control, Cf: format (bidirectional overrides, zero width), Cs: lone surrogates,
# Co/Cn: private use and unassigned; U+2028/2029 end a line in some readers.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# GitHub Actions takes ::command:: at the start of a line, behind any white space. It takes
# ##[command], Azure Pipelines ##vso[ and TeamCity ##teamcity[ anywhere in one.
_CI_COMMAND = re.compile(r"(?mi)^[^\S\n]*::|##(?=\[|vso\[|teamcity\[)")
_LONGEST_LINE = 4096
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*\Z")


def escape(text: str) -> str:
    """Escape all characters of ``text`` that are not plainly visible."""
    if not _PLAIN.match(text):
        text = "\n".join(map(_escape_line, text.split("\n")))
    return _CI_COMMAND.sub(
        lambda found: found[0].replace(":", "\\x3a", 1).replace("#", "\\x23", 1), text
    )


def _escape_line(line: str) -> str:
    # Python calls no hidden character printable, and can tell of a whole line at once.
    return line if line.isprintable() else line.translate(_ESCAPES)


class _Escapes(dict[int, str]):
    """The table for `str.translate`, which needs no object for each character of a long text."""

    def __missing__(self, code: int) -> str:
        """Escape a character that is not in the table; add it if it is a frequent one."""
        character = chr(code)
        if unicodedata.category(character) in _HIDDEN:
            character = character.encode("unicode_escape").decode("ascii")
        return self.setdefault(code, character) if code < _FIRST_RARE else character


_FIRST_RARE = 0x3000
_ESCAPES = _Escapes({ord("\t"): "\t"})


def quoted(text: str) -> str:
    """Escape untrusted text and mark each line, so that none looks like a line of pytest's."""
    return "\n".join("| " + line for line in escape(text).split("\n"))


# A workload could also write pytest's last line, which people and programs trust.
_SUMMARY = re.compile(
    r"(?m)^([ =]*)(?=(?:no tests ran|[0-9]+ (?:passed|failed|errors?|skipped|deselected|xfailed"
    r"|xpassed|warnings?)\b).* in [0-9])(.)"
)


# What pytest, pygments, rich and icdiff write, apart from black: it cannot hide text, nor move the
# cursor. A background counts only below white that nothing but a reset ends: a colour that came
# between could be that of the background.
_COLOUR = re.compile(
    r"\x1b\[(?:0?|0?1|0?4|39;49;00|(?:[01];)?(?:3[1-7]|9[0-7])|37;4[1-6](?=m[^\x1b]*\x1b\[0?m))m"
)

_MOST_COLOURS = 1_000_000
"""Colours of one text, each of which takes some hundred bytes. Further ones are escaped."""


def safe(text: str) -> str:
    """Escape untrusted text for a report, so that no line looks like pytest's summary."""
    return _SUMMARY.sub(lambda found: f"{found[1]}\\x{ord(found[2]):02x}", escape(text))


def uncoloured(text: str) -> str:
    """Remove the colours that pytest may have put into a text."""
    return _COLOUR.sub("", text)


def safe_but_colour(text: str, plain: Callable[[str], str] = safe) -> str:
    """Return `safe` text with colours, for text that pytest itself has coloured.

    With `escape` as ``plain``, a line may look like pytest's summary: nobody parses a terminal.
    """
    parts = []
    position = 0
    for found in itertools.islice(_COLOUR.finditer(text), _MOST_COLOURS):
        parts += [plain(text[position : found.start()]), found[0]]
        position = found.end()
    return "".join([*parts, plain(text[position:])])


def print_live(text: str) -> None:
    """Print text at once, with escapes for what standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)


class Live:
    """An escaper of text in pieces, safe at every cut. Colours stay."""

    _line = ""
    """The end of the last line by any of them: they write to one terminal."""

    _piece = ""
    """The end of the last piece, if pytest has ended the line before."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def add_bytes(self, data: bytes) -> None:
        """Show bytes as soon as they are complete characters."""
        self.add(self._decoder.decode(data))

    def add(self, text: str) -> None:
        """Show text."""
        shown = safe_but_colour(text)
        ends = {Live._line, Live._piece}
        if any(safe_but_colour(end + text) != safe_but_colour(end) + shown for end in ends):
            # Behind what is shown already this becomes a command, unless it begins otherwise.
            shown = f"\\x{ord(text[0]):02x}{safe_but_colour(text[1:])}"
        # White space at a line's start does not matter to who looks for commands.
        Live._line = (Live._line + text).rpartition("\n")[2].lstrip()[-_LONGEST_LINE:]
        if text:
            Live._piece = text.rpartition("\n")[2].lstrip()[-_LONGEST_LINE:]
        self._write(shown)


def shown(value: object) -> str:
    """Format a value for a message: escaped, and at most some 60 characters."""
    if isinstance(value, str):
        short = value if len(value) <= 56 else value[:56] + "..."
        return json.dumps(short)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a number of more than 128 bits"
    kinds = {list: "a list", tuple: "a list", float: "a fraction"}
    return kinds.get(type(value), "an object" if isinstance(value, Mapping) else "something else")
