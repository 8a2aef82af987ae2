"""The findings of ``doctor`` as text and JSON, with the commands that mend them."""

import json
import os
import sys
from pathlib import Path

import pytest

from pytest_gvisor.cli import doctor
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli.health import Finding, State
from pytest_gvisor.vm.parts import Command

HOSTILE = "[bold red]x[/] :smile: \x1b]0;x\x1b[31m ::error::"


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Findings with commands, which the doctor has."""
    touch = Command((sys.executable, "-c", f"open({str(tmp_path / 'mended')!r}, 'w')", "a b"))
    twice = (touch, Command(("apt-get", "install", "vm"), as_root=True))
    bad = [
        Finding(name="runsc", state=State.BAD, detail="none", next_step="Mend it.", fix=(touch,)),
        Finding(name="vm", state=State.NOTE, detail=HOSTILE, fix=twice),
    ]
    monkeypatch.setattr(doctor, "examine", lambda _settings: (bad, False))
    return bad


def test_each_command_is_printed_once(
    found: list[Finding], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last lines are the commands, below the names of the findings that they mend."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    _, _, box = text.partition("Tests cannot run here: see NO above.\n\n")
    lines = box.splitlines()
    assert lines[0] == "These commands mend it:"
    assert [line for line in lines if line.startswith("#")] == ["# runsc", "# vm"]
    assert box.count("mended") == 1
    assert lines[-1] == "apt-get install vm"
    assert "\x1b" not in text


def test_without_anything_to_mend_the_verdict_is_the_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that works needs no command."""
    good = [Finding(name="runsc", state=State.GOOD, detail="there")]
    monkeypatch.setattr(doctor, "examine", lambda _settings: (good, True))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("\n\nTests can run.\n")


def test_json_has_the_commands(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    """A command is its arguments, and whether it is for root."""
    assert cli.main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][1]["fix"][1] == {
        "argv": ["apt-get", "install", "vm"], "as_root": True,
    }  # fmt: skip


def test_control_characters_of_findings_are_escaped() -> None:
    """A finding holds texts of files, of daemons and of runsc."""
    found = [Finding(name="vm", state=State.NOTE, detail=HOSTILE, next_step=HOSTILE)]
    shown = "\n".join(doctor.lines(found, 200))
    assert shown.count("\\x1b]0;x\\x1b[31m ::error::") == 2
    assert "\x1b" not in shown
