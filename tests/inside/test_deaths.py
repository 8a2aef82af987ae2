"""Tests that take their sandbox with them, or do not end."""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.fakes.fake import FakeRunsc
from tests.faults.little import FILES_AFTER, LONGER
from tests.inside.conftest import inside
from tests.mounts import harmless

DEATHS = {
    "exit": ("os._exit(3)", "exit status 3"),
    "terminated": ("os.kill(os.getpid(), 15); time.sleep(10)", "signal 15, status 143"),
    "kill": ("os.kill(os.getpid(), 9)", "signal 9, status 137"),
    "crash": ("ctypes.string_at(0)", "signal 11, status 139"),
}

INSIDE = """
import os
from pytest_gvisor import is_gvisor_kernel
if is_gvisor_kernel(os.uname().release):"""
"""The head of a statement for a conftest.py that counts inside alone."""


COMMAND = r"command: .* /\S*runsc --root /.* (run|restore) .*"
EMPTY = r"standard error of the pytest inside:\n\(nothing\)"
HEAD = "the pytest inside did not get as far as a test: "
FAILED = (
    r"runsc failed: starting sandbox: no room\n"
    r"Repeat it with .*gvisor-debug.* to see runsc's own log\.\n"
    r"it ended with: runsc failed \(exit status 128\)"
)
NO_PROBE = """
from pytest_gvisor.runsc import platforms

works = {"cause": platforms.Cause.NONE}
platforms.probe = lambda platform, *_, **__: platforms.Availability(platform=platform, **works)
"""
BROKEN = (
    r"the pytest inside broke:\nConftestImportFailure: ValueError: mine \(from \S+\)\n"
    r"it ended with: exited \(exit status 1\)"
)


@pytest.mark.parametrize("how", DEATHS)
def test_a_death_is_one_failed_test(how: str, project: pytest.Pytester) -> None:
    """A test that ends its interpreter fails with phase and status in both forms; others go on."""
    statement, told = DEATHS[how]
    project.makepyfile(
        f"""
        import ctypes, os, time, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.fixture(scope="module")
        def shared():
            return os.uname().release

        def test_before(shared): pass
        def test_dies(): {statement}
        def test_after(shared): assert is_gvisor_kernel(shared)
        """
    )
    result = inside(project, "-v")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(
        [f"the sandbox was lost in this test's call: *ended with: *({told})"]
    )


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "time.sleep(1000)"])
def test_a_death_after_many_short_tests_is_its_own(how: str, project: pytest.Pytester) -> None:
    """Their messages are held back when the pytest ends, or the time."""
    project.makepyfile(
        f"""
        import os, time, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.mark.parametrize("n", range(100))
        def test_short(n):
            if n == 90 and is_gvisor_kernel(os.uname().release):
                {how}
        """
    )
    result = inside(project, "-v", "--gvisor-timeout", "15")
    assert result.parseoutcomes() == {"passed": 99, "failed": 1}
    result.stdout.fnmatch_lines(["*short?90? FAILED*", "*sandbox was lost in this test's call*"])


