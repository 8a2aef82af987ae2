"""``--gvisor-runsc=LABEL=PATH``, given twice or more: each test once per release."""

import re
import shlex
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from pytest_gvisor.report.model import State
from pytest_gvisor.report.parse import parse
from tests.fakes.fake import FINE, FakeRunsc
from tests.plugin.conftest import Project, Ran

TESTS = """
    import pytest

    def test_it(gvisor, gvisor_runsc):
        assert gvisor.runsc is gvisor_runsc
        assert gvisor_runsc.path in gvisor.run(["true"], check=True).command

    def test_differs(gvisor_sandbox, gvisor_runsc):
        assert not gvisor_runsc.version.startswith("20240729")

    @pytest.mark.in_gvisor
    def test_inside():
        pass

    @pytest.mark.gvisor(runsc=None)
    def test_marked(gvisor, runsc):
        assert gvisor.runsc.version

    def test_factory(gvisor_sandboxes, runsc):
        assert runsc.version.startswith("20240729")
        for label in ("old", "new"):
            gvisor_sandboxes(release=label).exec(["true"], check=True)
"""


def ids(ran: Ran) -> list[str]:
    """The ids of the tests that were run or listed, in order."""
    return list(dict.fromkeys(re.findall(r"test_it\.py::([\w\[\].-]+)", ran.output)))


def binaries(older: Path, runsc: Runsc) -> list[str]:
    """The options of a matrix of two real releases."""
    return [f"--gvisor-runsc=old={older}", "--gvisor-runsc", f"new={runsc.path}"]


def test_each_test_that_uses_a_sandbox_runs_on_each_release(
    project: Project, older: Path, runsc: Runsc
) -> None:
    """Each test runs on each release, also inside; a marker's own binary takes its test out."""
    files = ["--gvisor-report=r.json", "--gvisor-report=r.html", "--gvisor-report=r.md"]
    args = [*binaries(older, runsc), "--gvisor-platform=ptrace", "--junitxml=report.xml", *files]
    ran = project.test(TESTS).run("-v", *args).ends(passed=7, failed=1)
    assert set(ids(ran)) >= {
        "test_it[old]", "test_it[new]", "test_differs[old]", "test_differs[new]",
        "test_inside[old]", "test_inside[new]", "test_marked", "test_factory",
    }  # fmt: skip
    ran.shows(f"gvisor: old: runsc 20240729.0 ({older.resolve()}), new: runsc {runsc.version} (")
    report = parse((project.folder / "r.json").read_bytes())
    rows = {row.test.partition("::")[2]: row for row in report.rows}
    assert {name for name in report.platforms if "-" in name} == {"ptrace-old", "ptrace-new"}
    for name in ("test_it", "test_inside"):
        assert [cell.state for cell in rows[name].cells] == [State.PASSED] * 2
    cells = {cell.release: cell for cell in rows["test_differs"].cells}
    assert (cells["old"].state, cells["new"].state) == (State.FAILED, State.PASSED)
    assert cells["old"].runsc == "20240729.0"
    assert {one.version for one in report.legs[0].runsc} == {"20240729.0", runsc.version}
    ran.shows("test_it.py::test_differs: ptrace-old FAILED, ptrace-new passed")
    properties = {
        (case.get("name"), one.get("name"), one.get("value"))
        for case in ran.junit().iter("testcase")
        for one in case.iter("property")
    }
    assert ("test_it[old]", "gvisor.release", "old") in properties
    assert ("test_it[old]", "gvisor.platform", "ptrace") in properties
    for name in ("r.html", "r.md"):
        assert "ptrace-old" in (project.folder / name).read_text()
    again = shlex.split(cells["old"].command)
    assert again[3] == "test_it.py::test_differs[old]"
    project.run(*again[3:]).ends(failed=1)


def test_ids_come_from_the_command_line_alone(project: Project, missing: Path) -> None:
    """Collection needs no binary, and each test names the missing release."""
    project.test("def test_it(gvisor): pass\n\ndef test_other(runsc): pass\n")
    labels = [f"--gvisor-runsc=a.1={missing}", f"--gvisor-runsc=b={missing}2"]
    both = ["--gvisor-platform", "systrap,ptrace"]
    expected = [
        "test_it[systrap-a.1]", "test_it[systrap-b]", "test_it[ptrace-a.1]", "test_it[ptrace-b]",
        "test_other",
    ]  # fmt: skip
    ran = project.run("--collect-only", "-q", *labels, *both).exits(0)
    if not project.distributed:
        assert ids(ran) == expected
    ran = project.run("-v", *labels, *both).ends(errors=5)
    assert set(ids(ran)) == set(expected)
    ran.shows(f"there is no runsc at {missing}2")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["a=/x", "/y"], "runsc='/y' has no label, and another has one: LABEL=PATH"),
        (["a=/x", "a=/y"], "the label 'a' is given twice"),
        (["kvm=/x", "b=/y"], "the label 'kvm' is the name of a platform"),
        (["a=", "b=/y"], "runsc='' is not a path"),
    ],
)
def test_a_matrix_that_cannot_be_meant_is_a_usage_error(
    here: Project, options: list[str], told: str
) -> None:
    """A senseless matrix is a usage error before collection."""
    args = [f"--gvisor-runsc={option}" for option in options]
    ran = here.test("def test_it(): pass").run(*args).exits(pytest.ExitCode.USAGE_ERROR)
    ran.shows(f"pytest-gvisor: --gvisor-runsc: {told}" if "label '" not in told else told)


def test_of_plain_paths_the_last_one_counts_and_one_label_is_none(
    here: Project, fake: FakeRunsc, missing: Path
) -> None:
    """A path may contain an equals sign after a slash, or after the label."""
    fake.script(*FINE, ["task_exit", 0], ["exit", 0])
    there = missing.with_name("a=b")
    there.symlink_to(fake.path)
    here.test("def test_it(runsc, gvisor_runsc): assert runsc is gvisor_runsc")
    for options in ([missing, there], [f"label={there}"], ["./x=y", there]):
        args = [f"--gvisor-runsc={option}" for option in options]
        ran = here.run("-v", *args).ends(passed=1)
        assert ids(ran) == ["test_it"]


def test_a_platform_that_only_one_release_lists_is_unavailable_on_the_other(
    project: Project, fake: FakeRunsc, tmp_path: Path
) -> None:
    """A platform that another binary of the run lists is no usage error."""
    newer = FakeRunsc.make(tmp_path / "newer")
    # Verdicts are of a binary's content, and these two are to be two binaries.
    newer.path.write_bytes(newer.path.read_bytes() + b"\0")
    for one, names in ((fake, ["systrap"]), (newer, ["systrap", "slimvm"])):
        one.script(
            *FINE, ["write", 1, "4.19.0-gvisor\n"], ["task_exit", 0], ["exit", 0], platforms=names
        )
    project.test("def test_it(gvisor): gvisor.run(['true'], check=True)")
    labels = [f"--gvisor-runsc=old={fake.path}", f"--gvisor-runsc=new={newer.path}"]
    ran = project.run("-v", *labels, "--gvisor-platform=slimvm").ends(passed=1, skipped=1)
    ran.shows("platform slimvm is not available here: not compiled in: this runsc has systrap")
