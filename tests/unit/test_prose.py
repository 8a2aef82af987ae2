"""scripts/prose.py, which checks the English of summaries and help texts."""

from pathlib import Path

import pytest

from scripts.prose import broken, main


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
        "Run the unit tests.",
        "Itself.",
    ],
)
def test_plain_english_passes(text: str) -> None:
    """Names and code break no rule."""
    assert list(broken(text)) == []


def test_a_find_is_a_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders are searched; the line names file, line, rule and sentence."""
    (tmp_path / "good.py").write_text('"""A module."""\n')
    assert main([str(tmp_path)]) == 0
    bad = tmp_path / "bad.py"
    bad.write_text('"""A module."""\n\n\ndef f():\n    """What it does."""\n')
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{bad}:5: names no subject: What it does.\n"
