"""The sandbox that is started with the host's session, and its end where it is not wanted."""

import os
from collections.abc import Iterator

import pytest

from pytest_gvisor.plugin.stash import engine_of
from tests.inside.conftest import inside

INSIDE = "import os, time\nfrom pytest_gvisor import is_gvisor_kernel\n"
INSIDE += "inside = is_gvisor_kernel(os.uname().release)\n"

STARTED_ONE = "*1 passed, its sandbox started in * ms*"
"""A line of the summary. Leavings of a session that another test has killed may end it."""


RUN_NO_TEST = {
    "--collect-only": "test_it.py::test_it",
    "--fixtures": "*tmp_path*",
    "--fixtures-per-test": "",
    "--markers": "*in_gvisor*",
    "--help": "*--in-gvisor*",
    "--version": "pytest *",
    "--cache-show": "*cachedir*",
    "-n1": "1 passed*",  # xdist's controller
}


@pytest.mark.parametrize("option", RUN_NO_TEST)
def test_an_option_that_runs_no_test_starts_no_sandbox(
    option: str, project: pytest.Pytester
) -> None:
    """Nor is a session folder made, or a process started."""
    project.makepyfile(
        conftest="""
import pytest

@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    from pytest_gvisor.plugin import stash
    engine = stash.engine_if_any(config)
    if not hasattr(config, "workerinput"):
        print("STARTED:", engine and engine.launcher._session)
""",
        test_it="def test_it(): pass",
    )
    result = project.runpytest_inprocess("-q", "--in-gvisor", "--gvisor-strict", option)
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    output = [*result.outlines, *result.errlines]
    pytest.LineMatcher(output).fnmatch_lines_random([RUN_NO_TEST[option]])
    started = [line for line in output if line.startswith("STARTED:")]
    assert started in ([], ["STARTED: None"])


CHANGES = {
    "a variable": "os.environ['TOKEN'] = 'late'",
    "a file": "open('made.py', 'w').write('x = 1')",
    "a marker": "pass",
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_collection_that_changes_something_has_a_fresh_sandbox(
    what: str, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test sees what the host has after the collection."""
    monkeypatch.setenv("TOKEN", "early")
    mark = "@pytest.mark.gvisor(timeout=50)" if what == "a marker" else ""
    checks = {"a variable": "os.environ['TOKEN'] == 'late'", "a file": "made.x", "a marker": "1"}
    project.makepyfile(
        INSIDE
        + f"""
import pytest
if not inside:
    {CHANGES[what]}

{mark}
def test_it():
    {"import made" if what == "a file" else ""}
    assert inside and {checks[what]}
"""
    )
    result = inside(project, "-v", "--gvisor-env=TOKEN")
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines([STARTED_ONE])


ENDS = {
    "no test": ({}, ("-k", "nothing"), "*1 deselected*"),
    "an error": ({"test_it": "raise OSError('mine')"}, (), "*OSError: mine*"),
    "Ctrl-C": ({"test_it": "if not inside: raise KeyboardInterrupt"}, (), "*KeyboardInterrupt*"),
    "a path that is not there": ({}, ("missing.py",), "*file or directory not found: missing.py"),
    "a usage error": (
        {"conftest": "def pytest_sessionstart(): raise pytest.UsageError('mine')"},
        (),
        "*mine",
    ),
    "a crash": (
        {"conftest": "def pytest_collection_modifyitems(): raise ValueError('mine')"},
        (),
        "*ValueError: mine",
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_sandbox_that_no_test_has_used(
    how: str, project: pytest.Pytester
) -> None:
    """The sandbox goes unreported, whatever has ended the run before its first test."""
    files, arguments, told = ENDS[how]
    heads = {"test_it": INSIDE, "conftest": "import pytest"}
    sources = {name: f"{heads[name]}\n{text}\n" for name, text in files.items()}
    sources["test_it"] = sources.get("test_it", "") + "def test_it(): pass\n"
    project.makepyfile(**sources)
    ends = Ends()
    result = project.runpytest_inprocess(
        "-v", "--in-gvisor", *arguments, no_reraise_ctrlc=True, plugins=[ends]
    )
    pytest.LineMatcher([*result.outlines, *result.errlines]).fnmatch_lines([told])
    output = [*result.outlines, *result.errlines]
    pytest.LineMatcher(output).no_fnmatch_line("*[vV]isor: *sandbox*")
    assert ends.had_started
    assert ends.folder
    assert not os.path.exists(ends.folder)


class Ends:
    """A plugin of the host that looks at the early sandbox."""

    def __init__(self) -> None:
        self.had_started = False
        self.folder = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> Iterator[None]:
        """Note whether there is one, whatever comes of the start."""
        try:
            return (yield)
        finally:
            early = session.config.pluginmanager.get_plugin("gvisor-early")
            self.had_started = early is not None and early._started is not None
            self.folder = engine_of(session.config).launcher.session().path
