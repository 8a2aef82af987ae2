"""The traces of tests inside: each has what the test did, with its fixtures and its children."""

import pytest

from tests.inside.conftest import inside

TRACED = """
import re, subprocess
import pytest

@pytest.fixture(autouse=True)
def traced(request, gvisor_trace):
    yield
    trace = gvisor_trace()
    name = request.node.name
    assert trace.complete, trace
    assert trace.written == {f"/tmp/{name}"}
    assert trace.commands == [["true", name]]
    trace.check(write=[f"/tmp/{name}"], execute=["true"], connect=[])
    with pytest.raises(AssertionError, match=re.escape(f"true {name}, by process")):
        trace.check(execute=[])

@pytest.mark.parametrize("name", ["a", "b", "c"])
def test(request, name):
    with open(f"/tmp/{request.node.name}", "w"):
        subprocess.run(["true", request.node.name], check=True)
"""


@pytest.mark.parametrize("isolation", ["session", "test"])
def test_a_fixture_sees_what_its_own_test_did(project: pytest.Pytester, isolation: str) -> None:
    """Tests that share a sandbox, and tests whose sandboxes are copies of one."""
    project.makepyfile(TRACED)
    result = inside(project, "--gvisor-trace", f"--gvisor-isolation={isolation}")
    assert result.parseoutcomes() == {"passed": 3}


def test_only_what_is_marked_is_traced(project: pytest.Pytester) -> None:
    """Others have no trace, which the fixture says."""
    project.makepyfile(
        """
        import pytest

        @pytest.mark.gvisor(trace=True)
        def test_traced(gvisor_trace):
            open("/tmp/x", "w").close()
            assert gvisor_trace().written == {"/tmp/x"}

        def test_not_traced(gvisor_trace):
            with pytest.raises(Exception, match="this test is not traced"):
                gvisor_trace()
        """
    )
    assert inside(project).parseoutcomes() == {"passed": 2}


def test_a_failure_shows_what_the_test_did(project: pytest.Pytester) -> None:
    """Connections first; the lines are escaped, and those of an earlier test are not there."""
    project.makepyfile(
        """
        import os, socket, subprocess

        def test_before():
            open("/tmp/before", "w").close()

        def test_fails():
            open("/tmp/\\x1b[2J", "w").close()
            subprocess.run(["true", "argument"])
            with socket.socket() as one:
                one.connect_ex(("127.0.0.1", 9))
            assert False

        def test_dies():
            open("/tmp/last", "w").close()
            os._exit(3)
        """
    )
    result = inside(project, "--gvisor-trace")
    assert result.parseoutcomes() == {"passed": 1, "failed": 2}
    result.stdout.fnmatch_lines(
        [
            "*gvisor: what it did*",
            "  connected: 127.0.0.1:9 (ECONNREFUSED), by process *",
            "  executed: */true argument, by process *",
            "  written, created: /tmp/*2J, by process *",
        ]
    )
    result.stdout.fnmatch_lines(["*what the test did:*", "*written, created: /tmp/last, by *"])
    text = result.stdout.str()
    assert "/tmp/before" not in text
    assert "\x1b[2J" not in text


HOSTILE = """
import os, pytest

@pytest.fixture(autouse=True)
def traced(request, gvisor_trace):
    yield
    gaps = " ".join(gvisor_trace().gaps)
    assert ("events were dropped" in gaps) == (request.node.name != "test_quiet"), gaps

def test_drops_its_last_event():
    with pytest.raises(OSError):
        os.execv("/missing", ["x", *["x" * 10**5] * 3])

def test_quiet():
    pass

def test_hides_the_number_of_drops(request):
    worker = request.config.pluginmanager.get_plugin("gvisor-worker")
    type(worker).ask_for_trace.__globals__["_open"] = lambda *_: None
"""


def test_no_test_hides_that_events_were_dropped(project: pytest.Pytester) -> None:
    """The host waits for an event that nobody could send before.

    Without an unimplemented call, no line of the summary counts any.
    """
    project.makepyfile(HOSTILE)
    result = inside(project, "--gvisor-trace")
    assert result.parseoutcomes() == {"passed": 3}
    assert "unimplemented system calls" not in result.stdout.str()


