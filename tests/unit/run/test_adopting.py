"""A run that is handed over before it is planned, and used only if it is the planned one."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.oci.defaults import default_spec
from pytest_gvisor.oci.rootfs import empty
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import recorded as recorded_module
from pytest_gvisor.run.adopting import Adopting, recorded
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.recorded import Launched, Recorded
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.settings import Platform, Settings
from tests.fakes.fake import FINE, FakeRunsc
from tests.fakes.runs import Runs
from tests.faults.little import eventually

_BOUND = 60.0


def in_common(workspace: Workspace) -> Spec:
    """A specification of a root that all runs have in common, outside of their folders."""
    folder = Path(workspace.shared).parent / "common"
    if not folder.exists():
        folder.mkdir()
        empty().prepare(str(folder))
    return default_spec(["true"], root_path=str(folder / "rootfs"))


def request(runs: Runs, **options: Any) -> Request:
    """A request whose streams can be handed over ahead."""
    given = {"settings": Settings(), "make_spec": in_common, "shared": True, **options}
    return Request(runsc=runs.binary, platform=Platform.SYSTRAP, **given)


@contextmanager
def started(driven: Driven) -> Iterator[Driven]:
    """The run, whose workload has started, until its end."""
    supervisor = driven.start()
    try:
        deadline = time.monotonic() + _BOUND
        while supervisor.start is None and not supervisor.over:
            assert time.monotonic() < deadline
            supervisor.turn(1.0)
        assert supervisor.start is not None, (supervisor.status, supervisor.failure)
        yield driven
    finally:
        driven.end()


@pytest.fixture
def record(runs: Runs, fake: FakeRunsc) -> Recorded:
    """The record of a run of `request`."""
    fake.script(*FINE, ["hang"])
    with started(Driven(request(runs), runs.launcher, Record())) as driven:
        return recorded(driven)


def launched(runs: Runs, record: Recorded) -> Launched:
    """A run that is handed over as it was recorded, from its text."""
    keeper = runs.launcher.begun()
    return Launched(Recorded.from_json(record.to_json()), keeper, keeper.session)


def runs_of(session: str) -> list[str]:
    """The folders of runs."""
    return [name for name in os.listdir(session) if name.startswith("g")]


def test_an_equal_run_is_the_one_that_was_handed_over(runs: Runs, record: Recorded) -> None:
    """The folder is the same, and the only one. The workload has started."""
    ahead = launched(runs, record)
    with started(Adopting(request(runs), runs.launcher, Record(), ahead)) as driven:
        assert driven.workspace.id == ahead.id
        assert runs_of(runs.launcher.session().path) == [ahead.id]
    assert eventually(lambda: not runs.left()) is not None, runs.left()


def test_a_report_that_was_read_before_counts(runs: Runs, record: Recorded) -> None:
    """A sentry that is quick reports the start to the thread that greets it."""
    ahead = launched(runs, record)
    ahead.end()
    deadline = time.monotonic() + _BOUND
    while ahead.listener is not None and not ahead.listener.started:
        assert time.monotonic() < deadline
        ahead.listener.on_readable()
        time.sleep(0.01)
    with started(Adopting(request(runs), runs.launcher, Record(), ahead)) as driven:
        assert isinstance(driven, Adopting)
        assert driven.adopted


def test_runsc_is_answered_before_anybody_plans(runs: Runs, record: Recorded) -> None:
    """Its boot waits for that: a thread does it, which has ended when the run is taken over."""
    ahead = launched(runs, record)
    deadline = time.monotonic() + _BOUND
    while ahead.listener is not None and not ahead.listener.greeted:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ahead.close()


OTHERS: dict[str, dict[str, Any]] = {
    "specification": {"make_spec": lambda w: dataclasses.replace(in_common(w), hostname="other")},
    "command line": {"extra_flags": ("--strace=false",)},
    "streams": {"shared": False},
    "output": {"settings": Settings(max_output=4096)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_begins_by_itself(what: str, runs: Runs, record: Recorded) -> None:
    """The run that was handed over is removed, and nothing of it is used."""
    ahead = launched(runs, record)
    given = request(runs, **OTHERS[what])
    with started(Adopting(given, runs.launcher, Record(), ahead)) as driven:
        assert driven.workspace.id != ahead.id
        assert (ahead.control, ahead.listener, ahead.pipes) == (None, None, None)
        deadline = time.monotonic() + _BOUND
        while runs_of(runs.launcher.session().path) != [driven.workspace.id]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert eventually(lambda: not runs.left()) is not None, runs.left()


def test_a_run_of_another_file_begins_by_itself(runs: Runs, record: Recorded) -> None:
    """The file that was executed must be the one that was validated for the plan."""
    ahead = launched(runs, record)
    ahead.runsc = os.stat("/")
    with started(Adopting(request(runs), runs.launcher, Record(), ahead)) as driven:
        assert driven.workspace.id != ahead.id


def test_a_changed_executable_is_not_started(runs: Runs, record: Recorded) -> None:
    """Neither is one beside which another folder of programs lies by now."""
    beside = Path(record.runsc).parent / "gvisor-bin"
    beside.mkdir()
    with pytest.raises(ValueError, match="has changed"):
        launched(runs, record)
    beside.rmdir()
    with pytest.raises(ValueError, match="has changed"):  # the folder's own time tells
        launched(runs, record)
    assert eventually(lambda: not runs.left()) is not None, runs.left()


@pytest.mark.parametrize("name", ["folder", "root", "id", "cgroups"])
def test_an_order_for_anything_else_is_not_handed_over(
    name: str, runs: Runs, record: Recorded, tmp_path: Path
) -> None:
    """The keeper removes the folder of an order, so a record cannot name another one.

    The other one is this test's own: it would be lost if the check failed.
    """
    other = tmp_path / "other"
    (other / "file").mkdir(parents=True)
    value = [str(other)] if name == "cgroups" else str(other)
    bad = dataclasses.replace(record, order={**record.order, name: value})
    with pytest.raises(ValueError, match="no order for"):
        launched(runs, bad)
    assert eventually(lambda: not runs.left()) is not None, runs.left()
    assert (other / "file").is_dir()


@pytest.mark.parametrize(
    ("change", "root"),
    [
        ({"cgroups": ("/sys/fs/cgroup/x",)}, "/roots/a"),
        ({"netns": "/s/g1/netns"}, "/roots/a"),
        ({"binds": (("/usr", "/s/g1/rootfs/usr"),)}, "/roots/a"),
        ({}, "/s/g1/rootfs"),
    ],
)
def test_a_run_with_more_than_its_folder_is_not_recorded(change: dict[str, Any], root: str) -> None:
    """Cgroups are made for each run, and so is a root in its folder."""
    order = Order(id="g1", argv=(), term=(), env={}, folder="/s/g1", root="/s/g1/root")
    config = json.dumps({"root": {"path": root}})
    with pytest.raises(ValueError, match="more than its folder"):
        Recorded.of(
            order._replace(**change),
            config=config,
            events="{}",
            runsc="/runsc",
            max_output=1,
        )


def test_a_link_on_the_way_to_the_executable_is_not_recorded(tmp_path: Path) -> None:
    """Its state would not show that it leads elsewhere."""
    (tmp_path / "runsc").touch()
    (tmp_path / "gvisor-bin").symlink_to("/usr/bin")
    with pytest.raises(ValueError, match="by a link"):
        recorded_module.states(str(tmp_path / "runsc"))


def test_a_keeper_that_is_gone_is_a_typed_error(runs: Runs, record: Recorded) -> None:
    """Nothing is left of what was made for it."""
    keeper = runs.launcher.begun()
    keeper.kill()
    with pytest.raises(LaunchError):
        Launched(record, keeper, keeper.session)


def test_one_that_nobody_takes_ends_although_a_fork_holds_its_socket(
    runs: Runs, record: Recorded
) -> None:
    """A conftest.py may have started a process that goes on."""
    ahead = launched(runs, record)
    assert ahead.control is not None
    of_a_fork = os.dup(ahead.control.fileno())
    try:
        ahead.close()
        assert eventually(lambda: not runs_of(runs.launcher.session().path)) is not None
    finally:
        os.close(of_a_fork)


def test_ctrl_c_ends_the_one_that_was_handed_over(
    runs: Runs, record: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may press it while the run is planned."""
    ahead = launched(runs, record)
    adopting = Adopting(request(runs), runs.launcher, Record(), ahead)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adopting, "_launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adopting.start()
    assert ahead.control is None
    assert eventually(lambda: not runs_of(runs.launcher.session().path)) is not None
