"""Check the English of docstrings' summaries and of help texts.

    prose.py PATH…

A summary is the first paragraph of the docstring of a module, a class or a function. A help text
is a literal that is given to argparse or pytest. Each find is printed as FILE:LINE: RULE: TEXT;
the exit status is 1 if there are any. Vale would check whole files: these are parts of them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BEGINNINGS = (
    "what", "who", "whom", "whose", "which", "of", "in which", "in words", "one that", "one who",
    "the one that", "the ones", "those", "that", "as", "it", "they", "them",
)  # fmt: skip
"""No sentence begins with these: its subject is a named thing."""

PRIVATE = (
    "stronger", "behind", "want of", r"(?:is|are|be|was) had", "meant", "judged?", "reaped",
    "legs?", "rings?", r"units?(?! tests?)", "words?", "said", "told",
)  # fmt: skip
"""Words that this project once used in a sense of its own, as regular expressions."""

MOST_WORDS = 20
"""The longest sentence."""

CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(])")
BEGINNING = re.compile(rf"(?:{'|'.join(BEGINNINGS)})\b(?!')", re.IGNORECASE)
WORD = re.compile(rf"\b(?:{'|'.join(PRIVATE)})\b", re.IGNORECASE)
HELP = {"help", "description", "epilog"}
"""Keyword arguments that hold help texts; ``addini`` and our ``Argument`` take one by position."""


class Find(NamedTuple):
    """A sentence that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def broken(text: str) -> Iterator[tuple[str, str]]:
    """Yield the rules that a text breaks, each with the sentence."""
    plain = CODE.sub("`code`", text)
    for sentence in SENTENCE.split(" ".join(plain.split())):
        if BEGINNING.match(sentence):
            yield "names no subject", sentence
        if found := WORD.search(sentence):
            yield f"private word {found[0]!r}", sentence
        if (count := sum(map(_is_word, sentence.split()))) > MOST_WORDS:
            yield f"{count} words, more than {MOST_WORDS}", sentence


def _is_word(token: str) -> bool:
    return any(map(str.isalnum, token))


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the summaries and help texts of a module, each with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstring := ast.get_docstring(node):
                yield node.body[0].lineno, docstring.split("\n\n", maxsplit=1)[0]
        elif isinstance(node, ast.Call):
            literals = [keyword.value for keyword in node.keywords if keyword.arg in HELP]
            if isinstance(node.func, ast.Attribute) and node.func.attr == "addini":
                literals += node.args[1:2]
            elif isinstance(node.func, ast.Name) and node.func.id == "Argument":
                literals += node.args[:1]
            yield from ((literal.lineno, _text(literal)) for literal in literals)


def _text(literal: ast.expr) -> str:
    """Return the text of a literal, with code for each field of an f-string."""
    if isinstance(literal, ast.Constant):
        return str(literal.value)
    if isinstance(literal, ast.JoinedStr):
        parts = literal.values
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "`code`" for p in parts)
    return ""


def check(path: Path) -> list[Find]:
    """Return the finds in one file, by line."""
    tree = ast.parse(path.read_bytes())
    return sorted(
        Find(str(path), line, *find) for line, text in texts(tree) for find in broken(text)
    )


def main(arguments: list[str]) -> int:
    """Check all files and folders; return the exit status."""
    files: list[Path] = []
    for path in map(Path, arguments):
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    finds = [find for file in files for find in check(file)]
    print(*finds, sep="\n", end="\n" if finds else "")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