def test_a_test_on_the_host_has_the_trace_of_its_last_run(project: pytest.Pytester) -> None:
    """This is one of `gvisor.run`, or of a program in a warm sandbox."""
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def traced(gvisor, gvisor_trace):
            with pytest.raises(Exception, match="has run no workload"):
                gvisor_trace()
            yield
            assert gvisor_trace().commands == [["true", "last"]]

        def test_run(gvisor):
            gvisor.run(["true"])
            gvisor.run(["true", "last"])

        def test_exec(gvisor):
            with gvisor.sandbox() as box:
                box.exec(["true", "last"])
        """
    )
    assert inside(project, "--gvisor-trace").parseoutcomes() == {"passed": 2}


UNSUPPORTED = """
import contextlib, os, subprocess, sys
import pytest

CALL = "import os; os.sched_rr_get_interval(0)"

@pytest.mark.parametrize("number", [1, 2])
def test_calls(number, gvisor_trace):
    with contextlib.suppress(OSError):
        os.sched_rr_get_interval(0)
    assert gvisor_trace().unsupported == ("sched_rr_get_interval",)

def test_a_child_calls():
    subprocess.run([sys.executable, "-S", "-c", CALL], stderr=subprocess.DEVNULL)

def test_does_not_call(gvisor_trace):
    assert gvisor_trace().unsupported == ()
"""


@pytest.mark.parametrize("more", [["-n0"], ["-n2"]], ids=["alone", "xdist"])
def test_the_summary_counts_the_tests_that_made_unimplemented_calls(
    project: pytest.Pytester, more: list[str]
) -> None:
    """Each test counts once."""
    project.makepyfile(test_calls=UNSUPPORTED)
    result = inside(project, "--gvisor-trace", *more)
    assert result.parseoutcomes() == {"passed": 4}
    line = "gVisor: unimplemented system calls, and tests that made them: sched_rr_get_interval (3)"
    assert line in result.outlines


FORBIDDEN = """
import os, socket, subprocess
import pytest

@pytest.mark.gvisor(forbid=["connect", "exec", "write:/app/**"])
class TestForbids:
    def test_a_child_connects(self):
        if not os.fork():
            socket.socket().connect_ex(("127.0.0.1", 9))
            os._exit(0)
        os.wait()

    @pytest.fixture
    def executes(self):
        yield
        subprocess.run(["true", "argument"])

    def test_a_fixture_executes(self, executes):
        pass

    def test_skipped(self):
        socket.socket().connect_ex(("127.0.0.1", 10))
        pytest.skip("no reason")

    def test_fails(self):
        socket.socket().connect_ex(("127.0.0.1", 11))
        assert "of its own" == 0

    def test_drops_its_last_event(self):
        with pytest.raises(OSError):
            os.execv("/missing", ["x", *["x" * 10**5] * 3])

    def test_stays_within_the_rules(self, tmp_path):
        (tmp_path / "x").write_text("x")
        with socket.socketpair()[0]:
            assert open("/etc/passwd").read()

@pytest.mark.gvisor(forbid=["write:/app/**"])
def test_may_connect():
    socket.socket().connect_ex(("127.0.0.1", 9))
"""


def test_a_forbidden_act_fails_the_test_that_did_it(project: pytest.Pytester) -> None:
    """In its teardown, with the process; a test that failed keeps its failure. A gap fails too."""
    project.makepyfile(test_rules=FORBIDDEN)
    result = inside(project)
    assert result.parseoutcomes() == {"passed": 5, "skipped": 1, "failed": 1, "errors": 4}
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of TestForbids.test_a_child_connects *",
            "the workload did what is not allowed:",
            "  connected: 127.0.0.1:9 (ECONNREFUSED), by process * (*",
            "*ERROR at teardown of TestForbids.test_a_fixture_executes *",
            "  executed: */true argument, by process * below * (*",
            "*ERROR at teardown of TestForbids.test_skipped *",
            "  connected: 127.0.0.1:10 *",
            "*ERROR at teardown of TestForbids.test_drops_its_last_event *",
            "the trace is not complete, so it cannot be checked: 1 events were dropped;*",
            "* TestForbids.test_fails *",
            "E*AssertionError: assert 'of its own' == 0",
            "*gvisor: forbidden acts, found at teardown*",
            "  connected: 127.0.0.1:11 *",
        ]
    )
