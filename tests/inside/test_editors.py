"""Plugins that report to an editor stay on the host, and report tests inside from there."""

import os
import re
from pathlib import Path

import pytest

from tests.inside.conftest import PLUGINS, inside

TESTS = """
    import pytest

    @pytest.mark.parametrize("number", [1, 2])
    def test_it(number):
        assert number == 1

    @pytest.mark.skip(reason="so")
    def test_is_skipped():
        pass
"""
# VS Code's own plugin is part of its extension. This has its module's name, and like it sends
# outcomes to TEST_RUN_PIPE, which a test inside does not see.
VSCODE = """
import os
import pytest

PIPE = open(os.environ["TEST_RUN_PIPE"], "r+")

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_report_teststatus(report):
    if report.when == "call" or report.skipped:
        PIPE.write(f"{report.nodeid} {report.outcome}\\n")
    return (yield)

def pytest_unconfigure():
    PIPE.close()
"""


def test_vs_code(project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plugin is not loaded inside, and its pipe gets the outcome of each test."""
    (project.path / "editor").mkdir()
    (project.path / "editor/vscode_pytest.py").write_text(VSCODE)
    project.makepyfile(test_it=TESTS)
    pipe = tmp_path / "pipe"
    monkeypatch.setenv("PYTHONPATH", str(project.path / "editor"))
    monkeypatch.setenv("TEST_RUN_PIPE", str(pipe))
    monkeypatch.setenv("RUN_TEST_IDS_PIPE", str(tmp_path / "ids"))
    pipe.write_text("")
    done = inside(project, "-p", "vscode_pytest")
    assert done.parseoutcomes() == {"passed": 1, "failed": 1, "skipped": 1}
    assert sorted(set(pipe.read_text().splitlines())) == [
        "test_it.py::test_is_skipped skipped",
        "test_it.py::test_it[1] passed",
        "test_it.py::test_it[2] failed",
    ]


def test_pycharm(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages of teamcity-messages, which PyCharm's plugin is, are those of the host."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    monkeypatch.setenv("TEAMCITY_VERSION", "LOCAL")
    monkeypatch.setenv("PYCHARM_HOSTED", "1")
    project.makepyfile(test_it=TESTS)
    found = []
    for more in ((), ("--no-gvisor",)):
        done = inside(project, "-p", "no:randomly", "-s", *more)
        messages = re.findall(r"##teamcity\[(\w+) .*?name='([^']+)'", done.stdout.str())
        found.append((messages, done.ret))
    assert found[0] == found[1]
    assert ("testFailed", "test_it.test_it(2)") in found[0][0]
    assert len(found[0][0]) == 8