def test_no_parameter_runs_again_in_place_of_another_after_a_death(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sandbox of a session collects a set of parameters in the same order, though its hashes
    are random; programs that tests start have hashes of their own.
    """
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    project.makepyfile(
        """
        import os, pytest

        CASES = {(word,) for word in "abcdefghijklmnop"}

        @pytest.mark.parametrize("case", CASES)
        def test_case(case, record_property):
            record_property("case", case[0])
            assert "PYTHONHASHSEED" not in os.environ
            if case == ("h",):
                os._exit(0)
        """
    )
    result = inside(project, "--junitxml=j.xml", "-o", "junit_family=xunit1")
    assert result.parseoutcomes() == {"passed": 15, "failed": 1}
    properties = ET.parse(project.path / "j.xml").iter("property")
    cases = [one.get("value") for one in properties if one.get("name") == "case"]
    assert sorted(cases, key=str) == [*"abcdefgijklmnop"]


def test_debug_shows_what_a_lost_sandbox_did_last(project: pytest.Pytester) -> None:
    """With `--gvisor-debug` the report of a lost sandbox has the last lines of its strace."""
    project.makepyfile("import os\ndef test_dies(): os._exit(3)\n")
    result = inside(project, "--gvisor-debug")
    assert result.parseoutcomes() == {"failed": 1}
    result.stdout.fnmatch_lines(["*exit_group(0x3)*"])


def test_a_death_in_setup_or_teardown_is_an_error(project: pytest.Pytester) -> None:
    """The call of a test whose teardown ends the interpreter has passed all the same."""
    project.makepyfile(
        "import os, pytest\n"
        "@pytest.fixture\n"
        "def at_once(): os._exit(5)\n"
        "@pytest.fixture\n"
        "def later():\n"
        "    yield\n"
        "    os._exit(6)\n"
        "def test_setup(at_once): pass\n"
        "def test_teardown(later): pass\n"
    )
    result = inside(project)
    assert result.parseoutcomes() == {"passed": 1, "errors": 2}
    result.stdout.fnmatch_lines(["*lost in this test's setup: *(exit status 5)"])


def test_a_subtest_that_failed_before_a_death_is_reported(project: pytest.Pytester) -> None:
    """Its failure may be the cause."""
    project.makepyfile("""
        import os

        def test_it(subtests):
            with subtests.test("one"):
                assert "the cause" == 0
            os._exit(0)
    """)
    result = inside(project)
    result.stdout.fnmatch_lines(["E *assert 'the cause' == 0", "*SUBFAILED[[]one] *"])
    assert result.parseoutcomes()["failed"] == 2


@pytest.mark.parametrize("unit", ["session", "test"])
def test_three_false_starts_end_the_session(unit: str, project: pytest.Pytester) -> None:
    """The session ends with the cause after three starts in which pytest reached no test."""
    project.makeconftest(f"{INSIDE} os._exit(9)\n")
    project.makepyfile(
        "import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_it(n): pass\n"
    )
    result = inside(project, "--gvisor-isolation", unit)
    assert result.parseoutcomes() == {"errors": 3}
    told = r"it ended with: exited \(exit status 9\)"
    failed = re.findall(rf"^{HEAD}{told}\n{COMMAND}\n{EMPTY}$", result.stdout.str(), re.MULTILINE)
    assert len(failed) == 3


def test_a_start_that_fails_names_cause_and_command_first(
    tmp_path: Path, project: pytest.Pytester
) -> None:
    """The cause, the end and runsc's command come before logs and output, for pytest and runsc."""
    fake = FakeRunsc.make(tmp_path / "fake")
    fake.script(["connect"], ["log", "starting sandbox: no room"], ["exit", 128])
    project.makepyfile("def test_it(): pass\n")
    project.makeconftest(f"{NO_PROBE}{INSIDE} raise ValueError('mine')\n")
    traceback = r"standard error of the pytest inside:\nTraceback \(most recent call last\):\n"
    for option, told, end in (
        ("-q", BROKEN, traceback),
        (f"--gvisor-runsc={fake.path}", FAILED, EMPTY),
    ):
        result = inside(project, option)
        assert result.parseoutcomes() == {"errors": 1}
        text = result.stdout.str()
        assert re.search(rf"^{HEAD}{told}\n{COMMAND}\n{end}", text, re.MULTILINE)


def test_errors_of_pytest_itself_end_the_session(project: pytest.Pytester) -> None:
    """The error comes after the collection. pytest shows no traceback of a usage error."""
    project.makeconftest(
        "import os, pytest\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_collection():\n"
        "    yield\n"
        "    if 'PYTEST_GVISOR_INSIDE' in os.environ: raise pytest.UsageError('not like this')\n"
    )
    project.makepyfile(
        "import pytest\n@pytest.mark.parametrize('n', range(9))\ndef test_it(n): pass\n"
    )
    result = inside(project)
    assert result.parseoutcomes() == {"errors": 3}
    result.stdout.fnmatch_lines(["UsageError: not like this", "*three sandboxes in a row ended *"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a memory limit is a cgroup")
def test_memory_that_runs_out_is_one_failed_test(project: pytest.Pytester) -> None:
    """The memory limit ends the sandbox; the report names it, and the next test has a new one.

    The messages of the tests before it are held back in the host's memory, and count.
    """
    project.makepyfile(
        "import pytest\n"
        "pytestmark = pytest.mark.gvisor(memory='300M')\n"
        "@pytest.mark.parametrize('n', range(40))\n"
        "def test_before(n): pass\n"
        "def test_takes_all():\n"
        "    taken = [bytearray(b'x' * 2**24) for _ in range(100)]\n"
        "def test_after(): pass\n"
    )
    result = inside(project, "-v")
    assert result.parseoutcomes() == {"passed": 41, "failed": 1}
    result.stdout.fnmatch_lines(["*sandbox was lost in this test's call: *out of memory*"])


def test_a_platform_that_does_not_work_is_a_skip_with_its_cause(project: pytest.Pytester) -> None:
    """The platform is examined only after a sandbox has failed to start."""
    project.makeconftest(
        "from pytest_gvisor.base.errors import RunscFailed\n"
        "from pytest_gvisor.run.connected import Driven\n"
        "from pytest_gvisor.run.runner import Runner\n"
        "def fails(*_): raise RunscFailed('no such luck')\n"
        "Driven.start = Runner.run = fails\n"
    )
    project.makepyfile("def test_it(): pass\n")
    result = project.runpytest_subprocess("-o", "in_gvisor=true", "-rs")
    result.stdout.fnmatch_lines(["*platform systrap is not available here*no such luck*"])
    assert result.parseoutcomes() == {"skipped": 1}
    result = project.runpytest_subprocess("--in-gvisor")
    result.stdout.fnmatch_lines(["*platform systrap is not available here*no such luck*"])
    assert result.parseoutcomes() == {"errors": 1}


def test_ctrl_c_ends_the_session_in_the_midst_of_a_test(project: pytest.Pytester) -> None:
    """The session ends at once, before the test's deadline, with pytest's own message."""
    project.makepyfile(
        "import time\n"
        "def test_before(): pass\n"
        "def test_long(): print('asleep', flush=True); time.sleep(50)\n"
    )
    command = [sys.executable, "-m", "pytest", "--in-gvisor", "--gvisor-strict", "-s", "-v"]
    with subprocess.Popen(
        command, cwd=project.path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        seen = ""
        # The host reports the test before while this one begins.
        while not ("PASSED" in seen and "asleep" in seen) and (line := run.stdout.readline()):
            seen += line
        os.killpg(run.pid, signal.SIGINT)
        began = time.monotonic()
        rest = run.stdout.read()
        assert run.wait(30) == pytest.ExitCode.INTERRUPTED
    assert time.monotonic() - began < FILES_AFTER * LONGER
    assert "KeyboardInterrupt" in rest
    assert "1 passed" in rest


def test_a_fork_that_comes_back_says_nothing(project: pytest.Pytester) -> None:
    """A fork reports no test: only the process that the host asked does."""
    project.makepyfile(
        """
        import os, warnings

        def test_waits():
            if not (child := os.fork()):
                warnings.warn("by the fork")
                raise AssertionError("of the fork")
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 1

        def test_fails():
            assert 0, "of the test"
        """
    )
    result = inside(project, "-v", "--gvisor-timeout=20")
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    result.stdout.fnmatch_lines(["*::test_waits PASSED*", "*::test_fails FAILED*"])
    result.stdout.no_fnmatch_line("*the fork*")


def test_the_start_of_a_sandbox_is_not_of_a_test_s_time(project: pytest.Pytester) -> None:
    """A new sandbox starts outside of the next test's deadline."""
    project.makeconftest(f"import time\n{INSIDE} time.sleep(5)\n")
    project.makepyfile("import os\ndef test_dies(): os._exit(3)\ndef test_after(): pass\n")
    assert inside(project, "--gvisor-timeout=5").parseoutcomes() == {"passed": 1, "failed": 1}


def test_the_last_sandbox_ends_by_itself_if_it_writes_to_the_host(project: pytest.Pytester) -> None:
    """A sentry may hold data for files of the host until its own end."""
    project.makepyfile(
        early_plugin="""
import os
from pytest_gvisor import is_gvisor_kernel

killed = []

if not is_gvisor_kernel(os.uname().release):
    from pytest_gvisor.run.supervisor import Supervisor

    usual = Supervisor.end

    def end(self, patience):
        killed.append(usual(self, patience))
        return killed[-1]

    Supervisor.end = end

    def pytest_sessionfinish():
        assert killed == [False]
""",
        test_it="def test_passes(): pass\n\ndef test_fails(): assert 0",
    )
    out = project.path / "build/out"
    out.mkdir(parents=True)
    with harmless(out):
        result = inside(project, "-p", "early_plugin", "--gvisor-writable", str(out))
    assert result.ret == 1
    assert result.parseoutcomes() == {"passed": 1, "failed": 1}


def test_a_warning_tells_of_coverage_that_is_lost_with_a_sandbox(project: pytest.Pytester) -> None:
    """Lines of earlier tests of that sandbox are in no report."""
    project.makepyfile(
        module="def one():\n    return 1\n",
        test_it="import module, os\n"
        "def test_passes(): assert module.one()\n"
        "def test_dies(): os._exit(3)\n"
        "def test_after(): pass\n",
    )
    result = inside(project, "--cov=module", "-p", "no:randomly")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "warnings": 1}
    result.stdout.fnmatch_lines(["*: 1 sandboxes' lines of coverage, which were lost with them*"])
