"""The floors of the benchmarks: bare runsc, with a scripted one, and the rounds of their rows."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks import floors, table
from benchmarks.bare import BareRunsc, Executable
from benchmarks.results import Figure, Floored, Unavailable
from benchmarks.timing import Series

SCRIPT = """\
#!/bin/sh
root=$2
shift 2
command=$1
for name; do :; done
echo "$command $name" >>"$root/calls"
case $command in
run) printf .; cat ;;
restore) read -r byte; test "$byte" = x ;;
checkpoint) test -z "$FAILS" ;;
esac
"""


@pytest.fixture
def bare(tmp_path: Path) -> BareRunsc:
    script = tmp_path / "runsc"
    script.write_text(SCRIPT)
    script.chmod(0o700)
    return BareRunsc(Executable(path=str(script)), [], str(tmp_path / "folder"))


def calls(tmp_path: Path) -> list[str]:
    """The commands that the scripted runsc was started with, and their sandboxes."""
    return (tmp_path / "folder" / "state" / "calls").read_text().splitlines()


def test_a_saved_workload_goes_on_with_a_byte(bare: BareRunsc, tmp_path: Path) -> None:
    """The save comes after the first byte of the workload, and its sandbox has ended then."""
    bundle = bare.bundle("bundle", {})
    bare.restore(bundle, bare.save(bundle, ()))
    assert calls(tmp_path) == ["run bench-1", "checkpoint bench-1", "restore bench-2"]


def test_a_running_workload_answers_until_it_is_left(bare: BareRunsc, tmp_path: Path) -> None:
    """The workload ends with its standard input, so nobody has to kill it."""
    with bare.running(bare.bundle("bundle", {})) as (workload, _):
        workload.heard()
        workload.ask()
        workload.ask()
    assert calls(tmp_path) == ["run bench-1"]


def test_a_sandbox_that_fails_is_deleted(
    bare: BareRunsc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state would keep a mount of newer releases."""
    monkeypatch.setattr("benchmarks.bare.RESUME", b"other\n")
    with pytest.raises(subprocess.CalledProcessError):
        bare.restore(bare.bundle("bundle", {}), "image")
    assert calls(tmp_path) == ["restore bench-1", "delete bench-1"]


def test_a_workload_is_left_if_it_cannot_be_saved(
    bare: BareRunsc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the checkpoint comes out, and the sandbox has ended."""
    monkeypatch.setenv("FAILS", "1")
    with pytest.raises(subprocess.CalledProcessError):
        bare.save(bare.bundle("bundle", {}), ())
    assert calls(tmp_path) == ["run bench-1", "checkpoint bench-1"]


def test_the_filter_belongs_to_the_children_of_one_thread() -> None:
    """Whatever this process starts itself has neither the filter nor no-new-privs from it."""

    def status() -> bytes:
        command = ["grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    before, seen = status(), []
    with floors._filtered() as filtered:
        filtered(lambda: seen.append(status()))
    assert seen == [b"NoNewPrivs:\t1\nSeccomp:\t2\n"]
    assert status() == before


def test_peers_side_by_side_begin_before_any_ends() -> None:
    """Each waits for the other here, which one after the other could not; errors come out."""
    met = threading.Barrier(2, timeout=60)
    floors.together(met.wait, met.wait)()

    def fail() -> None:
        raise Unavailable("none")

    with pytest.raises(Unavailable):
        floors.together(fail, lambda: None)()


def test_a_missing_floor_leaves_the_row_as_it_is() -> None:
    """The floor is named with the reason, and counts as a failure unless its peer is absent."""

    def absent() -> AbstractContextManager[floors.Peer]:
        raise Unavailable("no checkpoint here")

    def broken() -> AbstractContextManager[floors.Peer]:
        raise RuntimeError("says nothing")

    contenders: dict[str, floors.Peer] = {}
    wanted = floors.Floors(wanted=True)
    with contextlib.ExitStack() as stack:
        wanted.join(stack, "isolation", contenders, absent)
        wanted.join(stack, "exec", contenders, broken)
    assert not contenders
    assert list(table.verdicts([], wanted.missing)) == [
        "floor of isolation: not measured: no checkpoint here",
        "floor of exec: FAILED: says nothing",
    ]


def test_no_floor_is_made_where_none_is_wanted() -> None:
    """A developer of one row waits for that row alone."""
    contenders: dict[str, floors.Peer] = {}
    with contextlib.ExitStack() as stack:
        floors.Floors().join(stack, "exec", contenders, lambda: contextlib.nullcontext(print))
    assert not contenders


def floored(floor: tuple[float, ...] | None) -> Floored:
    return Floored(
        row="inside", what="one test", against="`--no-gvisor`", figure=Figure.DIFFERENCE,
        target=0.350, ours=Series((1.0, 1.0)), peer=Series((0.2, 0.2)), floor_by="bare",
        floor=None if floor is None else Series(floor),
    )  # fmt: skip


def test_a_floor_is_shown_in_the_terms_of_its_goal() -> None:
    """The reader sees how far the goal is from the floor, and ours from both."""
    low, high, none = floored((0.5, 0.5)), floored((0.8, 0.8)), floored(None)
    rows = table.of_floors([low, none, high]).rows
    assert [row[2:5] for row in rows] == [
        ("+350.0 ms on `--no-gvisor`", "+300.0 ms", "+800.0 ms"),
        ("+350.0 ms on `--no-gvisor`", "+600.0 ms, above the goal", "+800.0 ms"),
    ]
    assert rows[0][-2:] == ("2.00 (2.00 to 2.00)", "bare")


def test_a_goal_is_out_of_reach_only_beyond_doubt() -> None:
    """A floor of one round, or whose interval reaches down to the goal, proves nothing."""
    assert floored((0.8, 0.8)).is_out_of_reach
    assert not floored((0.3, 0.8)).is_out_of_reach
    assert not floored((0.8,)).is_out_of_reach
    assert not floored(None).is_out_of_reach
