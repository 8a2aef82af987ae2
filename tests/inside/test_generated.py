"""Whatever mixture of fixtures, parameters and failures a project has, it reads as on the host."""

import json
from collections.abc import Callable

import pytest

from tests.inside import generated
from tests.inside.conftest import apart

PLUGIN = r"""
import json, os, re

reports = {}

def pytest_runtest_logreport(report):
    said = [report.capstdout, report.capstderr, report.caplog]
    reason = getattr(report, "wasxfail", None)
    # Addresses differ, and each message of a worker of xdist names that worker.
    text = re.sub(r"0x[0-9a-f]+|^\[gw\d\] linux -- .*", "", report.longreprtext).strip()
    # So do the plugins that pytest's own frames show.
    if "_pytest/runner.py" in text:
        text = text.splitlines()[-1]
    noted = [report.when, report.outcome, reason, text, said]
    reports.setdefault(report.nodeid, []).append(noted)

def pytest_sessionfinish(session):
    # It is not set inside, and a worker of xdist knows its own tests alone.
    if "REPORTS" in os.environ and not hasattr(session.config, "workerinput"):
        with open(os.environ["REPORTS"], "w") as file:
            json.dump(reports, file)
"""
MATRIX = ("native", "systrap", "ptrace")
OPTIONS: tuple[tuple[str, ...], ...] = (
    (), (), (), ("-x",), ("--maxfail=2",), ("--runxfail",), ("-W", "error"),
    ("-o", "xfail_strict=true"), ("--tb=short",), ("--showlocals",), ("--capture=sys",), ("-s",),
    ("--assert=plain",), ("--import-mode=importlib",), ("--setup-only",), ("-k", "Test1 or test_2"),
)  # fmt: skip
Reports = dict[str, list[object]]
Generate = Callable[[int, str], pytest.Pytester]


def run(project: pytest.Pytester, *arguments: str) -> Reports:
    """Each test's reports: phase, outcome, reason, message and output."""
    file = project.path / "reports.json"
    file.unlink(missing_ok=True)
    done = apart(project, "-p", "reports_plugin", *arguments)
    assert done.ret in {0, 1, 2}, done.stdout.str()
    reports: Reports = json.loads(file.read_text())
    return reports


def without_platform(matrix: Reports, platform: str) -> Reports:
    """The reports of one platform's copies, under the names that the tests have on the host."""
    copies = {test: noted for test, noted in matrix.items() if test.endswith(f"{platform}]")}
    text = json.dumps(copies).replace(f"[{platform}]", "").replace(f"-{platform}]", "]")
    reports: Reports = json.loads(text)
    return reports


@pytest.fixture
def generate(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Write the project of a seed, whose fixtures have at most a scope."""
    project.makepyfile(reports_plugin=PLUGIN)
    monkeypatch.setenv("REPORTS", str(project.path / "reports.json"))
    monkeypatch.syspath_prepend(project.path)

    def write(seed: int, widest: str) -> pytest.Pytester:
        generated.write(project.path, seed, widest)
        return project

    return write


@pytest.mark.parametrize(("seed", "options"), list(enumerate(OPTIONS)))
def test_a_project_in_one_sandbox_reads_as_on_the_host(
    generate: Generate, seed: int, options: tuple[str, ...]
) -> None:
    """Each test has the phases, outcomes, messages and output that it has on the host."""
    project = generate(seed, "session")
    host = run(project, "--no-gvisor", *options)
    assert host
    assert run(project, "--gvisor-isolation", "session", *options) == host


@pytest.mark.parametrize("seed", range(100, 103))
def test_each_module_s_sandbox_reads_as_on_the_host(generate: Generate, seed: int) -> None:
    """Nothing differs where each module has a sandbox of its own, with workers or without."""
    project = generate(seed, "module")
    host = run(project, "--no-gvisor")
    assert host
    assert run(project, "--gvisor-isolation", "module") == host
    assert run(project, "--gvisor-isolation", "module", "-n2", "--dist=loadfile") == host


@pytest.mark.parametrize("widest", ["session", "module"])
@pytest.mark.parametrize("seed", range(200, 202))
def test_each_copy_of_a_matrix_reads_as_on_the_host(
    generate: Generate, seed: int, widest: str
) -> None:
    """The copy on the host and that on each platform have the reports of a run without a matrix."""
    project = generate(seed, widest)
    host = run(project, "--no-gvisor")
    isolation = ("--gvisor-isolation", widest)
    matrix = run(project, *isolation, "--gvisor-platform", ",".join(MATRIX))
    for platform in MATRIX:
        assert without_platform(matrix, platform) == host
