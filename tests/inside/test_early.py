"""The sandbox that is started before the host collects, and its end where it is not wanted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

RunInside = Callable[..., pytest.RunResult]

INSIDE = "import os, time\nfrom pytest_gvisor import is_gvisor_kernel\n"
INSIDE += "inside = is_gvisor_kernel(os.uname().release)\n"


def test_plugins_are_imported_inside_while_the_host_collects(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The host's collection waits for a plugin inside; no conftest.py is loaded before its end."""
    made = project.mkdir("data") / "made"
    project.makepyfile(
        early_plugin=INSIDE
        + """
if inside:
    os.write(2, b"the plugin is here")
""",
        conftest=INSIDE
        + f"""
if inside:
    assert os.path.exists({str(made)!r})

def pytest_collection_finish(session):
    early = session.config.pluginmanager.get_plugin("gvisor-early")
    if not inside:
        link, until = early._started.link, time.monotonic() + 50
        while b"the plugin is here" not in link._supervisor.pipes.stderr.last(1000):
            assert time.monotonic() < until
            link._turn(1.0)
        open({str(made)!r}, "w").close()
""",
        test_it=INSIDE + "def test_it(tmp_path): assert inside",
    )
    result = run_inside("-v", "-p", "early_plugin")
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines(["*1 passed, its sandbox started in * ms"])
    result.stdout.no_fnmatch_line("*a sandbox was started before*")


CHANGES = {
    "a variable": ("os.environ['TOKEN'] = 'late'", "inside"),
    "a file": ("open('made.py', 'w').write('x = 1')", "files"),
    "a marker": ("pass", "settings"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_collection_that_changes_something_has_a_fresh_sandbox(
    what: str,
    project: pytest.Pytester,
    run_inside: RunInside,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A test sees what the host has after the collection; `-v` says that one was started twice."""
    statement, names = CHANGES[what]
    monkeypatch.setenv("TOKEN", "early")
    mark = "@pytest.mark.gvisor(timeout=50)" if what == "a marker" else ""
    checks = {"a variable": "os.environ['TOKEN'] == 'late'", "a file": "made.x", "a marker": "1"}
    project.makepyfile(
        INSIDE
        + f"""
import pytest
if not inside:
    {statement}

{mark}
def test_it():
    {"import made" if what == "a file" else ""}
    assert inside and {checks[what]}
"""
    )
    result = run_inside("-v", "--gvisor-env=TOKEN")
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.fnmatch_lines([f"gvisor: a sandbox was started before*not used*: {names}"])
    result.stdout.fnmatch_lines(["*1 passed, its sandbox started in * ms"])


ENDS = {
    "no test": ("", ("-k", "nothing"), "*1 deselected*"),
    "an error": ("raise OSError('mine')", (), "*OSError: mine*"),
    "Ctrl-C": ("if not inside: raise KeyboardInterrupt", (), "*KeyboardInterrupt*"),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_sandbox_that_no_test_has_used(
    how: str, project: pytest.Pytester
) -> None:
    """The sandbox goes unreported, whatever has ended the run before its first test."""
    statement, arguments, told = ENDS[how]
    project.makepyfile(test_it=f"{INSIDE}\n{statement}\ndef test_it(): pass\n")
    result = project.runpytest_inprocess("-v", "--in-gvisor", *arguments, no_reraise_ctrlc=True)
    result.stdout.fnmatch_lines([told])
    for output in (result.stdout, result.stderr):
        output.no_fnmatch_line("*[vV]isor: *sandbox*")
