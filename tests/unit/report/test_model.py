"""The model: its counts, and its way to a file and back."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.report import outputs
from pytest_gvisor.report import parse as parsing
from pytest_gvisor.report.merging import merge
from pytest_gvisor.report.model import (
    Column,
    Leg,
    Other,
    Report,
    Row,
    Starts,
    State,
    Used,
    failures_first,
    joined,
)
from pytest_gvisor.report.parse import parse
from tests.unit.report.reports import cell, hostile, leg, report, row


def test_every_field_comes_back_from_json() -> None:
    """A report survives JSON with texts of any kind, runs and other results."""
    merged = merge([hostile(), report(row("a", kvm=State.NOT_RUN)), hostile()])
    assert merged.rows[0].cells[0].others
    assert merged.rows[0].cells[0].runs
    assert parse(merged.to_json().encode()) == merged


def test_the_json_has_the_figures_too() -> None:
    """A reader without the model finds the schema, counts and start times."""
    text = report(row("a", systrap=State.PASSED, kvm=State.UNAVAILABLE), row("b", kvm=State.FAILED))
    content = json.loads(text.to_json())
    assert content["schema"] == 1
    assert content["counts"] == {
        "systrap": {"passed": 1}, "kvm": {"failed": 1, "unavailable": 1}
    }  # fmt: skip
    assert content["starts_ms"]["kvm"] == {"count": 4, "median": 45.25, "slowest": 50.0}


def test_times_are_added_up_and_peaks_are_not() -> None:
    """A column has the sum of processor times and the highest peaks, or none at all."""
    unmeasured: dict[str, Any] = {"cpu_time": 0.0, "peak_memory": 0, "peak_tasks": 0}
    rows = (
        Row(test="a", cells=(cell("kvm"), cell("ptrace", **unmeasured))),
        Row(test="b", cells=(cell("kvm", cpu_time=1.25, peak_memory=9 << 20, peak_tasks=7),)),
        Row(test="c", cells=(cell("systrap", **{**unmeasured, "cpu_time": 2.0}),)),
    )
    made = report(*rows)
    assert made.used("kvm") == Used(cpu_time="1.75 s", peak_memory="9.0 MiB", peak_tasks="30")
    assert made.used("systrap") == Used(cpu_time="2.00 s", peak_memory="-", peak_tasks="-")
    assert made.used("ptrace") is None


def test_a_row_differs_only_where_two_platforms_say_different_things() -> None:
    """An unavailable or missing result is not a difference."""
    passed, failed = State.PASSED, State.FAILED
    assert row("a", systrap=passed, ptrace=failed).differs
    assert row("a", systrap=passed, ptrace=State.SKIPPED).differs
    assert not row("a", systrap=passed, ptrace=passed).differs
    assert not row("a", systrap=passed, kvm=State.UNAVAILABLE, ptrace=State.NOT_RUN).differs
    assert not row("a", systrap=failed).differs


def test_a_missing_platform_and_an_expected_failure_are_no_difference() -> None:
    """A strict session fails tests of a missing platform. An expected failure is known."""
    lacking = cell("kvm", State.ERROR, lacking=True)
    assert not Row(test="a", cells=(cell("systrap"), lacking)).differs
    assert Row(test="a", cells=(cell("systrap"), cell("kvm", State.ERROR))).differs
    passed, failed, known = State.PASSED, State.FAILED, State.XFAILED
    assert not row("a", systrap=passed, ptrace=known).differs
    assert not row("a", systrap=known, ptrace=known).differs
    assert row("a", systrap=known, ptrace=failed).differs
    assert row("a", systrap=known, ptrace=State.XPASSED).differs


def test_a_row_differs_between_machines_as_between_platforms() -> None:
    """Two tries in one run of pytest are no machines, and a missing runsc is no difference."""

    def seen(leg: int, state: State) -> Row:
        other = Other(leg=leg, state=state)
        return Row(test="a", cells=(cell("systrap", State.FAILED, leg=0, others=(other,)),))

    assert seen(1, State.PASSED).differs
    assert not seen(0, State.PASSED).differs
    assert not seen(1, State.FAILED).differs
    assert not seen(1, State.UNAVAILABLE).differs


def test_a_cell_names_its_machine_if_its_column_has_several() -> None:
    """A column that one machine alone has run names none, nor does a report of one machine."""
    alpha = Report(
        legs=(leg(host="alpha"),), rows=(row("a", kvm=State.PASSED, ptrace=State.PASSED),)
    )
    beta = Report(legs=(leg(host="beta"),), rows=(row("b", ptrace=State.PASSED),))
    both = merge([alpha, beta])
    assert (alpha.hosts, both.hosts) == (("alpha",), ("alpha", "beta"))
    assert [[both.place(cell) for cell in row.cells] for row in both.rows] == [
        ["", " on alpha"], [" on beta"],
    ]  # fmt: skip
    assert [alpha.place(cell) for cell in alpha.rows[0].cells] == ["", ""]


def test_a_cause_names_its_machine_if_there_are_several() -> None:
    """One machine has no kvm, and another one has."""
    without = dataclasses.replace(leg(host="beta"), platforms=(Column(name="kvm", cause="gone"),))
    assert Report(legs=(without,)).cause("kvm") == "gone"
    assert Report(legs=(leg("kvm", host="alpha"), without)).cause("kvm") == "on beta: gone"


def test_start_times_are_those_of_one_platform() -> None:
    """Median and slowest of every sandbox; nothing where nothing was measured."""
    made = report(Row(test="a", cells=(cell("kvm", starts_ms=(9.0, 1.0, 2.0)), cell("ptrace"))),
                  Row(test="b", cells=(cell("systrap", starts_ms=()),)))  # fmt: skip
    assert made.starts("kvm") == Starts(count=3, median=2.0, slowest=9.0)
    assert made.starts("systrap") is None


def test_counts_read_well_and_rows_that_need_a_look_come_first() -> None:
    """Passed is first among the counts; rows that failed or differ come first."""
    counts = report(row("a", kvm=State.ERROR), row("b", kvm=State.NOT_RUN),
                    row("c", kvm=State.PASSED)).counts("kvm")  # fmt: skip
    assert joined(counts) == "1 passed, 1 error, 1 not run"
    rows = [
        row("good", kvm=State.PASSED), row("bad", kvm=State.FAILED),
        row("differs", kvm=State.PASSED, ptrace=State.SKIPPED),
    ]  # fmt: skip
    assert [one.test for _, one in failures_first(enumerate(rows))] == ["bad", "differs", "good"]


def test_merging_joins_columns_and_keeps_legs() -> None:
    """A report a platform becomes one matrix; each cell knows its report and its runsc."""
    one = report(row("a", systrap=State.PASSED), row("b", systrap=State.PASSED))
    two = Report(
        legs=(leg("kvm", version="20260101.0", reaped=2),),
        rows=(row("c", kvm=State.PASSED), row("a", kvm=State.FAILED)),
    )
    made = merge([one, two])
    assert made.platforms == ("systrap", "kvm")
    assert [entry.test for entry in made.rows] == ["a", "b", "c"]
    assert [(c.platform, c.leg) for c in made.rows[0].cells] == [("systrap", 0), ("kvm", 1)]
    assert [entry.runsc[0].version for entry in made.legs] == ["20240729.0", "20260101.0"]
    assert made.differing == (made.rows[0],)
    assert made.reaped == 2


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("worse", "better"), list(zip(State, list(State)[1:], strict=False)))
def test_of_two_legs_the_worse_cell_is_shown_and_the_other_named(
    worse: State, better: State, order: int
) -> None:
    """The order of the merge does not matter, and a pass never hides a failure."""
    legs = [report(row("a", kvm=state)) for state in (worse, better)][::order]
    (found,) = merge(legs).rows[0].cells
    bad = 0 if order == 1 else 1
    assert (found.state, found.leg) == (worse, bad)
    assert found.others == (Other(leg=1 - bad, state=better, starts_ms=(40.5, 50.0)),)


def test_of_two_equal_cells_the_first_is_shown() -> None:
    """The other one is named in it."""
    (found,) = merge(report(row("a", kvm=State.PASSED)) for _ in "12").rows[0].cells
    assert (found.leg, [other.leg for other in found.others]) == (0, [1])


def test_merging_three_or_a_merged_one_is_the_same() -> None:
    """Merging may be done in steps."""

    def legs() -> list[Report]:
        states = (State.PASSED, State.FAILED, State.SKIPPED)
        return [report(row("a", kvm=state)) for state in states]

    first, *rest = legs()
    assert merge(legs()) == merge([merge(legs()[:2]), legs()[2]]) == merge([first, merge(rest)])


def test_merging_loses_no_start_and_no_note() -> None:
    """Start times of hidden cells count too, and equal notes of two reports are kept twice."""

    def legs() -> list[Report]:
        slow, quick = cell("kvm", State.FAILED, starts_ms=(9.0,)), cell("kvm", starts_ms=(1.0, 2.0))
        return [report(Row(test="a", cells=(one,)), notes=("left out",)) for one in (slow, quick)]

    for merged in (merge(legs()), merge(legs()[::-1]), parse(merge(legs()).to_json().encode())):
        assert merged.starts("kvm") == Starts(count=3, median=2.0, slowest=9.0)
        assert merged.notes == ("left out", "left out")
    twice = merge([merge(legs()), legs()[1]])
    assert twice.starts("kvm") == Starts(count=5, median=2.0, slowest=9.0)


def _without(content: dict[str, Any], *path: Any) -> None:
    *way, last = path
    for part in way:
        content = content[part]
    del content[last]


def _set(value: object, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *way, last = path
        for part in way:
            content = content[part]
        content[last] = value

    return change


CELL = ("tests", 0, "cells", 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set(2, "schema"), "schema 2"),
        (_set("1", "schema"), "schema"),
        (_set(True, "schema"), "schema"),
        (_set({}, "tests"), "tests is not a list"),
        (_set([3], "tests"), "tests[0]: not an object"),
        (_set(3, "tests", 0, "test"), "tests[0]: test is not a text"),
        (_set("green", *CELL, "state"), "cells[0]: state is none of"),
        (_set("a b", *CELL, "platform"), "platform is not the name"),
        (_set("<b>", *CELL, "platform"), "platform is not the name"),
        (_set("ptrace", *CELL, "platform"), "has a platform twice"),
        (_set(7, *CELL, "leg"), "tests[0]: a leg is not below 1"),
        (_set(-1, *CELL, "leg"), "leg is not a whole number"),
        (_set(-1.0, *CELL, "duration"), "duration is not a number"),
        (_set(1e300, *CELL, "duration"), "duration is not a number"),
        (_set(10**400, *CELL, "duration"), "duration is not a number"),
        (_set(["x"], *CELL, "starts_ms"), "starts_ms[0] is not a number"),
        (_set("x" * (parsing.MAX_TEXT + 1), *CELL, "output"), "output is not a text"),
        (_set([[]], *CELL, "runs"), "runs[0]: not an object"),
        (_set([{"leg": 0, "state": "?"}], *CELL, "others"), "others[0]: state"),
        (_set([{"leg": 0, "state": "passed", "starts_ms": [-1]}], *CELL, "others"), "starts_ms"),
        (_set([{"leg": 0, "state": "failed"}], *CELL, "others"), "better state than one of its"),
        (_set([{"name": f"p{n}"} for n in range(255)], "legs", 0, "platforms"), "more than 256"),
        (_set([{"name": "", "cause": ""}], "legs", 0, "platforms"), "platforms[0]: name"),
        (_set([1], "notes"), "notes[0] is not a text"),
        (lambda content: content["tests"].append(content["tests"][0]), "has a test twice"),
        (lambda content: _without(content, *CELL, "state"), "state is none of"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_a_rule_is_refused_with_the_place(
    change: Callable[[dict[str, Any]], None], told: str
) -> None:
    """A file of an unknown shape never becomes a model."""
    content = json.loads(report(row("a", systrap=State.PASSED, ptrace=State.PASSED)).to_json())
    change(content)
    with pytest.raises(ReportError) as caught:
        parse(json.dumps(content).encode(), where="x.json")
    assert "x.json" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "\xff", '{"schema": NaN}', "[" * 100_000, '"\\ud800"',
        '{"schema": 1, "schema": 1}',
    ],
)  # fmt: skip
def test_what_is_no_json_of_ours_is_refused(text: str) -> None:
    """Invalid JSON is a report error, without the parser's traceback."""
    with pytest.raises(ReportError, match=r"^x: "):
        parse(text.encode("latin-1"), where="x")


