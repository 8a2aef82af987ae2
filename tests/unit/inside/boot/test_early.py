"""When a sandbox is started before the collection, and when it is taken."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.base.errors import RunscNotFound
from pytest_gvisor.base.settings import Platform, Release, Settings
from pytest_gvisor.inside.boot import early, start
from pytest_gvisor.inside.boot.early import Early
from pytest_gvisor.inside.view import configuration, run_options, users
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.view.visible import Shown
from pytest_gvisor.runsc.rootless import Way


class Sandbox:
    """Takes the place of a link."""

    def __init__(self) -> None:
        self.did: list[str] = []

    def greet(self) -> None:
        """Note the greeting."""
        self.did.append("greeted")

    def close(self) -> None:
        """Note the end."""
        self.did.append("closed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project's folder."""
    (tmp_path / "test_it.py").write_text("")
    (tmp_path / "log.txt").write_text("")
    return tmp_path


@pytest.fixture
def plan(folder: Path) -> start.Plan:
    """The plan of a sandbox for the project."""
    return plan_of(folder)


def plan_of(folder: Path) -> start.Plan:
    """The plan of a sandbox for a project in this folder."""
    return start.Plan(
        runsc=cast("Any", None), platform=Platform.SYSTRAP, settings=Settings(),
        way=Way.PRIVILEGED, shown=Shown(paths=(str(folder),), start=str(folder)),
        inside=Inside(env={"A": "1"}), inhabitant=None,
        command={"options": {"rootdir": str(folder)}},
    )  # fmt: skip


@pytest.fixture
def sandbox() -> Sandbox:
    """The sandbox that is started."""
    return Sandbox()


Make = Callable[..., Early]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, plan: start.Plan, sandbox: Sandbox, folder: Path) -> Make:
    """Make the plugin of a run with these settings, after it has begun."""

    def begun(
        platforms: tuple[Platform, ...] = (Platform.SYSTRAP,), basetemp: str = "", **fields: Any
    ) -> Early:
        config = SimpleNamespace(
            add_cleanup=lambda _: None,
            getoption=lambda _: basetemp,
            invocation_params=SimpleNamespace(dir=folder),
            rootpath=folder,
            stash=pytest.Stash(),
        )
        engine = SimpleNamespace(platforms_of=lambda _: platforms)
        monkeypatch.setattr(early, "engine_of", lambda _: engine)
        monkeypatch.setattr(early, "run_settings", lambda _: Settings(**fields))
        monkeypatch.setattr(run_options, "inside", lambda _: Inside())
        monkeypatch.setattr(users, "of_run", lambda _: "caller")
        monkeypatch.setattr(start, "plan", lambda *_, **_given: plan)
        monkeypatch.setattr(start, "launch", lambda *_, **_also: sandbox)
        made = Early(cast("Any", config))
        if made.begin():
            made.greet()
        return made

    return begun


def test_a_sandbox_of_the_same_plan_is_taken_once(
    make: Make, plan: start.Plan, sandbox: Sandbox
) -> None:
    """The next start, as after a death, is a fresh one; what was taken is not removed here."""
    begun = make()
    taken = begun.take(dataclasses.replace(plan))
    assert taken is not None
    assert taken.link is cast("Any", sandbox)
    assert begun.take(plan) is None
    begun.discard()
    assert sandbox.did == ["greeted"]


def test_a_sandbox_of_another_plan_is_removed(
    make: Make, plan: start.Plan, sandbox: Sandbox
) -> None:
    """The test that has the other plan gets a fresh one."""
    begun = make()
    assert begun.take(dataclasses.replace(plan, platform=Platform.PTRACE)) is None
    assert sandbox.did == ["greeted", "closed"]


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("made.py", False), ("test_it.py", False), ("made.txt", False), ("log.txt", True),
        ("__pycache__", True), ("base", True),
    ],
)  # fmt: skip
def test_files_that_a_start_may_have_read_are_the_same(
    name: str, same: bool, make: Make, plan: start.Plan, folder: Path
) -> None:
    """New names and changed programs count; this run's own output and folders do not."""
    begun = make(basetemp="base")
    (folder / name).write_text("changed")
    assert (begun.take(plan) is not None) == same


