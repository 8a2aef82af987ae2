"""The key of a kept sandbox: what changes it, and where there is none for fear of a secret."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_gvisor.inside import environment, kept_key, start
from pytest_gvisor.inside.visible import Shown
from pytest_gvisor.run import following
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sessions import boot_notes
from pytest_gvisor.settings import Platform, Settings

PATH = ["/usr/lib/python3", "/project"]


@pytest.fixture
def plan() -> start.Plan:
    """The plan of a sandbox."""
    usual = environment.environment((), os.environ)
    return start.Plan(
        runsc=cast("Any", None), platform=Platform.SYSTRAP, settings=Settings(),
        way=Way.PRIVILEGED, shown=Shown(paths=("/project",), start="/project"),
        inside=start.Inside(env=usual, held_back=("A", "B")), inhabitant=None,
        command={
            "options": {"rootdir": "/project", "verbose": 0},
            "args": [],
            "worker": None,
            "program": {"argv": ["pytest"], "orig_argv": ["python", "-m", "pytest"]},
        },
    )  # fmt: skip


OTHERS: dict[str, Any] = {
    "platform": Platform.PTRACE,
    "settings": Settings(memory="1G"),
    "way": Way.OWN,
    "shown": Shown(paths=("/other",), start="/project"),
    "inside": start.Inside(env={"LANG": "C"}),
    "command": {
        "options": {"rootdir": "/project", "verbose": 1}, "args": [], "worker": None,
        "program": {"argv": ["pytest"], "orig_argv": ["python", "-m", "pytest"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("line", [True, False])
@pytest.mark.parametrize("name", OTHERS)
def test_each_part_of_a_plan_counts(name: str, line: bool, plan: start.Plan) -> None:
    """Another platform, setting, folder, variable or option is another key."""
    changes: dict[str, Any] = {name: OTHERS[name]}
    other = dataclasses.replace(plan, **changes)
    assert kept_key.key(other, PATH, line=line) != kept_key.key(plan, PATH, line=line)


@pytest.mark.parametrize(
    "part", ["boot", "processor", "limits", "version", "search path", "folders of Python"]
)
def test_the_machine_and_python_count(
    part: str, plan: start.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot, another processor, a limit on open files, another release, sys.path or prefix."""
    before, path = kept_key.key(plan, PATH), PATH
    if part == "boot":
        monkeypatch.setattr(boot_notes, "boot_id", lambda: "another")
    elif part == "processor":
        monkeypatch.setattr(kept_key, "_processor", lambda: "another")
    elif part == "limits":
        monkeypatch.setattr(following, "nofile", lambda _: (100, 100))
    elif part == "version":
        monkeypatch.setattr(kept_key, "_version", lambda: "9")
    elif part == "search path":
        path = [*reversed(PATH)]
    else:
        monkeypatch.setattr(sys, "prefix", "/elsewhere")
    assert kept_key.key(plan, path) != before


