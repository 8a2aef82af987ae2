"""A test inside does what ``forbid`` does not allow, where no test runs or none can tell."""

import pytest

from tests.attacks.conftest import RunInside

ACTS = """
import os, subprocess
import pytest

subprocess.run(["true", "at import"])

@pytest.mark.gvisor(forbid=["exec"])
class TestForbids:
    def test_first(self):
        pass

    @pytest.mark.gvisor(xfail={"systrap": "so", "ptrace": "so"})
    def test_fails_as_expected(self):
        subprocess.run(["true", "in a failure"])
        assert 0

    @pytest.mark.parametrize("number", [1, 2])
    def test_acts_when_it_is_judged(self, pytestconfig, number):
        worker = pytestconfig.pluginmanager.get_plugin("gvisor-worker")
        real = type(worker)._mark

        def mark(self, told):
            real(self, told)
            subprocess.run(["true", f"after {number}"])
            type(worker)._mark = real

        type(worker)._mark = mark
"""
"""The host is slow to begin the next test: see below."""


def test_a_forbidden_act_outside_of_tests_fails_the_next_one_or_the_session(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """No act is forgotten between two tests, and none is excused by an expected failure."""
    project.makeconftest("""
        import os, time

        def pytest_runtest_logreport(report):
            if "PYTEST_GVISOR_INSIDE" not in os.environ:
                time.sleep(0.5)
    """)
    project.makepyfile(ACTS)
    result = run_inside("-pno:randomly")
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["xfailed"], result.ret) == (3, 1, 1)
    result.stdout.fnmatch_lines([
        "*ERROR at teardown of TestForbids.test_first *", "before this test began: *",
        "  executed: */true at import, by *",
        "*ERROR at teardown of TestForbids.test_fails_as_expected *",
        "  executed: */true in a failure, by *",
    ])  # fmt: skip
    # The event of an act after the last one that the host waits for may come before its verdict.
    # So it is this test that fails, or the next one, or the session.
    assert outcomes["errors"] >= 3
    acts = [f"*  executed: */true after {number}, by *" for number in (1, 2)]
    result.stdout.fnmatch_lines_random(acts)


