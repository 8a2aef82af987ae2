"""A test inside attacks the host: what it sends can be anything that its interpreter can make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inside.conftest import PLUGINS, project, run_inside

__all__ = ["project", "run_inside"]

RunInside = Callable[..., pytest.RunResult]

FORGED = """
from _pytest import reports

def forge(**fields):
    real = reports.TestReport._to_json
    reports.TestReport._to_json = lambda self: {{**real(self), **fields}}

def test_forges():
    forge({fields})
"""
"""A test whose reports have more fields than pytest gives them."""


def extra(content: str, extension: str) -> dict[str, str]:
    """An extra of pytest-html's, which becomes a file."""
    return {
        "name": "x", "format_type": "text", "content": content, "mime_type": "text/plain",
        "extension": extension,
    }  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's user, outside of the project."""
    path = tmp_path / "authorized_keys"
    path.write_text("the user's own\n")
    return path


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_no_report_names_a_file_that_pytest_html_writes(
    workers: str,
    project: pytest.Pytester,
    run_inside: RunInside,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extra's name ends in its extension, and is cut to its end: neither leads out of assets."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    absolute = f"{'/' * 300}{str(canary).lstrip('/')}"
    extras = [
        extra("overwritten", absolute), extra("overwritten", "/../../../authorized_keys"),
        extra("benign", "txt"),
    ]  # fmt: skip
    project.makepyfile(test_it=FORGED.format(fields=f"extras={extras!r}"))
    result = run_inside("--html=out/report.html", "-p", "no:randomly", workers)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*fields of reports from inside were left out*: extras: *"])
    assert canary.read_text() == "the user's own\n"
    made = {path.name for path in (project.path / "out").rglob("*")}
    assert made >= {"report.html", "assets", "style.css"}
    written = [path for path in (project.path / "out/assets").iterdir() if path.suffix == ".txt"]
    assert {path.read_text() for path in written} == {"benign"}


def test_no_report_names_a_file_that_hypothesis_reads(
    project: pytest.Pytester, run_inside: RunInside, canary: Path
) -> None:
    """It would make a patch of the file: the field is left out, and that is said."""
    triple = f'["{canary}", "the user", "x"]'
    fields = f"_hypothesis_failing_examples={triple!r}"
    project.makepyfile(test_it="import hypothesis\n" + FORGED.format(fields=fields))
    result = run_inside("-p", "hypothesispytest")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*left out*: _hypothesis_failing_examples.*"])
    assert "git apply" not in result.stdout.str()


def test_no_report_has_an_attribute_that_nobody_knows(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """What a plugin of the host's would do with it is not known; a project can name its own."""
    project.makeconftest(
        """
        def pytest_runtest_logreport(report):
            if report.when == "teardown":
                print(f"mine {getattr(report, 'mine', None)}", getattr(report, "other", None))
        """
    )
    project.makepyfile(test_it=FORGED.format(fields="mine='\\x1b[2J', other=1"))
    result = run_inside("-s")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*mine None None*", "*left out*: *gvisor_report_fields*"])
    project.makeini("[pytest]\ngvisor_report_fields = mine other\n")
    run_inside("-s").stdout.fnmatch_lines(["*mine \\x1b?2J 1*"])
    project.makeini("[pytest]\ngvisor_report_fields = extras\n")
    refused = run_inside()
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*gvisor_report_fields: 'extras' is no attribute*"])
