"""When a kept sandbox is used, dropped or saved, and what is started in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.errors import LaunchError, SnapshotError
from pytest_gvisor.inside import kept, kept_state
from pytest_gvisor.inside.kept import Kept
from pytest_gvisor.inside.link import Died
from pytest_gvisor.inside.start import Plan, Started
from pytest_gvisor.run import saved
from pytest_gvisor.run.saved_store import SavedStore
from pytest_gvisor.runsc import saving


class Sandbox:
    """Takes the place of a link: `faults` are raised by the calls of their names."""

    def __init__(self, *, copy: bool = False, **faults: Exception) -> None:
        self.copy = copy
        self.did: list[str] = []
        self._faults = faults
        self.loaded: object = []
        self.reads = False

    def _do(self, name: str) -> None:
        self.did.append(name)
        if name in self._faults:
            raise self._faults[name]

    def rest(self, _deadline: float) -> list[str]:
        """Name the folders that are in use."""
        self._do("rest")
        return []

    def save(self, _deadline: float, meanwhile: Callable[[], object]) -> str:
        """Write no image."""
        self._do("save")
        meanwhile()
        return "/nonexistent/image"

    def wait(self, _deadline: float) -> None:
        """Note that somebody waits."""
        self._do("wait")

    def close(self) -> None:
        """Note the end."""
        self._do("close")

    def told(self) -> str:
        """Describe it."""
        return "told"


@dataclasses.dataclass
class Run:
    """A run with its plugin, and the sandboxes that it has started anew."""

    kept: Kept
    plan: Plan
    again: list[Sandbox]

    def proceed(self, sandbox: Sandbox) -> Sandbox:
        """Give a sandbox its second command."""

        def start() -> Started:
            self.again.append(Sandbox())
            return started(self.again[-1], self.plan)

        link = self.kept.proceed(
            started(sandbox, self.plan), lambda link: cast("Any", link)._do("go on"), start
        )
        return cast("Any", link)  # type: ignore[no-any-return]


def started(sandbox: Sandbox, plan: Plan) -> Started:
    """A sandbox that was started by a plan."""
    return Started(link=cast("Any", sandbox), plan=plan, state={})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose plan has no saved sandbox, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept_state, "of", lambda *_: {"files": {}, "names": {}})
    monkeypatch.setattr(saving, "save_flags", lambda _: ())
    plan = cast("Any", SimpleNamespace(shown=SimpleNamespace(start="/project"), runsc=None))
    made = Kept(cast("Any", None))
    made._missing = kept._Missing(plan=plan, keys=("a" * 64, "b" * 64), since=0)
    return Run(made, plan, [])


def test_a_copy_that_speaks_is_used(run: Run) -> None:
    """Nothing is saved then."""
    sandbox = Sandbox(copy=True)
    assert run.proceed(sandbox) is sandbox
    assert sandbox.did == ["go on", "wait"]


@pytest.mark.parametrize("name", ["go on", "wait"])
@pytest.mark.parametrize("error", [Died("it is gone"), LaunchError("run", "no")])
def test_a_copy_that_does_not_go_on_is_replaced(name: str, error: Exception, run: Run) -> None:
    """By a sandbox that starts in the usual way; the reason is kept for `-v`."""
    sandbox = Sandbox(copy=True, **{name: error})
    assert run.proceed(sandbox) is run.again[0]
    assert sandbox.did[-1] == "close"
    assert run.again[0].did == ["go on"]


def test_a_first_sandbox_is_saved_before_it_goes_on(run: Run) -> None:
    """Once: one that is started later is none of every session's first."""
    sandbox, second = Sandbox(), Sandbox()
    assert run.proceed(sandbox) is sandbox
    assert sandbox.did == ["rest", "save", "go on"]
    assert run.proceed(second) is second
    assert second.did == ["go on"]


def test_one_that_is_lost_by_the_save_is_replaced(run: Run) -> None:
    """Its tests run in another one, and `-v` has the reason."""
    sandbox = Sandbox(save=SnapshotError("no room"))
    assert run.proceed(sandbox) is run.again[0]
    assert sandbox.did == ["rest", "save", "close"]
    assert run.again[0].did == ["go on"]
    assert "no room" in run.kept._said[0]


def test_one_that_does_not_rest_goes_on_unsaved(run: Run) -> None:
    """Whoever takes it comes upon the problem, and reports it."""
    sandbox = Sandbox(rest=Died("it is gone"))
    assert run.proceed(sandbox) is sandbox
    assert sandbox.did == ["rest", "go on"]


def test_a_list_of_files_that_is_none_is_not_believed(run: Run) -> None:
    """A pytest inside that names no files is not saved."""
    sandbox = Sandbox()
    sandbox.loaded = {"a": 1}
    assert run.proceed(sandbox) is sandbox
    assert "save" not in sandbox.did


@pytest.mark.parametrize(("reads", "key"), [(False, "a" * 64), (True, "b" * 64)])
def test_one_that_has_read_its_command_line_is_kept_for_that_alone(
    reads: bool, key: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is kept for each choice of tests."""
    keys: list[str] = []
    monkeypatch.setattr(run.kept, "_keep", lambda new: keys.append(new.key))
    sandbox = Sandbox()
    sandbox.reads = reads
    run.proceed(sandbox)
    assert keys == [key]


def test_it_is_copied_to_the_cache_while_it_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first test does not wait for the copy."""
    sandbox = Sandbox()
    monkeypatch.setattr(run.kept, "_keep", lambda _new: sandbox.did.append("keep"))
    run.proceed(sandbox)
    assert sandbox.did == ["rest", "save", "go on", "keep"]


def test_a_file_that_is_new_is_no_reason_to_lose_the_sandbox(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its image is removed, and it goes on."""
    monkeypatch.setattr(kept_state, "since", lambda *_: "/project/plugin.py")
    sandbox = Sandbox()
    assert run.proceed(sandbox) is sandbox
    assert sandbox.did == ["rest", "save", "go on"]
    assert run.kept._said == [f"{kept._NONE}: /project/plugin.py is new"]


def test_a_runsc_that_cannot_save_is_asked_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox goes on at once."""

    def refuse(_runsc: object) -> tuple[str, ...]:
        raise SnapshotError("too old")

    monkeypatch.setattr(saving, "save_flags", refuse)
    sandbox = Sandbox()
    assert run.proceed(sandbox) is sandbox
    assert sandbox.did == ["go on"]
    assert "too old" in run.kept._said[0]


@pytest.mark.parametrize(("size", "said"), [(127, []), (300, ["its memory takes 300 MiB"])])
def test_one_that_is_too_large_is_not_kept(
    size: int, said: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `-v` the user sees it: only a project with fewer plugins would have one."""
    kept_ones: list[str] = []
    monkeypatch.setattr(saved, "size_of", lambda _: size << 20)
    monkeypatch.setattr(SavedStore, "keep", lambda _, key, *_rest: kept_ones.append(key))
    run.proceed(Sandbox())
    assert run.kept._said == [f"{kept._NONE}: {text}, more than 128 MiB" for text in said]
    assert kept_ones == ([] if said else ["a" * 64])