def test_a_huge_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on bytes, before any is parsed."""
    monkeypatch.setattr("pytest_gvisor.report.model.MAX_BYTES", 10)
    with pytest.raises(ReportError, match="larger than 10 bytes"):
        parse(b" " * 11)


def test_a_file_of_too_many_values_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes many times its bytes as an object."""
    monkeypatch.setattr(parsing, "MAX_VALUES", 100)
    with pytest.raises(ReportError, match="x: more than 100 values"):
        parse(b'{"schema": 1, "unknown": [' + b"[]," * 100 + b"[]]}", where="x")


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ((0, "cells", 0, "state"), "tests[0]: cells[0]: state is none of"),
        ((149, "cells", 1, "starts_ms"), "tests[149]: cells[1]: starts_ms is not a list"),
        ((299, "test"), "tests[299]: test is not a text"),
    ],
)
def test_of_many_tests_the_first_wrong_one_is_named(place: Sequence[Any], told: str) -> None:
    """The values of a field are checked for all tests together."""
    rows = [row(str(n), systrap=State.PASSED, kvm=State.FAILED) for n in range(300)]
    content = json.loads(report(*rows).to_json())
    _set(7, "tests", *place)(content)
    _set(7, "tests", 299, "cells", 1, "state")(content)
    with pytest.raises(ReportError, match=re.escape(told)):
        parse(json.dumps(content).encode())


def test_what_is_unknown_is_left_out_and_what_is_absent_has_its_default() -> None:
    """Later versions may write more; each test has fields of its own."""
    made = report(row("a", kvm=State.PASSED), Row(test="b", cells=(cell("kvm", message="m"),)))
    content = json.loads(made.to_json())
    content["tests"][1]["cells"][0]["later"] = content["later"] = 1
    assert parse(json.dumps(content).encode()) == made
    assert parse(b'{"schema": 1, "legs": [{}, {}]}').legs == (Leg(), Leg())


def test_no_file_is_written_that_is_too_large_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is that of the reader, and the file that was there stays."""
    made = report(row("a", kvm=State.PASSED))
    path = tmp_path / "r.json"
    assert outputs.write(made, str(path)) == ""
    monkeypatch.setattr(outputs, "MAX_BYTES", path.stat().st_size - 1)
    path.write_text("before")
    assert outputs.write(made, str(path)).startswith("more than ")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "before"
