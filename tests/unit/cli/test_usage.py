"""Help texts of the commands."""

import argparse
import re
from collections.abc import Iterator
from importlib import metadata
from unittest.mock import Mock

import pytest

from pytest_gvisor.base import removed
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli import parsers, run


def parsers_of(command: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command, and those of its actions."""
    made = cli.module(command).parser()
    yield made
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_each_help_has_the_exit_statuses(command: str) -> None:
    """The statuses that all commands share are there, in order, and those of the command."""
    for parser in parsers_of(command):
        _, _, text = parser.format_help().partition("\nexit status:\n")
        found = re.findall(r"^  (\d+|N) ", text, re.MULTILINE)
        assert set(found) > parsers.SHARED.keys(), parser.prog
        numbers = [int(status) for status in found if status != "N"]
        assert numbers == sorted(numbers)
    assert {"run": {"124", "126", "127", "N"}, "vm": {"124", "N"}, "install": {"1", "124"}}.get(
        command, set()
    ) <= set(found)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_as_wide_as_the_terminal(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line fits, apart from examples, which are for pasting."""
    monkeypatch.setenv("COLUMNS", "60")
    for parser in parsers_of(command):
        text, _, _examples = parser.format_help().partition("\nexamples:\n")
        assert max(map(len, text.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "300")
    assert parsers.width() == 100


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_an_example_is_a_command_line_that_is_taken(command: str) -> None:
    """The examples name commands, and their options are options of these."""
    for parser in parsers_of(command):
        _, _, examples = parser.format_help().partition("\nexamples:\n")
        for line in examples.splitlines():
            words = line.split(" -- ")[0].split()
            assert words[:2] == ["pytest-gvisor", command]
            taken = {name for one in parsers_of(command) for name in one._option_string_actions}
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


def test_a_command_needs_no_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder on PYTHONPATH has no metadata; only ``--version`` reads them."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "--help"])
    assert end.value.code == 0


@pytest.mark.parametrize("command", removed.OPTIONS)
def test_a_removed_option_says_what_to_write_now(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help has it no more; with a value or without one it is an invalid command line."""
    found = parsers_of(command.partition(" ")[0])
    (parser,) = (one for one in found if one.prog == f"pytest-gvisor {command}")
    for option, instead in removed.OPTIONS[command].items():
        assert not re.search(rf"(?<![\w-]){option}\b", parser.format_help())
        for words in ([option], [option, "value"], [f"{option}=value"]):
            with pytest.raises(SystemExit, match="2"):
                parser.parse_args(words)
            assert capsys.readouterr().err.endswith(f"error: there is no {option}. {instead}\n")


def test_a_want_of_memory_is_status_125(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would end with 1: that of a command in a sandbox, or of shards that are missing."""
    monkeypatch.setattr(cli, "_drop", lambda _fd: None)
    monkeypatch.setattr(cli, "module", Mock(side_effect=MemoryError))
    assert cli.main(["report"]) == cli.FAILED
    assert capsys.readouterr().err == "pytest-gvisor report: there is no memory left\n"