def test_another_runsc_is_another_key(plan: start.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same path with another content, or elsewhere."""

    @dataclasses.dataclass
    class Binary:
        path: str
        fingerprint: str

    monkeypatch.setattr(kept_key, "Runsc", Binary)
    keys = {
        kept_key.key(dataclasses.replace(plan, runsc=cast("Any", Binary(*names))), PATH, line=False)
        for names in (("/runsc", "one"), ("/runsc", "two"), ("/other", "one"), ("/runsc", "one"))
    }
    assert len(keys) == 3


def test_what_a_sandbox_does_not_see_makes_no_other_key(plan: start.Plan) -> None:
    """For instance a deadline, a report, and verdicts."""
    settings = Settings(timeout=3, report=("a.html",), strict=True, reprobe=True)
    assert kept_key.key(dataclasses.replace(plan, settings=settings), PATH) == kept_key.key(
        plan, PATH
    )


def test_what_differs_in_each_run_makes_no_other_key(plan: start.Plan) -> None:
    """The id of a run of xdist, and a seed that was drawn; the name of a worker counts."""

    def key_of(worker: str, run: str) -> str:
        inside = start.Inside(env={**plan.inside.env, "PYTEST_XDIST_TESTRUNUID": run})
        ids = {"worker_id": worker, "testrun_uid": run}
        options = {**plan.command["options"], "randomly_seed": hash(run)}
        command = {**plan.command, "worker": ids, "options": options}
        other = dataclasses.replace(plan, inside=inside, command=command)
        assert other.of_this_run()["worker"] == ids
        return kept_key.key(other, PATH)

    assert key_of("gw0", "run") == key_of("gw0", "other") != key_of("gw1", "run")


def test_the_choice_of_tests_counts_only_for_one_that_has_read_it(plan: start.Plan) -> None:
    """Plugins and the name of the program count for each."""

    def keys(args: list[str], *words: str) -> tuple[str, str]:
        program = {"argv": [*words], "orig_argv": ["python", "-m", "pytest", *words[1:]]}
        command = {**plan.command, "args": args, "program": program}
        other = dataclasses.replace(plan, command=command)
        return kept_key.key(other, PATH, line=False), kept_key.key(other, PATH)

    one = keys(["-p", "one", "a"], "pytest", "-p", "one", "a")
    other = keys(["-p", "one", "b::c", "-p"], "pytest", "-p", "one", "b::c", "-k", "d")
    assert one[0] == other[0] != one[1] != other[1]
    assert one[0] != keys(["-p", "two", "a"], "pytest", "-p", "two", "a")[0]
    assert one[0] != keys(["-p", "one", "a"], "another", "-p", "one", "a")[0]


def test_the_key_is_a_digest_and_the_same_in_each_process(plan: start.Plan) -> None:
    """Neither the order of a set nor the address of an object is in it."""
    code = (
        "from pytest_gvisor.inside import kept_key; from pytest_gvisor.settings import Settings\n"
        "print(kept_key._plain([Settings(), {'b': 1, 'a': frozenset('abcdefgh')}]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True,
        ).stdout
        for seed in "12"
    }  # fmt: skip
    assert len(said) == 1
    assert " at 0x" not in json.dumps(kept_key._plain(plan))
    assert len(kept_key.key(plan, PATH)) == 64


def test_the_processor_is_the_first_ones_features() -> None:
    """No clock frequency is in it, which changes all the time."""
    text = kept_key._processor()
    assert "MHz" not in text
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    assert all(line in first for line in text.splitlines())
    assert text


def test_a_usual_run_has_no_secret(plan: start.Plan) -> None:
    """Names of files and keywords may look like one."""
    argv = ["pytest", "tests/test_password.py", "-k", "token", "-x", "-p", "no:x", "-o", "a=b"]
    command = {**plan.command, "program": {"argv": argv, "orig_argv": argv}}
    assert kept_key.secret(dataclasses.replace(plan, command=command)) == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--api-token", "x"], ["--password=x"], ["-o", "auth_secret=x"],
        ["--index", "https://me:sesame@example.org/"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["argv", "orig_argv"])
def test_an_argument_may_be_a_secret(name: str, words: list[str], plan: start.Plan) -> None:
    """By the name of an option or key, or as a part of a URL."""
    program = {**plan.command["program"], name: ["pytest", *words]}
    found = kept_key.secret(dataclasses.replace(plan, command={**plan.command, "program": program}))
    assert "may have a secret" in found
    assert "sesame" not in found


def test_an_option_may_be_a_secret(plan: start.Plan) -> None:
    """Its value may come from anywhere; one that is not set is none."""
    options = {**plan.command["options"], "api_token": None}
    unset = dataclasses.replace(plan, command={**plan.command, "options": options})
    assert kept_key.secret(unset) == ""
    options["api_token"] = "x"
    assert "api_token" in kept_key.secret(unset)


def test_a_variable_that_is_passed_on_may_be_a_secret(
    plan: start.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that is always passed on is none, unless it gets another value."""
    for env in ({"HOST": "x"}, {"LANG": "other"}):
        inside = start.Inside(env={**plan.inside.env, **env})
        found = kept_key.secret(dataclasses.replace(plan, inside=inside))
        assert found == f"variables are passed on by hand: {next(iter(env))}"
    monkeypatch.setenv("PYTEST_API_TOKEN", "x")
    assert kept_key.secret(plan) == ""
    assert "PYTEST_API_TOKEN" not in environment.environment((), os.environ)
