"""Shards of one collection: those that are missing are named, and strangers are refused."""

import dataclasses
from typing import Any

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.report import html, markdown, merging, summary
from pytest_gvisor.report.merging import merge, missing
from pytest_gvisor.report.model import Report, Row, Run, State
from pytest_gvisor.report.parse import parse
from tests.unit.report.reports import cell, leg, report, row


def shard(number: int, *tests: str, platform: str = "systrap", of: int = 3, **more: Any) -> Report:
    """The report of one shard on one platform, in which each test passed."""
    fields = {"shard": number, "shards": of, "collection": "all", **more}
    rows = tuple(row(test, **{platform: State.PASSED}) for test in tests)
    return Report(legs=(leg(platform, **fields),), rows=rows)


def test_missing_shards_are_named_by_platform() -> None:
    """In each form of the report; whole divisions, and runs that were not divided, miss nothing."""
    made = merge([shard(1, "a"), shard(3, "c"), shard(2, "b", of=2, platform="kvm")])
    assert missing(made) == ["shard 2 of 3 on systrap", "shard 1 of 2 on kvm"]
    assert missing(merge([shard(1, "a"), shard(2, "b"), shard(3, "c")])) == []
    assert missing(merge(report(row("a", systrap=State.PASSED)) for _ in "12")) == []
    assert html.verdict(made) == ("not finished: shards are missing", State.XPASSED)
    told = "shard 2 of 3 on systrap, shard 1 of 2 on kvm"
    assert f"Missing: {told}." in html.render(made)
    assert f"- **missing**: {told}\n" in markdown.render(made)
    assert f"MISSING: {told}" in summary.figures(made)
    assert missing(parse(made.to_json().encode())) == missing(made)
    assert missing(merge([made, shard(2, "b")])) == ["shard 1 of 2 on kvm"]


def test_one_shard_names_itself_and_not_the_others() -> None:
    """Its own report is whole as far as it goes. A merge of it alone is not."""
    made = shard(2, "b", host="m2")
    assert missing(made) == []
    assert missing(merge([made])) == ["shard 1 of 3 on systrap", "shard 3 of 3 on systrap"]
    machines = merge([made, shard(2, "c", platform="kvm", host="m3")])
    assert len(missing(machines)) == 4
    assert "<dt>part</dt><dd>shard 2 of 3 (m2)</dd>" in html.render(made)
    assert "shard 2 of 3 (m2), 6.1.0 x86_64" in markdown.render(made)


def test_a_shard_without_tests_is_there_on_each_platform() -> None:
    """Such a shard has no column, as it had nothing to run."""
    empty = dataclasses.replace(shard(2), legs=(leg(shard=2, shards=3),))
    assert missing(merge([shard(1, "a"), shard(3, "c"), empty])) == []
    assert missing(merge([empty, empty])) == ["shard 1 of 3", "shard 3 of 3"]
    for of, collection in ((4, "all"), (3, "others")):
        stray = Report(legs=(leg(shard=2, shards=of, collection=collection),))
        assert missing(merge([shard(1, "a"), shard(3, "c"), stray])) == ["shard 2 of 3 on systrap"]


def test_a_report_tells_that_tests_were_not_collected() -> None:
    """Such tests have no rows, so the rows that passed are not all."""
    made = Report(legs=(leg("systrap", uncollected=2),), rows=shard(1, "a").rows)
    assert html.verdict(made) == ("not finished: not all tests were collected", State.XPASSED)
    assert "<dt>not collected</dt><dd>2</dd>" in html.render(made)
    assert "- **not collected**: 2 files or folders of tests\n" in markdown.render(made)
    assert "NOT COLLECTED: 2 files or folders of tests" in summary.figures(made)
    assert parse(made.to_json().encode()) == made


