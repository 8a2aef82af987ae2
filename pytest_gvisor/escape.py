"""Untrusted text on its way to a terminal, a report or a CI log.

A workload's output may move the cursor, set the clipboard (OSC 52), reorder text (bidirectional
controls), hold characters that XML forbids, or start a line with a command for the CI system that
reads the log. Line feeds and tabs stay; all else that is not plainly visible is written as an
escape sequence of Python's.
"""

from __future__ import annotations

import re
import unicodedata

# Cc: control, Cf: format (bidirectional overrides, zero width), Cs: lone surrogates,
# Co/Cn: private use and unassigned; U+2028/2029 end a line in some readers.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_KEPT = frozenset("\n\t")
# GitHub Actions takes ::command:: at the start of a line, behind any white space. It takes
# ##[command], Azure Pipelines ##vso[ and TeamCity ##teamcity[ anywhere in one.
_CI_COMMAND = re.compile(r"(?mi)^[^\S\n]*::|##(?=\[|vso\[|teamcity\[)")
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*\Z")


def escape(text: str) -> str:
    """``text`` with all that is not plainly visible written out; printable text is unchanged."""
    if not _PLAIN.match(text):
        text = "\n".join(map(_escape_line, text.split("\n")))
    return _CI_COMMAND.sub(
        lambda found: found[0].replace(":", "\\x3a", 1).replace("#", "\\x23", 1), text
    )


def _escape_line(line: str) -> str:
    # Python calls no hidden character printable, and can tell of a whole line at once.
    return line if line.isprintable() else "".join(map(_escape_character, line))


def _escape_character(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode("ascii")