def test_no_act_before_the_collection_is_forbidden(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Plugins such as pytest-metadata start programs to describe the machine."""
    project.makeconftest("""
        import subprocess

        def pytest_configure():
            subprocess.run(["true"])

        def pytest_report_header():
            subprocess.run(["true"])
    """)
    project.makepyfile("""
        import pytest

        @pytest.mark.gvisor(forbid=["exec"])
        def test_it():
            pass
    """)
    run_inside().assert_outcomes(passed=1)


def test_no_expected_failure_hides_what_was_forbidden_before_a_death(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A death is expected, and an act before it is not, nor is an error of pytest itself."""
    project.makeconftest("""
        import os

        def pytest_runtest_logreport(report):
            if "PYTEST_GVISOR_INSIDE" in os.environ and "test_breaks" in report.nodeid:
                raise ValueError("mine")
    """)
    project.makepyfile("""
        import os, subprocess, time
        import pytest

        expected = {"xfail": {"systrap": "so", "ptrace": "so"}}

        @pytest.mark.gvisor(forbid=["exec"], **expected)
        class TestForbids:
            def test_dies(self):
                os._exit(0)

            def test_acts_and_dies(self):
                subprocess.run(["true", "and dies"])
                os._exit(0)

            @pytest.mark.gvisor(timeout=6)
            def test_acts_and_hangs(self):
                subprocess.run(["true", "and hangs"])
                time.sleep(100)

        @pytest.mark.gvisor(**expected)
        def test_breaks():
            pass
    """)
    result = run_inside("-pno:randomly")
    result.assert_outcomes(xfailed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines([
        "*ERROR at setup of test_breaks *", "*ValueError: mine",
        "*_ TestForbids.test_acts_and_dies _*", "*  executed: */true and dies, by *",
        "*_ TestForbids.test_acts_and_hangs _*", "*  executed: */true and hangs, by *",
    ])  # fmt: skip


def test_no_death_after_the_last_report_hides_a_forbidden_act_of_an_expected_failure(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The death comes before the host takes that report, or after it, with an act in between."""
    project.makeconftest("""
        import os, subprocess, time

        def pytest_runtest_logfinish(nodeid):
            if "PYTEST_GVISOR_INSIDE" not in os.environ:
                return
            if "test_acts" in nodeid:
                link._write(hurry=True)
                mark = link._receive()["mark"]
                worker._mark({"mark": mark})
                time.sleep(0.5)
                subprocess.run(["true"])
                os._exit(0)
            if "test_dies" in nodeid:
                link._sent, link._hurry = time.time(), False
                link._write(hurry=False)  # to the memory that the host reads too
                os._exit(0)

        def pytest_runtest_setup(item):
            global link, worker
            worker = item.config.pluginmanager.get_plugin("gvisor-worker")
            link = worker and worker._link
    """)
    project.makepyfile("""
        import subprocess
        import pytest

        @pytest.fixture
        def acts():
            yield
            subprocess.run(["true"])

        @pytest.mark.gvisor(forbid=["exec"], xfail={"systrap": "so", "ptrace": "so"})
        def test_dies(acts):
            print("x" * 6_000_000)  # the host is busy with it meanwhile
            assert 0

        @pytest.mark.gvisor(forbid=["exec"])
        def test_dies_too(acts):
            print("x" * 6_000_000)

        @pytest.mark.gvisor(forbid=["exec"], xfail={"systrap": "so", "ptrace": "so"})
        def test_acts():
            assert 0
    """)
    result = run_inside("-pno:randomly", "--show-capture=no", "-rN")
    result.assert_outcomes(xfailed=2, passed=1, errors=3)


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_a_forbidden_act_after_the_last_test_fails_the_session(
    workers: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """All tests have passed by then."""
    project.makepyfile("""
        import atexit, os
        import pytest

        @pytest.mark.gvisor(forbid=["exec", "write"])
        def test_it():
            atexit.register(os.system, "true at the end")
    """)
    project.makeconftest("""
        def pytest_unconfigure():
            import atexit
            atexit._run_exitfuncs()
    """)
    result = run_inside(workers)
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


FLOODS = """
import pytest

@pytest.mark.gvisor(forbid=["exec"])
def test_floods(pytestconfig):
    link = pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link
    text = b'{"type":"warning","values":[' + b"[]," * 400_000 + b"[]]}"

    def flood(self, told):
        link.send("warning")
        while True:
            link._messages.write(link._encoder.framed(text))
            link._messages.flush()

    type(pytestconfig.pluginmanager.get_plugin("gvisor-worker"))._mark = flood
"""


WATCHES = """
import resource

def pytest_unconfigure():
    print("peak:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_what_comes_while_an_event_is_awaited_is_bounded(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Messages of some MiB are kept, whose values take twenty times as much."""
    project.makepyfile(FLOODS)
    project.makeconftest(WATCHES)
    result = run_inside("--gvisor-timeout=2")
    result.assert_outcomes(passed=1, errors=1, warnings=result.parseoutcomes()["warnings"])
    assert int(result.stdout.str().rpartition("peak: ")[2].split()[0]) < 500


def test_no_expected_failure_hides_what_was_forbidden_from_the_exit_status(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """pytest counts no failure whose report is also that of an expected failure."""
    project.makeconftest("""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if item.name == "test_lies" and call.when == "call":
                report.outcome, report.wasxfail = "failed", "so"
            return report
    """)
    project.makepyfile(test_it="""
        import subprocess
        import pytest

        pytestmark = pytest.mark.gvisor(forbid=["exec"])

        @pytest.fixture
        def breaks():
            yield
            assert False

        @pytest.fixture
        def gives_up():
            yield
            pytest.xfail("so")

        @pytest.mark.xfail
        def test_is_expected(breaks):
            subprocess.run(["true"])

        def test_ends_expected(gives_up):
            subprocess.run(["true"])

        def test_lies():
            subprocess.run(["true"])
        """)  # fmt: skip
    names = {"test_is_expected": "errors", "test_ends_expected": "errors", "test_lies": "failed"}
    for name, outcome in names.items():
        result = run_inside("-p", "no:randomly", f"test_it.py::{name}")
        assert result.parseoutcomes()[outcome] == 1
        assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_no_end_of_the_session_hides_a_forbidden_act(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The test has no report of its own that could tell."""
    project.makepyfile("""
        import subprocess
        import pytest

        @pytest.mark.gvisor(forbid=["exec"])
        def test_it():
            subprocess.run(["true", "before the end"])
            pytest.exit("so", 5)
    """)
    result = run_inside()
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    told = "*executed: */true before the end*"
    result.stdout.fnmatch_lines(["*in or after the last test of a sandbox: *", told])


def test_no_copy_hides_what_its_plugin_s_socket_sends(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin has made the socket before the save, so no event of the copy tells of it."""
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=":")
    project.makepyfile(
        sends_plugin="import socket\none = socket.socket(type=socket.SOCK_DGRAM)\n",
        test_it="""
            import pytest, sends_plugin

            @pytest.mark.gvisor(forbid=["connect"])
            @pytest.mark.parametrize("count", range(4))
            def test_it(count):
                for _ in range(count):
                    sends_plugin.one.sendto(b"x", ("127.0.0.1", 9))
        """,
    )
    result = run_inside("-psends_plugin", "-pno:randomly", "-v", "--gvisor-isolation=test")
    result.assert_outcomes(passed=4, errors=3)
    told = [f"*  sent: {count} datagrams to *" for count in (1, 2, 3)]
    result.stdout.fnmatch_lines([*told, "*: 3 sandboxes of tests inside began as copies *"])
