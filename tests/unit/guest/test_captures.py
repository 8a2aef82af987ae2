"""The capture of output in the pytest inside: tried in a pytest here, with a count of ``dup2``."""

from __future__ import annotations

import re

import pytest

PLUGIN = """
import os
import pytest

point, pointed = os.dup2, []
os.dup2 = lambda *given: pointed.append(given) or point(*given)
look, looked = os.fstat, []
os.fstat = lambda *given: looked.append(given) or look(*given)

from pytest_gvisor.guest import captures

@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    # Inside, the terminal plugin does not write to descriptor 1.
    session.config.get_terminal_writer()._file = os.fdopen(os.dup(1), "w", buffering=1)
    pointed.clear()
    with captures.in_place(session.config):
        looked.clear()
        return (yield)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"pointed {len(pointed)} times, looked {len(looked)} times")
"""

PRINTS = """
import os, subprocess, sys
import pytest

@pytest.fixture
def around():
    print("setup")
    yield
    os.write(2, b"teardown")

def test_prints(around):
    print("call")
    subprocess.run(["echo", "a program"], check=True)

def test_prints_nothing():
    pass

def test_prints_by_a_descriptor():
    os.write(1, b"alone")

def test_asks_for_its_output(capfd, around):
    os.write(1, b"asked for")
    assert capfd.readouterr().out == "setup\\nasked for"
    os.write(1, b"left")

def test_fails(around):
    assert not around
    raise ValueError

def test_shows_what_it_prints(capsys):
    with capsys.disabled():
        pass
    print("shown later")
"""

LEAVES = """
import os
import pytest

@pytest.mark.parametrize("stream", [1, 2])
def test_closes_one(stream):
    os.close(stream)

def test_after_it():
    os.write(1, b"after it")

def test_leads_one_away(tmp_path):
    os.dup2(os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY), 1)
    os.write(1, b"lost")

def test_after_that():
    os.write(1, b"after that")
"""

WRAPPER = """
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call():
    os.write(1, b"between")
    return (yield)
"""


def _run(pytester: pytest.Pytester, *arguments: str) -> tuple[list[str], int]:
    """Run the project's tests; return the lines of their output, and how often dup2 was called."""
    environment = ("-p", "no:gvisor", "-p", "no:cacheprovider", "-p", "no:randomly", "-rA")
    result = pytester.runpytest_subprocess(*environment, *arguments)
    found = re.search(r"pointed (\d+) times", result.stdout.str())
    lines = [line for line in result.outlines if line.strip() and "pointed" not in line]
    return [re.sub(r" in \d+\.\d+s", "", line).strip("= ") for line in lines], (
        int(found[1]) if found else 0
    )


def test_descriptors_are_not_moved_between_phases_that_pass(pytester: pytest.Pytester) -> None:
    """No call for three tests, which would be twelve for each of them."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makepyfile("def test_it(): print(1)\n")
    pytester.makepyfile(test_more="def test_one(): pass\ndef test_two(): print(2)\n")
    lines, count = _run(pytester, "-p", "plugin")
    assert count == 4  # each to its file, and back at the end
    assert "3 passed" in lines


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        ("", 2 * (2 + 3 + 1)),  # what is first in the file is set up with that, and the last
        ("def pytest_runtest_setup(): pass", 2 * 9),
        ("def pytest_fixture_post_finalizer(): pass", 2 * 9),
    ],
)
def test_files_are_not_looked_at_after_phases_with_pytest_alone(
    pytester: pytest.Pytester, hook: str, count: int
) -> None:
    """Two calls for most tests, in place of six. A plugin may print in the hooks of a phase."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makeconftest(hook)
    pytester.makepyfile(
        """
        import pytest
        def test_one(): pass
        @pytest.mark.parametrize("value", [1])
        def test_value(value): pass
        @pytest.fixture
        def fixture(): pass
        def test_fixture(fixture): pass
        """
    )
    environment = ("-p", "no:gvisor", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "plugin")
    result = pytester.runpytest_subprocess(*environment)
    result.assert_outcomes(passed=3)
    found = re.search(r"looked (\d+) times", result.stdout.str())
    assert found is not None
    assert int(found[1]) == count


@pytest.mark.parametrize("suite", [PRINTS, LEAVES], ids=["prints", "leaves"])
def test_the_output_of_each_phase_is_its_own(pytester: pytest.Pytester, suite: str) -> None:
    """Also where descriptors were moved by a test: the next phase has them back."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makepyfile(suite)
    usual, _none = _run(pytester)
    kept, count = _run(pytester, "-p", "plugin")
    assert kept == usual
    assert count > 4


@pytest.mark.parametrize(
    "hook",
    [
        "def pytest_runtest_logreport(report): os.write(1, b'between')",
        "def pytest_runtest_logfinish(): os.write(1, b'between')",
        WRAPPER,
    ],
    ids=["report", "finish", "wrapper"],
)
@pytest.mark.parametrize("late", [False, True], ids=["conftest", "registered by a test"])
def test_the_output_of_plugins_between_phases_belongs_to_no_test(
    pytester: pytest.Pytester, hook: str, late: bool
) -> None:
    """The descriptors are moved where a plugin may print, even one that a test registers."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makepyfile(hooks=f"import os\nimport pytest\n\n{hook}\n")
    if not late:
        pytester.makeconftest("from hooks import *\n")
    registers = "import hooks; request.config.pluginmanager.register(hooks)" if late else "pass"
    pytester.makepyfile(
        f"def test_first(request): {registers}\n\ndef test_second(): print('mine')\n"
    )
    lines, count = _run(pytester, "-p", "plugin", "-q")
    place = lines.index("mine")
    assert lines[place - 1].strip("- ") == "Captured stdout call"
    assert not lines[place + 1].startswith("between")
    assert count >= 12


def test_a_debugger_between_phases_has_the_descriptors(pytester: pytest.Pytester) -> None:
    """Whoever suspends the capture there gets them, and a test of unittest fails only there."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makeconftest(
        """
        import os
        import pytest

        class Debugs:
            def pytest_runtest_logreport(self, report):
                if report.outcome == "passed":
                    manager.suspend_global_capture(in_=True)
                    os.write(1, b"looked into\\n")
                    manager.resume_global_capture()
                    manager.suspend_global_capture()

        def pytest_exception_interact(node):
            os.write(1, b"interacted\\n")

        def pytest_configure(config):
            global manager
            manager = config.pluginmanager.getplugin("capturemanager")
            config.pluginmanager.register(Debugs(), "gvisor-debugs")
        """
    )
    pytester.makepyfile(
        """
        import unittest

        class TestUnit(unittest.TestCase):
            def test_fails(self):
                print("of the test")
                self.fail()

        def test_passes():
            print("of the next one")
        """
    )
    lines, _count = _run(pytester, "-p", "plugin", "-q")
    before, _title, after = "\n".join(lines).partition("FAILURES")
    assert before.count("looked into") == 5  # phases that passed
    assert before.count("interacted") == 1
    assert not re.search("looked into|interacted", after)
    assert re.search("Captured stdout call -*\nof the test\n", after)
    assert re.search("Captured stdout call -*\nof the next one\n", after)