def test_of_many_missing_shards_twenty_are_named() -> None:
    """The list stays short."""
    found = missing(merge([shard(1, "a", of=10_000), shard(2, "b", of=10_000)]))
    assert len(found) == 21
    assert found[-1] == "and 9978 more"
    assert missing(merge([shard(21, "a", of=21)]))[-1] == "shard 20 of 21 on systrap"


def test_a_test_in_two_shards_is_refused() -> None:
    """The same shard on two machines is no such thing, and names both results."""
    failed = report(row("a", systrap=State.FAILED))
    for other in ([], [failed]):
        with pytest.raises(ReportError, match=r"shard 1 of 3 and shard 2 of 3 both have a\n"):
            merge([*other, shard(1, "a"), shard(2, "a")])
    hostile = shard(2, "a", host="\x1b[2J")
    with pytest.raises(ReportError) as caught:
        merge([shard(1, "a"), hostile])
    assert "\x1b" not in str(caught.value)
    twice = merge([shard(1, "a", host="m1"), shard(1, "a", host="m2")])
    assert len(twice.rows[0].cells[0].others) == 1
    assert len(merge([shard(1, "a"), shard(2, "a", platform="kvm")]).rows[0].cells) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"of": 4}, "number of shards: 4, 3"),
        ({"collection": "others"}, "collection of tests: others, all"),
        ({"commit": "b1"}, "commit: b1, a1"),
    ],
)
def test_shards_of_another_run_are_refused(changes: dict[str, Any], told: str) -> None:
    """A collection or commit that is not known is that of the others."""
    first = shard(1, "a", commit="a1")
    with pytest.raises(ReportError, match=told):
        merge([first, shard(2, "b", **{"commit": "a1", **changes})])
    assert missing(merge([first, shard(2, "b", collection=""), shard(3, "c")])) == []
    whole = report(row("z", systrap=State.PASSED))
    with pytest.raises(ReportError, match=told):
        merge([whole, shard(1, "a", commit="a1"), shard(2, "b", **{"commit": "a1", **changes})])
    other = shard(1, "b", platform="kvm", of=1, collection="others")
    assert missing(merge([first, other])) == ["shard 2 of 3 on systrap", "shard 3 of 3 on systrap"]


def test_a_refusal_is_short() -> None:
    """The names of tests come from files of others."""
    with pytest.raises(ReportError) as caught:
        merge([shard(1, "a" * 2000), shard(2, "a" * 2000)])
    assert len(str(caught.value).splitlines()[0]) == 1000


@pytest.mark.parametrize(("number", "of"), [(2, 1), (1, 0), (0, 1), (1, 10_001)])
def test_a_shard_that_cannot_be_is_refused(number: int, of: int) -> None:
    """A file says what it likes."""
    with pytest.raises(ReportError, match=r"x: legs\[0\]: shard is not from 1 to shards"):
        parse(shard(number, "a", of=of).to_json().encode(), where="x")


def test_a_merge_keeps_details_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures keep theirs up to twice the bound, and a note counts the cells that lost them."""
    monkeypatch.setattr(merging, "MAX_DETAILS", 100)
    good = [cell("kvm", runs=(Run(args="x" * 100),)) for _ in range(3)]
    bad = [cell("kvm", State.FAILED, output="y" * 50) for _ in range(3)]
    reports = [report(Row(test=f"t{n}", cells=(one,))) for n, one in enumerate([*good, *bad])]
    made = merge(reports)
    kept = [bool(row.cells[0].runs or row.cells[0].output) for row in made.rows]
    assert kept == [True, False, False, True, True, False]
    assert made.notes == ("details of 3 cells were left out of the merge, for its size",)
    assert [row.cells[0].leg for row in made.rows] == [*range(6)]


def test_more_tests_than_a_file_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could read the merged report."""
    monkeypatch.setattr(merging, "MAX_LIST", 3)
    assert len(merge([shard(1, "a", "b"), shard(2, "c")]).rows) == 3
    with pytest.raises(ReportError, match="more than 3 tests"):
        merge([shard(1, "a", "b"), shard(2, "c", "d")])
