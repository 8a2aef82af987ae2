"""scripts/prose.py, which checks the English of summaries and help texts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts.prose import bodies, broken, check, check_page, main, texts


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("What takes part in a channel: who has an id there.", "names no subject"),
        ("Who a user is, by the passwd and group files of an image.", "names no subject"),
        ("Which of several images to take: by name, and by architecture.", "names no subject"),
        ("One that is in the cache is not exported again.", "names no subject"),
        ("Of which bare runsc has its fork and execve too.", "names no subject"),
        ("The step. As docker writes it, and podman.", "names no subject"),
        ("It is checked by the same rules as ours.", "names no subject"),
        ("Which of several images is meant.", "private word 'meant'"),
        ("An unknown word ends the sandbox.", "private word 'word'"),
        ("Skip for want of runsc.", "private word 'want of'"),
        ("The layers that can be had.", "private word 'be had'"),
        ("One " + "very " * 18 + "long sentence.", "21 words, more than 20"),
    ],
)
def test_a_sentence_that_breaks_a_rule_is_found(text: str, rule: str) -> None:
    """Each rule finds the sentence that it was made for."""
    assert rule in [name for name, _ in broken(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Choose one image from an index, by name and by the host's architecture.",
        "The endpoints of a channel: each has an id.",
        "Messages from the guest, parsed and checked. An unknown message closes the sandbox.",
        "`what` is code, and so is ``it said a word``.",
        "One " + "very " * 17 + "long sentence. " + "It's" + " a short one.",
        "Run the unit tests.",
        "Itself.",
    ],
)
def test_plain_english_passes(text: str) -> None:
    """Names, code and a sentence at its longest break no rule."""
    assert list(broken(text)) == []


def test_summaries_and_help_texts_are_read() -> None:
    """Bodies of docstrings, comments and other strings are left alone."""
    source = '''"""Module.

It is a body.
"""
class A:
    """Class,
    in two lines."""
    async def f():
        """Function."""  # what a comment
add("--a", help="an option"
    " in two parts", metavar="it")
parser.addini("name", "an ini option")
add(help=f"{x} of {y}", description=z)
'''
    found = sorted(text for _, text in texts(ast.parse(source)))
    assert [" ".join(text.split()) for text in found if text] == [
        "Class, in two lines.",
        "Function.",
        "Module.",
        "`code` of `code`",
        "an ini option",
        "an option in two parts",
    ]


def test_the_paragraphs_below_a_summary_and_attributes_docstrings_are_bodies() -> None:
    """Summaries, lists, tables and code are none."""
    source = '''"""Module.

It has
a body.

- a list

    code
"""
LEAST = 1
"""An attribute."""
print(LEAST)
"""No docstring."""
class A:
    """Class."""
    least: int = 1
    """Another."""
'''
    found = [(line, " ".join(text.split())) for line, text in bodies(ast.parse(source))]
    assert found == [(1, "It has a body."), (11, "An attribute."), (17, "Another.")]


def test_a_long_sentence_of_a_body_is_a_find(tmp_path: Path) -> None:
    """The other rules are for summaries alone."""
    path = tmp_path / "module.py"
    path.write_text(f'"""A module.\n\nWhat {"very " * 19}long.\n"""\n')
    (find,) = check(path)
    assert find.rule == "21 words, more than 20"


def test_a_find_is_a_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders are searched; the line names file, line, rule and sentence."""
    (tmp_path / "good.py").write_text('"""A module."""\n')
    assert main([str(tmp_path)]) == 0
    bad = tmp_path / "bad.py"
    bad.write_text('"""A module."""\n\n\ndef f():\n    """What it does."""\n')
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{bad}:5: names no subject: What it does.\n"


PAGE = """\
# What a title may be

What a page says is read by strangers.
It is a sentence with a subject, [who reads it](page.md) or not. Who reads it?

- whose item
- One {long}sentence.

| what | `who` |
|---|---|
| a cell | what it holds |

```python
what = 1
```

    what is code

`a`, `b`, `c` and `d` are told.
"""


def test_the_prose_of_a_page_is_checked_and_its_code_is_not(tmp_path: Path) -> None:
    """Titles, questions, links and code are left alone; items and cells are not."""
    path = tmp_path / "page.md"
    path.write_text(PAGE.format(long="very " * 19))
    assert [(find.line, find.rule) for find in check_page(path)] == [
        (3, "names no subject"),
        (6, "names no subject"),
        (7, "21 words, more than 20"),
        (9, "names no subject"),
        (11, "names no subject"),
        (19, "private word 'told'"),
    ]
    assert main([str(tmp_path)]) == 1


def test_a_link_of_a_list_is_one_word_and_a_link_of_a_sentence_is_not(tmp_path: Path) -> None:
    """A list of links is read link by link; its texts are checked for all else."""
    path = tmp_path / "page.md"
    link = "[a page of five words](a.md)"
    path.write_text(f"See: {link},\n{link}, {link}, {link}\n\nSee {link}, {link} {'or ' * 10}\n")
    assert [(find.line, find.rule) for find in check_page(path)] == [
        (1, "private word 'words'"),
        (4, "private word 'words'"),
        (4, "21 words, more than 20"),
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Read it. " * 6, ""),
        ("Read it. " * 7, "a paragraph of 7 sentences and 14 words"),
        ("- " + f"It is {'so ' * 16}long. " * 5 + "It is all, and it ends here.", ""),
        ("- " + f"It is {'so ' * 16}long. " * 6, "a paragraph of 6 sentences and 114 words"),
    ],
)
def test_a_paragraph_is_short(tmp_path: Path, text: str, rule: str) -> None:
    """So is an item of a list: a long one becomes a list or a table."""
    path = tmp_path / "page.md"
    path.write_text(f"# Title\n\n{text}\n")
    assert [find.rule for find in check_page(path)] == [rule] * bool(rule)
