"""The floors of the benchmarks: bare runsc, with a scripted one, and the rounds of their rows."""

from __future__ import annotations

import contextlib
import subprocess
from contextlib import AbstractContextManager

from benchmarks import floors, table
from benchmarks.results import Figure, Floored, Unavailable
from benchmarks.timing import Series


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
