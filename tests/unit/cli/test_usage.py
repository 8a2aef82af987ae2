"""Help texts of the commands, and completion."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from pytest_gvisor import removed
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli import parse, run


def parsers(command: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command, and those of its actions."""
    made = importlib.import_module(f"pytest_gvisor.cli.{command}").parser()
    yield made
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_help_has_the_exit_statuses(command: str) -> None:
    """The statuses that all commands share are there, in order, and those of the command."""
    for parser in parsers(command):
        _, _, text = parser.format_help().partition("\nexit status:\n")
        found = re.findall(r"^  (\d+|N) ", text, re.MULTILINE)
        assert set(found) > parse.SHARED.keys(), parser.prog
        numbers = [int(status) for status in found if status != "N"]
        assert numbers == sorted(numbers)
    assert {"run": {"124", "126", "127", "N"}, "vm": {"124", "N"}, "install": {"1", "124"}}.get(
        command, set()
    ) <= set(found)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_as_wide_as_the_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line fits, apart from examples, which are for pasting."""
    monkeypatch.setenv("COLUMNS", "60")
    for parser in parsers(command):
        text, _, _examples = parser.format_help().partition("\nexamples:\n")
        assert max(map(len, text.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "300")
    assert parse.width() == 100


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_example_is_a_command_line_that_is_taken(command: str) -> None:
    """The examples name commands, and their options are options of these."""
    for parser in parsers(command):
        _, _, examples = parser.format_help().partition("\nexamples:\n")
        for line in examples.splitlines():
            words = line.split(" -- ")[0].split()
            assert words[:2] == ["pytest-gvisor", command]
            taken = {name for one in parsers(command) for name in one._option_string_actions}
            assert [word for word in words if word[:2] == "--" and word not in taken] == []


def test_the_options_of_run_are_in_groups() -> None:
    """Only ``--help`` stands outside of a group with a title of its own."""
    text = run.parser().format_help()
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles == [
        "positional arguments", "options", "workload", "root and files", "sandbox", "limits",
        "looking into it", "exit status", "examples",
    ]  # fmt: skip
    (rest,) = re.findall(r"^options:\n((?:  .*\n)+)", text, re.MULTILINE)
    assert re.findall(r"^  (-\S+)", rest, re.MULTILINE) == ["-h,"]


def test_a_bare_call_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Help is on standard output with status 0, as pip has it; options alone need a command."""
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert [name for name in cli.COMMANDS if f"\n  {name} " not in told.out] == []
    with pytest.raises(SystemExit) as end:
        cli.main(["--"])
    assert end.value.code == 2
    assert "a COMMAND is missing" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, for programs too."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pytest-gvisor {metadata.version('pytest-gvisor')}\n"


COMPLETE = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
made=$(complete -p pytest-gvisor | sed 's/.*-F \([^ ]*\).*/\1/')
"$made" pytest-gvisor "${@: -1}" "${@: -2:1}"
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], " ".join(cli.COMMANDS)),
        (["d"], "doctor"),
        (["--p"], "--print-completion"),
        (["run", "--ne"], "--network --netns"),
        (["run", "--network", ""], "none sandbox host"),
        (["run", "--rootfs", "fold"], "folder"),
        (["run", "--keep", "f"], "folder"),
        (["run", "--image", "f"], "file folder"),
        (["report", ""], "merge show"),
        (["images", "prune", "--k"], "--keep"),
    ],
)
def test_bash_completes(
    words: list[str], offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """bash offers commands, options, values and paths from the printed script."""
    assert cli.main(["--print-completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "here/folder").mkdir(parents=True)
    (tmp_path / "here/file").touch()
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", "../script", "pytest-gvisor", *words],
        capture_output=True, text=True, timeout=60, cwd=tmp_path / "here",
    )  # fmt: skip
    assert (sorted(done.stdout.split()), done.stderr) == (sorted(offered.split()), "")


@pytest.mark.parametrize(
    ("shell", "line"), [("zsh", "#compdef pytest-gvisor\n"), ("tcsh", "complete pytest-gvisor ")]
)
def test_other_shells_have_a_script_too(
    shell: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script names each command, and an option of one."""
    assert cli.main(["--print-completion", shell]) == 0
    text = capsys.readouterr().out
    assert line in text
    assert [name for name in (*cli.COMMANDS, "max-output") if name not in text] == []


@pytest.mark.parametrize("command", removed.OPTIONS)
def test_a_removed_option_says_what_to_write_now(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help has it no more; with a value or without one it is an invalid command line."""
    found = parsers(command.partition(" ")[0])
    (parser,) = (one for one in found if one.prog == f"pytest-gvisor {command}")
    for option, instead in removed.OPTIONS[command].items():
        assert option not in parser.format_help()
        for words in ([option], [option, "value"], [f"{option}=value"]):
            with pytest.raises(SystemExit, match="2"):
                parser.parse_args(words)
            assert capsys.readouterr().err.endswith(f"error: {option} is removed. {instead}\n")
