"""The findings of ``doctor`` as text, colours and JSON, its box of commands, and ``--fix``."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_gvisor.cli import doctor, drawing, install
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli.health import Finding, State
from pytest_gvisor.hints import Command
from pytest_gvisor.settings import Settings

HOSTILE = "[bold red]x[/] :smile: \x1b]0;x\x1b[31m ::error::"


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Findings with commands, which are gone once the file exists that the command makes."""
    touch = Command((sys.executable, "-c", f"open({str(tmp_path / 'mended')!r}, 'w')", "a b"))
    twice = (touch, Command(("apt-get", "install", "vm"), as_root=True))
    bad = [
        Finding(name="runsc", state=State.BAD, detail="none", next_step="Mend it.", fix=(touch,)),
        Finding(name="vm", state=State.NOTE, detail=HOSTILE, fix=twice),
    ]
    good = [Finding(name="runsc", state=State.GOOD, detail="there")]
    monkeypatch.setattr(doctor, "_of_runsc", lambda *_: ([], False))

    def examine(_settings: Settings) -> tuple[list[Finding], bool]:
        mended = (tmp_path / "mended").exists()
        return (good, True) if mended else (bad, False)

    monkeypatch.setattr(doctor, "examine", examine)
    return bad


def test_the_box_has_each_command_once(
    found: list[Finding], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines are the commands, below the names of the findings that they mend."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("COLUMNS", "100")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    _, _, box = text.partition("Tests cannot run here: see NO above.\n\n")
    lines = box.splitlines()
    assert lines[0].startswith("-- to mend it: pytest-gvisor doctor --fix, or ---")
    assert lines[-1] == "-" * 100
    assert [line for line in lines if line.startswith("#")] == ["# runsc", "# vm"]
    assert box.count("mended") == 1
    assert lines[-2] == "apt-get install vm"
    assert "\x1b" not in text


def test_without_anything_to_mend_there_is_no_box(
    found: list[Finding], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict is the last line."""
    (tmp_path / "mended").touch()
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\n\nTests can run.\n")


def test_json_has_the_commands(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    """A command is its arguments, and whether it is for root."""
    assert cli.main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][1]["fix"][1] == {
        "argv": ["apt-get", "install", "vm"], "as_root": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fix"], "there is no terminal to ask at\nAdd --yes"),
        (["--yes"], "--yes is for --fix"),
        (["--fix", "--yes", "--json"], "exclude each other"),
    ],
)
def test_a_question_needs_a_terminal(
    words: list[str], told: str, found: list[Finding], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without one, --fix needs --yes; nothing is examined, and nothing runs."""
    assert cli.main(["doctor", *words]) == 2
    told_both = capfd.readouterr()
    assert told in told_both.err
    assert told_both.out == ""
    assert not (tmp_path / "mended").exists()


def test_yes_runs_the_commands_and_examines_again(
    found: list[Finding], tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A command that fails is named, and then the status is 1 although tests can run."""
    found[1] = Finding(name="vm", state=State.NOTE, detail="none")
    assert cli.main(["doctor", "--fix", "--yes"]) == 0
    told = capfd.readouterr()
    parts = ("cannot run here", "-- to mend it", f"\n{sys.executable} -c", "can run.")
    assert sorted(parts, key=told.out.rindex) == list(parts)
    (tmp_path / "mended").unlink()
    found[1] = Finding(name="vm", state=State.NOTE, detail="", fix=(Command(("no-such",)),))
    assert cli.main(["doctor", "--fix", "--yes"]) == 1
    told = capfd.readouterr()
    assert told.err == "pytest-gvisor doctor: no-such: there is no no-such here\n"
    assert told.out.endswith("\nTests can run.\n")


ASKING = """
import sys
from pytest_gvisor.cli import doctor, main
from pytest_gvisor.cli.health import Finding, State
from pytest_gvisor.hints import Command
fix = (Command((sys.executable, "-c", "print('did' + ' it', flush=True)", "$(x)")),)
found = [Finding(name="runsc", state=State.BAD, detail="[bold]x[/]", fix=fix)]
doctor.examine = lambda settings: (found, False)
sys.exit(main.main(["doctor", "--fix"]))
"""


@pytest.mark.parametrize(("answer", "done"), [("y", 1), ("n", 0), ("", 0)])
def test_at_a_terminal_each_command_is_shown_whole_and_asked_about(answer: str, done: int) -> None:
    """Only yes is yes; what rich draws has the text as it is."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ASKING], stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "NO_COLOR": ""},
    ) as process:  # fmt: skip
        os.close(theirs)
        text = ""
        while "Run it? [y/N] " not in text:
            text += os.read(ours, 65536).decode()
        os.write(ours, f"{answer}\n".encode())
        try:
            while piece := os.read(ours, 65536):
                text += piece.decode()
        except OSError:  # EIO: the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 1
    assert "'$(x)'\r\nRun it? [y/N] " in text
    assert text.count("did it") == done
    assert "[bold]x[/]" in text
    assert "\x1b[1;31mTests cannot run here" in text


def test_what_is_drawn_is_no_markup_and_has_no_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Text of findings, commands and progress stays as it is, apart from escapes."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "90")
    stream = Terminal()
    drawing.findings([("NO", HOSTILE, HOSTILE, HOSTILE)], stream)
    drawing.box("to mend", [HOSTILE, "x" * 200], stream)
    with drawing.Progress(stream) as bar:
        bar.show(HOSTILE, 1, 2)
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    assert plain.count("[bold red]x[/] :smile:") >= 5
    assert "\\x1b]0;x\\x1b[31m ::error::" in plain
    assert "\x1b" not in plain
    assert "\n" + "x" * 200 + "\n" in plain


@pytest.mark.parametrize(
    ("term", "no_color", "drawn"),
    [("xterm", "", True), ("dumb", "", False), ("", "", False), ("xterm", "1", False)],
)
def test_colours_are_for_terminals_that_have_them(
    term: str, no_color: str, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and TERM=dumb give plain text, and so does everything but a terminal."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert drawing.is_drawn(Terminal()) is drawn
    assert not drawing.is_drawn(io.StringIO())


def test_progress_is_drawn_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with bytes and per cent; without colours, one line that is written over."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for term, sign in (("xterm", "━"), ("dumb", "\r1.0 of 1.0 MiB, 100 %")):
        monkeypatch.setenv("TERM", term)
        stream = Terminal()
        with install.Bar(stream) as bar:
            bar.show(1024 * 1024, 1024 * 1024)
        assert sign in stream.getvalue()
        assert "1.0 of 1.0 MiB, 100 %" in stream.getvalue()
