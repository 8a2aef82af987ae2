"""Hints that name a setting, as pytest and the commands show them."""

from __future__ import annotations

import copy
import dataclasses
import errno
import pickle
import re
from pathlib import Path

import pytest

import pytest_gvisor
from pytest_gvisor import hints
from pytest_gvisor.cli import doctor, run
from pytest_gvisor.errors import LaunchError, RunscNotFound, UsageError, stage
from pytest_gvisor.hints import Hint, Phrase, option, worded
from pytest_gvisor.run import not_started
from pytest_gvisor.runsc import locate
from pytest_gvisor.setting_table import SETTINGS
from pytest_gvisor.settings import Settings

PACKAGE = Path(pytest_gvisor.__file__).parent
FOR_PYTEST = ("plugin", "inside", "guest")
"""Folders whose texts only pytest shows."""


def test_a_setting_is_named_as_each_program_has_it() -> None:
    """pytest and a call share one text; a command names its own option."""
    hint = Hint("Give it longer with ", option("timeout"), ".")
    assert hint == "Give it longer with timeout=SECONDS or --gvisor-timeout."
    assert worded(hint, "run") == "Give it longer with --timeout SECONDS."
    assert worded(Hint(option("debug")), "run") == "--debug"
    assert worded(Hint(option("runsc")), "doctor") == "--runsc PATH"
    assert Hint(option("rootless", "auto")) == "rootless=auto"
    assert worded(Hint(option("rootless", "auto")), "run") == "--rootless auto"


def test_a_command_without_the_option_names_the_command_that_has_it() -> None:
    """Only ``run`` has a deadline."""
    assert worded(Hint(option("timeout")), "doctor") == "`pytest-gvisor run --timeout SECONDS`"


def test_a_hint_in_a_hint_keeps_its_parts() -> None:
    """Joined, copied and pickled hints can still be worded; a plain text is shown as it is."""
    whole = Hint("Go. ", Hint("Use ", option("debug"), "."))
    for one in (whole, copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert one == "Go. Use debug=True or --gvisor-debug."
        assert worded(one, "run") == "Go. Use --debug."
    assert worded("Use {debug}.", "run") == "Use {debug}."


def test_an_error_is_told_with_the_hint_of_the_program() -> None:
    """The message stays, and an error without a hint is its own text."""
    with pytest.raises(RunscNotFound) as caught:
        locate.find("/nonexistent/runsc")
    assert "--gvisor-runsc PATH" in str(caught.value)
    told = hints.told(caught.value, "run")
    assert told.startswith(f"{caught.value.message}\nInstall it ")
    assert told.endswith(", or name it with --runsc PATH.")
    assert hints.told(UsageError("no"), "run") == "no"
    assert hints.told(ValueError("no"), "run") == "no"


def test_a_file_that_the_sandbox_lacks_is_shown_with_the_option_of_run(tmp_path: Path) -> None:
    """The option's value is quoted for a shell and escaped."""
    path = tmp_path / "a b\x1b.py"
    hint = not_started._told(str(path))
    assert f"mounts=[bind({str(path)!r}, " in hint
    shown = f"{tmp_path}/a b\\x1b.py"
    assert f"--mount '{shown}:{shown}'." in worded(hint, "run")
    assert "bind(" not in worded(hint, "run")


@pytest.mark.parametrize(
    ("command", "parser"), [("run", run.parser()), ("doctor", doctor.parser())]
)
def test_each_option_that_a_hint_can_name_is_one_of_the_command(
    command: str, parser: object
) -> None:
    """A hint of a command names options that its parser takes."""
    names = set(vars(parser)["_option_string_actions"])
    for one in SETTINGS:
        if one.commands:
            phrase = option(one.name)
            assert isinstance(phrase, Phrase)
            named = set(re.findall(r"(?<![\w-])--[\w-]+", worded(Hint(phrase), command)))
            assert named <= names or worded(Hint(phrase), command).startswith("`pytest-gvisor ")


def texts(path: Path) -> list[str]:
    """The lines of code that name an option of pytest's, without docstrings and comments."""
    code = re.sub(r'"""[\s\S]*?"""', "", path.read_text())
    return [line for line in code.splitlines() if re.search(r"--(?:no-|in-)?gvisor", line)]


def test_no_text_below_the_plugin_names_an_option_of_pytest_alone() -> None:
    """Text that a command can show names a setting by a hint."""
    found = {
        str(path.relative_to(PACKAGE)): texts(path)
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in FOR_PYTEST and texts(path)
    }
    assert found.keys() == {
        "removed.py",  # what to write now
        "setting_table.py",  # the help of pytest's options
        "setting_values.py",  # native comes from no command
        "settings.py",  # nor does a label
        "report/run_texts.py",  # a section of pytest's
        "cli/init.py",  # a command line of pytest, for tox
        "cli/install.py",  # says that the option is pytest's
        "cli/report.py",
        "cli/vm.py",  # an example that runs pytest
    }


def test_a_finding_has_the_words_of_the_doctor() -> None:
    """The findings of ``doctor`` are plain text with its own options."""
    found, _able = doctor.examine(dataclasses.replace(Settings(), runsc="/nonexistent"))
    (runsc,) = [one for one in found if one.name == "runsc"]
    assert type(runsc.next_step) is str
    assert runsc.next_step.endswith("or name it with --runsc PATH.")


def test_an_oserror_becomes_a_launch_error_with_stage_and_errno() -> None:
    """The kernel's own error is its cause."""
    refused = OSError(errno.ENOSPC, "full")
    with (
        pytest.raises(LaunchError, match="cannot do it") as caught,
        stage("somewhere", "cannot do it"),
    ):
        raise refused
    assert (caught.value.stage, caught.value.errno) == ("somewhere", errno.ENOSPC)
    assert caught.value.__cause__ is refused


def test_any_other_error_passes() -> None:
    """Another exception is raised unchanged."""
    with pytest.raises(KeyError), stage("somewhere", "cannot do it"):
        raise KeyError("x")


def test_an_oserror_without_a_number_is_typed_too() -> None:
    """Python raises some, as for a time-out of its own."""
    with pytest.raises(LaunchError) as caught, stage("somewhere", "cannot do it"):
        raise TimeoutError("timed out")
    assert caught.value.errno == 0


def test_a_shortage_of_memory_is_a_launch_error_with_its_errno() -> None:
    """Python's MemoryError has no number; the kernel's is ENOMEM."""
    with pytest.raises(LaunchError) as caught, stage("somewhere", "no memory for it"):
        raise MemoryError
    assert (caught.value.stage, caught.value.errno) == ("somewhere", errno.ENOMEM)