@pytest.mark.parametrize(
    "settings",
    [
        {"platforms": (Platform.KVM,)},
        {"platforms": (Platform("unheard"),)},
        {"platforms": (Platform.SYSTRAP, Platform.PTRACE)},
        {"image": "an image"},
        {"releases": (Release("a", "/a"), Release("b", "/b"))},
    ],
)
def test_no_sandbox_is_started_where_it_is_not_clear_which(
    settings: dict[str, Any], make: Make, plan: start.Plan, sandbox: Sandbox
) -> None:
    """Several, kvm, or none at all: the first test says which."""
    assert make(**settings).take(plan) is None
    assert not sandbox.did


@pytest.mark.parametrize(
    "error", [RunscNotFound("nowhere"), OSError("no"), pytest.UsageError("so not")]
)
def test_a_problem_is_left_to_the_first_test(
    error: Exception, make: Make, plan: start.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is reported before the first test comes upon the same problem."""
    begun = make()

    def fail(*_: object, **_also: object) -> None:
        raise error

    monkeypatch.setattr(start, "launch", fail)
    begun.discard()
    assert not begun.begin()
    assert begun.take(plan) is None


def test_a_fork_leaves_the_sandbox_to_its_maker(
    make: Make, plan: start.Plan, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork of pytest neither uses it nor removes it."""
    begun = make()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert begun.take(plan) is None
    begun.discard()
    assert sandbox.did == ["greeted"]


def test_a_sandbox_ends_with_a_collection_that_has_no_test_inside(
    make: Make, sandbox: Sandbox
) -> None:
    """The tests of the host need none."""
    begun = make()
    hook: Any = begun.pytest_collection(cast("Any", SimpleNamespace(items=[])))
    next(hook)
    assert sandbox.did == ["greeted"]
    with pytest.raises(StopIteration):
        hook.send(None)
    assert sandbox.did == ["greeted", "closed"]


@pytest.mark.parametrize("part", ["settings", "inside", "shown"])
def test_each_input_of_a_start_makes_another_plan(plan: start.Plan, part: str) -> None:
    """So no sandbox is taken that was started with another value of any of them."""
    value = getattr(plan, part)
    for field in dataclasses.fields(value):
        changed = dataclasses.replace(value, **{field.name: ("another",)})
        assert plan.changed(dataclasses.replace(plan, **{part: changed})), field.name


def test_each_field_of_a_plan_counts(plan: start.Plan) -> None:
    """The arguments of the first command alone do not: the gate decides on files."""
    for field in dataclasses.fields(plan):
        value: Any = {"more": 1} if field.name == "command" else ("another",)
        assert plan.changed(dataclasses.replace(plan, **{field.name: value}))
    names = (
        "options",
        "pickled",
        "held_back",
        "worker",
        "cwd",
        "coverage",
        "families",
        "program",
        "read_as",
    )
    for name in names:
        other = {**plan.command, name: ("another",)}
        assert plan.changed(dataclasses.replace(plan, command=other))
    assert not plan.changed(dataclasses.replace(plan, command={**plan.command, "args": ["x"]}))


def test_the_ini_file_the_root_and_each_option_of_a_session_travel(
    pytester: pytest.Pytester,
) -> None:
    """But those that are switched off inside, and pytest-cov's, which go by themselves."""
    pytester.makeini("[pytest]\n")
    config = pytester.parseconfig()
    before = configuration.travelling(config)
    for name, attribute in (("inifilename", "_inipath"), ("rootdir", "_rootpath")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config, attribute, Path("/another"))
            assert configuration.travelling(config) == {**before, name: "/another"}
    for name in before.keys() - configuration._SWITCHED_OFF.keys() - {"inifilename", "rootdir"}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(config.option, name, "another")
            assert configuration.travelling(config) == {**before, name: "another"}
