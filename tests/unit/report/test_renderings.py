"""The model as Markdown, in GitHub's summary and a terminal, and as HTML without a browser."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.report import html, markdown, outputs, summary
from pytest_gvisor.report.details import counterpart, details
from pytest_gvisor.report.model import Report, Row, State
from tests.mounts import masked
from tests.unit.report.reports import cell, hostile, report, row

WIDE = report(*(row(f"t.py::test_{n}", systrap=State.PASSED, kvm=State.PASSED) for n in range(500)),
              row("t.py::test_bad", systrap=State.PASSED, kvm=State.FAILED))  # fmt: skip


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_markdown_has_a_row_a_test_and_a_word_a_cell() -> None:
    """Rows are in the order of the tests; platforms are columns, and the figures come before."""
    text = markdown.render(WIDE)
    table = lines(text, "|")
    assert table[:2] == ["| test | systrap | kvm |", "|---|---|---|"]
    assert table[2] == "| `t.py::test_0` | ✅ passed | ✅ passed |"
    assert table[-1] == "| `t.py::test_bad` | ✅ passed | ❌ failed |"
    assert (
        "- **kvm**: 500 passed, 1 failed; sandboxes start in 45 ms (median of 1002), slowest 50 ms"
        "; processor time 250.50 s, peak memory 3.0 MiB, peak of tasks 30\n" in text
    )


def test_hostile_text_stays_inside_its_code_span() -> None:
    """Hostile text begins no block, ends no cell and ends no code span."""
    text = markdown.render(hostile())
    (line,) = (line for line in lines(text, "|") if "hacked" in line)
    assert line.count("|") == 4
    assert "\n\n\n" not in text
    for line in text.splitlines():
        outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        assert "<" not in outside
        assert "hacked" not in outside
    assert markdown.code("a\n# b|c") == "`a # b\\x7cc`"
    assert markdown.code("`x``y") == "``` `x``y ```"
    assert markdown.code("") == "` `"


@pytest.mark.parametrize("budget", [2000, 5000, 40_000])
def test_a_budget_cuts_rows_from_the_end_and_says_so(budget: int) -> None:
    """Rows that differ come first, and are cut last."""
    text = markdown.render(WIDE, budget)
    assert len(text.encode()) <= budget
    table = lines(text, "| `")
    assert "test_bad" in table[0]
    if len(table) < 501:
        assert f"{501 - len(table)} of 501 tests are left out" in text


def test_the_summary_of_a_step_is_appended_to_and_stays_in_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier content stays, a second session's table follows, and the total has a limit."""
    path = tmp_path / "summary"
    path.write_text("others\n")
    assert outputs.append_summary(WIDE, {"GITHUB_STEP_SUMMARY": str(path)}) == ""
    assert path.read_text().startswith("others\n\n## gVisor\n")
    monkeypatch.setattr(outputs, "BUDGET", 60_000)
    for _ in range(9):
        outputs.append_summary(WIDE, {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text().count("## gVisor") >= 2
    assert path.stat().st_size <= 60_000
    assert "no room" in outputs.append_summary(WIDE, {"GITHUB_STEP_SUMMARY": str(path)})


def test_a_summary_that_cannot_be_written_is_told_and_no_error(tmp_path: Path) -> None:
    """A folder in the place of the file; and nothing without the variable."""
    assert outputs.append_summary(WIDE, {"GITHUB_STEP_SUMMARY": str(tmp_path)}) != ""
    os.mkfifo(tmp_path / "unread")
    assert outputs.append_summary(WIDE, {"GITHUB_STEP_SUMMARY": str(tmp_path / "unread")}) != ""
    assert outputs.append_summary(WIDE, {}) == ""
    assert outputs.BUDGET == 900 * 1024


class Lines:
    """Stands for pytest's terminal reporter."""

    def __init__(self, verbosity: int = 0) -> None:
        self.verbosity = verbosity
        self.lines: list[str] = []

    def section(self, title: str, sep: str = "=", **kw: bool) -> None:
        self.lines.append(f"{sep} {title}")

    def write_line(self, line: str | bytes, **markup: bool) -> None:
        self.lines.append(str(line))


def shown(what: Report, verbosity: int = 0, **more: list[str]) -> list[str]:
    """The lines of a session's end."""
    to = Lines(verbosity)
    summary.show(to, what, more.get("written", []), more.get("problems", []))
    return to.lines


def test_only_rows_that_differ_are_shown_with_their_command() -> None:
    """The rows that differ come before counts, start times and leaks."""
    found = shown(WIDE)
    assert found[0] == "= gVisor: platforms differ"
    assert found[1] == "t.py::test_bad: systrap passed, kvm FAILED"
    assert found[2] == "  again: python -m pytest x"
    assert found[3].startswith("systrap: 501 passed, sandboxes start in 45 ms (median of 1002), ")
    assert found[4].startswith("kvm: 500 passed, 1 failed, ")
    assert found[5:] == []


def test_one_line_where_nothing_differs_and_none_without_a_test() -> None:
    """A quiet session prints only differences and failures."""
    same = report(row("a", systrap=State.PASSED, kvm=State.UNAVAILABLE))
    (line,) = shown(same)
    assert line.startswith("gVisor: systrap: 1 passed, ")
    assert "kvm: 1 unavailable" in line
    assert shown(report()) == []
    assert shown(same, -1, written=["x.html"]) == []
    assert len(shown(WIDE, -1)) > 1
    assert shown(report(), -1, problems=["bad"]) == ["gVisor: bad"]


def test_many_differences_are_cut_and_hostile_ones_escaped() -> None:
    """Control characters are escaped, no line looks like pytest's own, and the list is cut."""
    rows = [row(f"t{n}", kvm=State.PASSED, ptrace=State.FAILED) for n in range(60)]
    found = shown(report(*rows))
    assert "... and 10 more tests that differ" in found
    text = "\n".join(shown(hostile()))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800]", text)
    bad = row("1 passed in 0.1s\n= 3 failed in 0.2s", kvm=State.PASSED, ptrace=State.FAILED)
    assert not [line for line in shown(report(bad)) if re.match(r"=* ?\d+ (passed|failed)", line)]


class Elements(HTMLParser):
    """The elements of a document, and its text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_document_has_no_element_or_handler_from_a_text() -> None:
    """Hostile texts add no script, no attribute that runs, and no address to anything."""
    text = html.render(hostile())
    harmless = html.render(report(row("a", systrap=State.FAILED, ptrace=State.PASSED)))
    found, plain = Elements(text), Elements(harmless)
    assert set(found.names) == set(plain.names) | {"p"}
    assert found.names.count("script") == 2
    names = {name for name, _value in found.attributes}
    assert not [name for name in names if name.startswith("on")]
    assert {"src", "href", "action", "style", "srcdoc"}.isdisjoint(names)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\u2028\ud800]", text)
    assert "49" not in re.sub(r"\d\.\d|sha256-\S+|#\w+", "", found.text).split()


def test_the_document_has_columns_for_use_where_some_was_measured() -> None:
    """A platform without a figure has dashes there; a report without any has no such columns."""
    unmeasured: dict[str, Any] = {"cpu_time": 0.0, "peak_memory": 0, "peak_tasks": 0}
    bare = Row(test="a", cells=(cell("kvm", **unmeasured),))
    assert "processor time" not in html.render(report(bare)).partition("<main>")[2]
    both = Row(test="b", cells=(cell("systrap"),))
    text = html.render(report(bare, both))
    for name in ("processor time", "peak memory", "peak of tasks"):
        assert text.count(f'<th scope="col">{name}</th>') == 1
    for figure in ("0.50 s", "3.0 MiB", "30"):
        assert f'<td class="n">{figure}</td>' in text
    made = report(bare, both)
    found = json.loads(details(made, [*enumerate(made.rows)]))
    facts = dict(found["1"]["systrap"]["facts"])
    assert facts["peak memory"] == "3.0 MiB"
    assert "peak memory" not in dict(found["0"]["kvm"]["facts"])


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        ({"systrap": State.PASSED, "kvm": State.UNAVAILABLE}, "passed: none of 2 tests failed"),
        ({"systrap": State.ERROR, "kvm": State.PASSED}, "failed: 1 of 2 tests"),
        ({"systrap": State.PASSED, "kvm": State.NOT_RUN}, "not finished: 1 of 2 tests did not run"),
        ({"systrap": State.PASSED, "kvm": State.SKIPPED},
         "none failed, but platforms differ in 1 test"),
        ({"kvm": State.UNAVAILABLE}, "none failed, but 1 of 2 tests could not run"),
    ],
)  # fmt: skip
def test_the_verdict_names_what_went_worst(states: dict[str, State], sentence: str) -> None:
    """A failure outranks a test that did not run, and that outranks a difference."""
    made = report(row("a", systrap=State.PASSED), row("b", **states))
    assert html.verdict(made)[0] == sentence
    assert f">{sentence}</h1>" in html.render(made)
    assert html.verdict(report(row("a", kvm=State.UNAVAILABLE)))[0] == "nothing ran: 1 test"


def test_failures_are_first_and_empty_parts_are_not_there() -> None:
    """The project, the date and the release are at the top; what has no content has no heading."""
    bad = row("t.py::test_a_b", systrap=State.FAILED)
    text = html.render(report(row("t.py::test_good", systrap=State.PASSED), bad))
    assert text.index("test_<wbr>a_<wbr>b") < text.index("test_<wbr>good")
    top = text.partition("<main>")[0]
    for fact in ("app", "2026-01-02T03:04:05+00:00", "20240729.0"):
        assert f"<dd>{fact}</dd>" in top
    assert "leaks" not in text.replace("Leaks", "leaks")
    assert "cannot be used because" not in text
    nothing = html.render(Report())
    assert "<ol" not in nothing
    assert "sandbox starts" not in nothing.partition("<script")[0]


def test_a_time_is_a_ratio_to_the_hosts_where_both_passed() -> None:
    """Without a passed test on the host, a cell has its seconds; a report of those has no order."""
    native, slow = cell("native", duration=0.2), cell("kvm", duration=0.9)
    made = Row(test="a", cells=(native, slow))
    assert made.ratio(slow) == pytest.approx(4.5)
    assert made.ratio(native) is None
    text = html.render(report(made))
    assert '<small class="time">×4.5</small>' in text  # noqa: RUF001
    assert '<small class="time">0.20 s</small>' in text
    assert 'value="ratio"' in text
    for other in (cell("native", State.FAILED), cell("native", duration=0.0), cell("systrap")):
        assert Row(test="a", cells=(other, slow)).ratio(slow) is None
    assert 'value="ratio"' not in html.render(report(row("a", kvm=State.PASSED)))


def test_a_cell_is_compared_with_one_of_another_verdict() -> None:
    """The host comes first, then a pass; a cell that says nothing about the test is left out."""
    native, passed = cell("native"), cell("systrap")
    failed, gone = cell("ptrace", State.FAILED), cell("kvm", State.UNAVAILABLE)
    both = Row(test="a", cells=(gone, passed, failed, native))
    found = [counterpart(both, one.state) for one in both.cells]
    assert found == ["", "ptrace", "native", "ptrace"]
    assert counterpart(Row(test="a", cells=(gone, passed, failed)), failed.state) == "systrap"
    assert counterpart(Row(test="a", cells=(passed, native)), passed.state) == ""


def test_a_row_is_compared_once_for_each_of_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison looks at each platform, and a row may have hundreds of them."""
    seen = []

    def counted(row: Row, state: State) -> str:
        seen.append(state)
        return counterpart(row, state)

    monkeypatch.setattr("pytest_gvisor.report.details.counterpart", counted)
    states = {f"p{n}": (State.PASSED, State.FAILED)[n % 2] for n in range(100)}
    found = json.loads(details(report(), [(0, row("a", **states))]))
    assert sorted(seen) == [State.FAILED, State.PASSED]
    assert [found["0"][name]["against"] for name in ("p98", "p99")] == ["p1", "p0"]


def test_the_policy_names_the_two_texts_that_are_there_and_nothing_else() -> None:
    """The policy allows no source, and inline texts only by their hash."""
    text = html.render(report())
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policy == html.policy(script, style)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_thousands_of_starts_are_drawn_as_hundreds() -> None:
    """The chart stays small; its figures are of all."""
    many = Row(test="a", cells=(cell("kvm", starts_ms=tuple(map(float, range(1, 5001)))),))
    made = html.chart(report(many))
    assert made is not None
    assert 100 < len(made["lanes"][0]["dots"]) <= html.MAX_DOTS
    assert html.chart(report(Row(test="a", cells=(cell("kvm", starts_ms=()),)))) is None


@pytest.mark.parametrize("suffix", ["json", "html", "md"])
def test_a_file_is_written_whole_and_as_the_umask_says(tmp_path: Path, suffix: str) -> None:
    """Over an older one, and without a trace of the way there."""
    path = tmp_path / f"r.{suffix}"
    path.write_text("old")
    with masked(0o027):
        assert outputs.write(hostile(), str(path)) == ""
    assert "hacked" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [path.name]


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed write leaves no other file either."""
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pytest_gvisor.programs.linux.os.rename", full)
    assert outputs.write(report(), str(path)) == "No space left on device"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


@pytest.mark.fault("G6")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (MemoryError(), "Cannot allocate memory"),
    ],
)
@pytest.mark.parametrize("suffix", ["html", "md"])
def test_a_report_that_cannot_be_rendered_is_a_problem_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, error: Exception, told: str
) -> None:
    """Jinja2 is loaded at the end of a session, when tests may have left no descriptor.

    An error there would be pytest's own, which shows no failure of any test.
    """
    path = tmp_path / f"r.{suffix}"
    path.write_text("old")
    monkeypatch.setattr(outputs, "rendered", Mock(side_effect=error))
    assert outputs.write(report(), str(path)) == told
    assert outputs.append_summary(report(), {outputs.VARIABLE: str(path)}) == told
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_report_is_closed_to_whom_the_one_before_was_closed(tmp_path: Path) -> None:
    """A report of mode 0600 stays one. A link in its place opens it to nobody."""
    path, target = tmp_path / "r.json", tmp_path / "target"
    old = os.umask(0o022)
    try:
        for mode, expected in ((0o600, 0o600), (0o666, 0o644)):
            path.touch()
            path.chmod(mode)
            assert outputs.replaced(str(path), ["new"]) == ""
            assert path.stat().st_mode & 0o777 == expected
        path.unlink()
        path.symlink_to(target)
        assert outputs.replaced(str(path), ["new"]) == ""
        assert path.lstat().st_mode == stat.S_IFREG | 0o644
        assert not target.exists()
    finally:
        os.umask(old)


def test_a_report_has_no_name_until_it_is_whole(tmp_path: Path) -> None:
    """So a kill or a Ctrl-C while it is written leaves nothing beside it."""

    def pieces() -> Iterator[str]:
        yield "half a report"
        assert os.listdir(tmp_path) == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outputs.replaced(str(tmp_path / "r.json"), pieces())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["r.txt", "r", "folder.html", "file/r.html", ".html.gz"])
def test_a_place_that_cannot_hold_a_report_is_refused(tmp_path: Path, name: str) -> None:
    """An unknown form, a folder of that name, a file in the place of the folder."""
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError):
        outputs.check(str(tmp_path / name))


def test_a_missing_folder_is_made_and_the_probe_leaves_nothing(tmp_path: Path) -> None:
    """The probe runs before the tests, so that the final write has a folder."""
    outputs.check(str(tmp_path / "a/b/r.html"))
    assert list((tmp_path / "a/b").iterdir()) == []


def test_of_a_row_that_differs_the_summary_tells_what_is_not_a_pass() -> None:
    """A row shows a skip's reason beside a pass, or a failure's, and never that of a lack."""
    passed = cell("systrap", command="again systrap")
    skipped = cell("ptrace", State.SKIPPED, message="no such call", command="again ptrace")
    failed = cell("kvm", State.FAILED, message="bad", command="again kvm")
    gone = cell("other", State.UNAVAILABLE, message="no device", command="again other")
    told = list(summary.differing(report(Row(test="a", cells=(gone, passed, skipped)))))
    assert told[1:] == ["  ptrace: no such call", "  again: again ptrace"]
    told = list(summary.differing(report(Row(test="a", cells=(passed, skipped, failed)))))
    assert told[1:] == ["  kvm: bad", "  again: again kvm"]


def test_a_large_page_has_only_the_rows_that_need_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures first; the page counts the others by state, and its figures are those of all."""
    monkeypatch.setattr(html, "MAX_ROWS", 3)
    rows = [row(f"good{n}", kvm=State.PASSED, ptrace=State.PASSED) for n in range(4)]
    rows.append(row("differs", kvm=State.PASSED, ptrace=State.SKIPPED))
    rows.append(row("bad", kvm=State.FAILED, ptrace=State.FAILED))
    text = html.render(report(*rows))
    assert re.findall(r'data-test="(\w+)"', text) == ["bad", "differs"]
    assert "The table below has 2 tests of 6: the first that failed" in text
    assert "Left out are 8 passed." in text
    assert "<td>5 passed, 1 failed</td>" in text
    assert "failed: 1 of 6 tests" in text
    many = [row(f"bad{n}", kvm=State.FAILED) for n in range(5)]
    text = html.render(report(*many))
    assert re.findall(r'data-test="(\w+)"', text) == ["bad0", "bad1", "bad2"]
    assert "Left out are 2 failed." in text
    assert "The table below" not in html.render(report(*many[:3]))
