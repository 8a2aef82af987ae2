"""A test inside, its project, and another local user use the repetitions of ``--gvisor-explain``
on the host.
"""

import subprocess
import sys

import pytest

from tests.attacks.conftest import RunInside

TEST = """
import os

def test_forges():
    digits, again = "9" * 5000, "[1:1] X a() = 1 " * 6000
    for text in (" X sys_0123() = 007 (", f" X read() = {digits} (", again):
        try:
            os.execv("/nowhere", ["x", text])
        except OSError:
            pass
    assert "gvisor" in os.uname().release
"""
OTHERS = """
import logging, os

if "PYTEST_GVISOR_INSIDE" not in os.environ:
    from pytest_gvisor.plugin import explain

    explain.TIMES = 1

def pytest_addoption(parser):
    parser.addoption("--another-report")

def pytest_runtest_logreport(report):
    if report.failed and "PYTEST_GVISOR_INSIDE" not in os.environ:
        failed.append(report.nodeid)

def pytest_sessionfinish(session):
    if "PYTEST_GVISOR_INSIDE" not in os.environ:
        logging.error("ended")
    if "PYTEST_GVISOR_INSIDE" not in os.environ and (path := session.config.option.another_report):
        with open(path, "w") as file:
            print(*failed, file=file)

failed = []
"""


def test_no_test_is_repeated_where_others_can_replace_its_files(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user could put a file in the place of the log's FIFO. pytest would never end, and
    strace would write to what a link leads to.
    """
    folder = project.mkdir("open")
    folder.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder))
    project.makepyfile("import os\n\ndef test_it(): assert 'PYTEST_GVISOR_INSIDE' in os.environ")
    result = run_inside("--gvisor-platform=native,systrap", "--gvisor-explain")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"*did not run again: *{folder} (mode 0777*or set *TMPDIR."])
    assert not list(folder.glob("*explain*"))


@pytest.mark.fault("G6")
def test_a_test_that_cannot_run_again_is_no_error_of_the_session(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All failures are shown, the note has the reason, and no folder is left."""
    project.makeconftest("""
        import subprocess, types
        from pytest_gvisor.plugin import explain

        def refuse(*_, **__):
            raise BlockingIOError(11, "Resource temporarily unavailable")

        explain.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": refuse})
    """)
    project.makepyfile("import os\n\ndef test_it(): assert 'PYTEST_GVISOR_INSIDE' in os.environ")
    monkeypatch.setenv("TMPDIR", str(folder := project.mkdir("temporary")))
    result = run_inside("--gvisor-platform=native,systrap", "--gvisor-explain")
    result.assert_outcomes(passed=1, failed=1)
    told = "it did not run again: the launch failed at explain: the pytest that repeats it"
    result.stdout.fnmatch_lines([f"*test_it: {told} cannot be started [[]EAGAIN: *"])
    assert not list(folder.glob("*explain*"))


def test_repetitions_load_no_conftest_and_replace_no_report(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A conftest.py that the user has left out is not executed, and a forged log is no error.

    No report of another plugin, which ``addopts`` asks for, is that of a repetition, nor is a line
    of the log.
    """
    project.makepyfile(test_it=TEST, others=OTHERS)
    asked = "addopts = -p others --another-report=another.txt\nlog_file = log\nlog_file_mode = a"
    project.makeini(f"[pytest]\n{asked}\n")
    loaded = project.path / "loaded"
    project.makeconftest(f"open({str(loaded)!r}, 'a').close()")
    result = run_inside("--noconftest", "--gvisor-platform=native,systrap", "--gvisor-explain")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_it.py::test_forges: no call has another error or count*"])
    assert not loaded.exists()
    assert (project.path / "another.txt").read_text() == "test_it.py::test_forges[native]\n"
    assert (project.path / "log").read_text().count("ended") == 1


def test_no_test_is_repeated_with_modules_of_where_pytest_was_started(
    project: pytest.Pytester,
) -> None:
    """The command ``pytest`` imports nothing from there, and in /tmp anybody can put a module."""
    test = project.makepyfile(
        "import os\n\ndef test_it(): assert 'PYTEST_GVISOR_INSIDE' in os.environ"
    )
    project.makeconftest("from pytest_gvisor.plugin import explain\nexplain.TIMES = 1")
    started = project.mkdir("started")
    started.joinpath("pytest.py").write_text("open('ran', 'w')")
    words = [f"--rootdir={test.parent}", str(test), "--in-gvisor", "--gvisor-explain"]
    result = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *words, "--gvisor-platform=native,systrap"],
        cwd=started, stdout=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    assert "no call has another error" in result.stdout or "the host's side" in result.stdout
    assert [one.name for one in started.iterdir()] == ["pytest.py"]


def test_a_project_with_a_thousand_open_files_is_repeated(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """select(2) takes no descriptor above 1023, neither here nor in the program that repeats."""
    project.makepyfile("import os\n\ndef test_it(): assert 'PYTEST_GVISOR_INSIDE' in os.environ")
    project.makeconftest("""
        import os, resource
        from pytest_gvisor.plugin import explain

        explain.TIMES = 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    """)
    result = run_inside("--gvisor-platform=native,systrap", "--gvisor-explain")
    result.assert_outcomes(passed=1, failed=1)
    assert "no call has another error" in result.stdout.str()
