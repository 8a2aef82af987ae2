"""Check the English of docstrings, of help texts, and of Markdown pages.

    prose.py PATH…

A summary is the first paragraph of the docstring of a module, a class or a function. A help text
is a literal that is given to argparse or pytest. A page is all that stands outside of its code
blocks.

Each find is printed as FILE:LINE: RULE: TEXT. If there are any, the exit status is 1. Vale reads
no help texts, no summaries apart from their bodies, and takes minutes to build.
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

PAGE_BEGINNINGS = (
    "what", "who", "whom", "whose", "in which", "of which", "one that", "one who", "the one that",
    "the ones", "those that", "those who",
)  # fmt: skip
"""The same for pages, where a sentence may refer to the one before it."""

PARAGRAPH = 6, 110
"""The most sentences, and words, of a paragraph, an item or a cell of a page."""

CODE = re.compile(r"``.+?``|`[^`]+`", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])[*\"]*\s+(?=[A-Z`(\"*]|pytest|runsc\b|gVisor\b)")
LINK = re.compile(r"!?\[((?:[^][]|\[[^]]*\])*)\]\([^)]*\)")
FENCE = re.compile(r"^ *```(?s:.*?)^ *```$|^(?: {4}.*\n)+", re.MULTILINE)
LINKS = re.compile(rf"{LINK.pattern}(?:,\s+{LINK.pattern}){{2,}}")
LISTED = re.compile(r"`code`(?:,? `code`)+")
WORD = re.compile(rf"\b(?:{'|'.join(PRIVATE)})\b", re.IGNORECASE)
HELP = {"help", "description", "epilog"}
"""Keyword arguments that hold help texts; ``addini`` takes one by position."""


class Find(NamedTuple):
    """A sentence that breaks a rule."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


def _beginning(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(words)})\b(?!')", re.IGNORECASE)


SUMMARIES = _beginning(BEGINNINGS)
PAGES = _beginning(PAGE_BEGINNINGS)


def broken(text: str, no_subject: re.Pattern[str] = SUMMARIES) -> Iterator[tuple[str, str]]:
    """Yield the rules that a text breaks, each with the sentence."""
    plain = CODE.sub("`code`", text)
    for sentence in SENTENCE.split(" ".join(plain.split())):
        if no_subject.match(sentence) and not sentence.endswith("?"):
            yield "names no subject", sentence
        if found := WORD.search(sentence):
            yield f"private word {found[0]!r}", sentence


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
            yield from ((literal.lineno, _text(literal)) for literal in literals)


def _text(literal: ast.expr) -> str:
    """Return the text of a literal, with code for each field of an f-string."""
    if isinstance(literal, ast.Constant):
        return str(literal.value)
    if isinstance(literal, ast.JoinedStr):
        parts = literal.values
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "`code`" for p in parts)
    return ""


def _link_as_one_word(link: re.Match[str]) -> str:
    return "-".join(link[1].split())


def parts(page: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs, list items and table cells of a page, with lines. Titles are names."""
    prose = FENCE.sub(lambda found: "\n" * found[0].count("\n"), page)
    prose = LINKS.sub(lambda found: LINK.sub(_link_as_one_word, found[0]), prose)
    prose = LINK.sub(r"\1", prose)
    for found in re.finditer(r"(?:^(?!\s*$).+\n?)+", prose, re.MULTILINE):
        line = prose.count("\n", 0, found.start()) + 1
        for item in re.split(r"\n(?=\s*(?:[-*:|#]|\d+\.) ?)", found[0]):
            title = item.startswith("#")
            text = re.sub(r"^\s*(?:[-*:#]+|\d+\.) +", "", item)
            cells = re.split(r" \| ", text.strip("| \n")) if text.startswith("|") else [text]
            yield from ((line, cell) for cell in cells if cell.strip("-| \n") and not title)
            line += item.count("\n") + 1


def check_page(path: Path) -> list[Find]:
    """Return the finds in one Markdown page, by line."""
    found = []
    for line, text in parts(path.read_text()):
        plain = LISTED.sub("`code`", CODE.sub("`code`", " ".join(text.split())))
        found += [Find(str(path), line, *find) for find in broken(plain.strip("*"), PAGES)]
        sizes = len(SENTENCE.split(plain)), sum(map(_is_word, plain.split()))
        if any(size > most for size, most in zip(sizes, PARAGRAPH, strict=True)):
            rule = "a paragraph of {} sentences and {} words".format(*sizes)
            found.append(Find(str(path), line, rule, plain[:60]))
    return found


def check(path: Path) -> list[Find]:
    """Return the finds in one file, by line."""
    if path.suffix == ".md":
        return check_page(path)
    tree = ast.parse(path.read_bytes())
    finds = [(line, find) for line, text in texts(tree) for find in broken(text)]
    return sorted(Find(str(path), line, *find) for line, find in finds)


def main(arguments: list[str]) -> int:
    """Check all files and folders; return the exit status."""
    files: list[Path] = []
    for path in map(Path, arguments):
        files += sorted([*path.rglob("*.py"), *path.rglob("*.md")]) if path.is_dir() else [path]
    finds = [find for file in files for find in check(file)]
    print(*finds, sep="\n", end="\n" if finds else "")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
