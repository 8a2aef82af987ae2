"""Settings of traces and of forbidden acts, by each source."""

from tests.plugin.conftest import Project


def test_an_ini_file_forbids_acts_in_each_test(here: Project) -> None:
    """Tests inside are watched too. A marker forbids others instead."""
    here.test("""
        import socket
        import pytest

        CONNECT = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"

        def test_connects(gvisor):
            gvisor.run(["python3", "-I", "-S", "-c", CONNECT])

        @pytest.mark.gvisor(forbid=["write:/etc/**"])
        def test_may_connect(gvisor):
            gvisor.run(["python3", "-I", "-S", "-c", CONNECT])

        @pytest.mark.in_gvisor
        def test_inside():
            with socket.socket() as one:
                one.connect_ex(("127.0.0.1", 11))
    """)
    ran = here.run("-o", "gvisor_forbid=exec connect").ends(passed=2, failed=1, errors=1)
    ran.shows("connected: 127.0.0.1:9 (ECONNREFUSED), by process 1 (python3 -I -S -c ")
    ran.hides("traced.py", "harness/gvisor.py")
    ran.shows("connected: 127.0.0.1:11 (ECONNREFUSED), by process 2 (")


FORBIDS = """
    import asyncio
    import unittest
    from concurrent.futures import ThreadPoolExecutor
    import hypothesis
    import pytest
    from pytest_gvisor import UsageError

    pytestmark = pytest.mark.gvisor(forbid=["connect"])
    CONNECT = [
        "python3", "-I", "-S", "-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
    ]

    @pytest.mark.gvisor(xfail={"systrap": "does not work there"})
    def test_expected(gvisor):
        gvisor.run(CONNECT)

    @pytest.mark.xfail
    def test_xfail(gvisor_sandbox):
        gvisor_sandbox.exec(CONNECT)

    @pytest.mark.xfail
    def test_group(gvisor):
        async def both():
            async with asyncio.TaskGroup() as group:
                group.create_task(gvisor.arun(CONNECT))
                group.create_task(gvisor.arun(["true"]))
        asyncio.run(both())

    @pytest.fixture
    def acts(gvisor):
        yield
        gvisor.run(CONNECT)

    @pytest.fixture
    def breaks():
        yield
        assert False

    @pytest.mark.xfail
    def test_teardown(acts, breaks):
        pass

    @pytest.mark.xfail
    def test_hidden(gvisor):
        try:
            gvisor.run(CONNECT)
        finally:
            assert False

    class TestCase(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def use(self, gvisor):
            self.gvisor = gvisor

        @unittest.expectedFailure
        def test_case(self):
            with self.subTest():
                self.gvisor.run(CONNECT)

    def test_skips(gvisor):
        try:
            gvisor.run(CONNECT)
        finally:
            pytest.skip("no tool")

    @pytest.fixture
    def skips(gvisor):
        yield
        try:
            gvisor.run(CONNECT)
        finally:
            pytest.skip("no tool")

    def test_skips_late(skips):
        pass

    def test_thread(gvisor):
        with ThreadPoolExecutor() as pool:
            pool.submit(gvisor.run, CONNECT)

    @hypothesis.example(9).xfail()
    @hypothesis.given(hypothesis.strategies.just(0))
    @hypothesis.settings(deadline=None, suppress_health_check=[*hypothesis.HealthCheck])
    def test_example(gvisor, number):
        if number:
            gvisor.run(CONNECT)

    def test_changed(gvisor):
        gvisor.run(CONNECT)

    def test_narrow(gvisor):
        with pytest.raises(AssertionError, match="connected"):
            gvisor.run(CONNECT, forbid=["connect:127.0.0.1:*"])

    def test_many(gvisor):
        with pytest.raises(AssertionError, match="connected"):
            gvisor.run(CONNECT)
        with gvisor.sandbox(forbid=["exec"]) as box:
            for _ in range(8):
                with pytest.raises(AssertionError, match="executed"):
                    box.exec(["sh", "-c", "/bin/true; :"])

    @pytest.fixture
    def late():
        yield (calls := [])
        for call in calls:
            with pytest.raises(UsageError, match="the test of this thread has ended"):
                call(CONNECT)

    def test_runs_after_its_end(late, gvisor):
        late += [gvisor.run, lambda args: gvisor.sandbox().exec(args)]

    @pytest.mark.gvisor(forbid=[])
    def test_has_the_error_of_its_own_call(gvisor):
        with pytest.raises(AssertionError, match="connected"):
            gvisor.run(CONNECT, forbid=["connect"])
        pytest.skip("no other")

    def test_has_the_error_of_another_act(gvisor):
        with pytest.raises(AssertionError, match="executed"):
            gvisor.run(["sh", "-c", "/bin/true; :"], forbid=["exec"])

    @pytest.mark.xfail
    def test_fails_after_all(gvisor):
        assert False

    @pytest.mark.gvisor(xfail={"systrap": "does not work there"})
    def test_fails_otherwise(gvisor):
        gvisor.run(["false"], check=True)

    @pytest.mark.xfail(raises=AssertionError)
    def test_checks_by_itself(gvisor):
        gvisor.run(CONNECT, forbid=[], trace=True).trace.check(connect=[])
"""
RETRIES = """
    import pytest

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(item):
        report = yield
        if item.name == "test_changed" and report.when == "call":
            # As pytest-retry does after a try of its own.
            report.outcome = "passed"
        return report
"""
SHARES = """
    import pytest

    CONNECT = [
        "python3", "-I", "-S", "-c", "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
    ]
    forbids = pytest.mark.gvisor(forbid=["connect"])

    @pytest.fixture(scope="module")
    def box(gvisor_sandboxes):
        made = gvisor_sandboxes()
        made.exec(CONNECT)
        return made

    @forbids
    def test_unseen(box):
        box.exec(CONNECT)

    @forbids
    def test_program(box):
        box.popen(CONNECT)

    @forbids
    def test_seen(gvisor_sandboxes):
        gvisor_sandboxes(forbid=["connect"]).exec(CONNECT)

    @forbids
    def test_decided(gvisor_sandboxes):
        gvisor_sandboxes(forbid=[]).exec(CONNECT)

    @forbids
    def test_asks_late(request):
        request.getfixturevalue("gvisor_sandboxes")().exec(CONNECT)

    def test_may(box):
        box.exec(CONNECT)
"""
OUTLIVES = """
    import threading

    gate = threading.Event()
    threads = []

    def connects(box):
        program = "import os, socket; os.read(0, 1); socket.socket().connect_ex(('127.0.0.1', 9))"
        box.exec(["python3", "-I", "-S", "-c", program], input=(b"" for _ in iter(gate.wait, True)))

    def test_begins(gvisor_sandboxes):
        threads.append(threading.Thread(target=connects, args=[gvisor_sandboxes()]))
        threads[0].start()

    def test_ends():
        gate.set()
        threads[0].join()
"""


def test_no_expected_failure_is_a_forbidden_act(here: Project) -> None:
    """Neither is a skip or a pass, whichever exception has the error in it, and whoever has that.
    The check of a test itself may be one.
    """
    here.write({"conftest.py": RETRIES, "test_it.py": FORBIDS})
    ran = here.run("--gvisor-platform", "systrap", "-p", "no:randomly")
    ran.ends(failed=6, errors=7, passed=8, skipped=1, xpassed=1, xfailed=3)
    for name in ("expected", "xfail", "group", "hidden", "skips"):
        ran.shows(f"FAILED test_it.py::test_{name}")
    for name in ("teardown", "skips_late", "thread", "example", "changed", "narrow", "many"):
        ran.shows(f"ERROR test_it.py::test_{name}")
    ran.shows("FAILED test_it.py::TestCase::test_case", "gvisor: forbidden acts")


def test_a_sandbox_of_the_session_hides_no_forbidden_act(here: Project) -> None:
    """A marker cannot have it traced, so a program is refused, unless the call has decided."""
    here.test(SHARES).run("-k", "late").ends(failed=1, deselected=5)
    ran = here.test(SHARES).run().ends(failed=4, passed=2)
    ran.shows("forbid=['connect'] of a marker is not for a sandbox of the session")
    ran.shows("connected: 127.0.0.1:9 (ECONNREFUSED)")


def test_acts_in_a_sandbox_of_the_session_count_where_their_program_ends(here: Project) -> None:
    """The test whose thread began it may have ended."""
    here.write({"pytest.ini": "[pytest]\ngvisor_forbid = connect\n", "test_it.py": OUTLIVES})
    lost = "ignore::pytest.PytestUnhandledThreadExceptionWarning"
    ran = here.run("-p", "no:randomly", "-W", lost)
    ran.ends(passed=2, errors=1)
    ran.shows("ERROR test_it.py::test_ends", "connected: 127.0.0.1:9 (ECONNREFUSED)")


def test_each_source_asks_for_more_of_a_trace(here: Project) -> None:
    """The option takes no path of a test for its value. The closest source counts."""
    here.test("""
        import pytest
        from pytest_gvisor.plugin.precedence import run_settings

        def test_source(pytestconfig):
            assert run_settings(pytestconfig).trace == "paths"

        def test_run(gvisor):
            assert gvisor.settings.trace == "paths"
            assert gvisor.run(["true"]).trace.complete
            assert gvisor.run(["true"], trace=True).settings == {"trace": True}

        @pytest.mark.gvisor(trace="values")
        def test_marked(gvisor):
            with gvisor.sandbox() as box:
                (command,) = box.exec(["true"], env={"KEY": "a=b"}).trace.executed
            assert "KEY=a=b" in command.environment
    """)
    source = "test_it.py::test_source"
    here.run("--gvisor-trace=values", "--gvisor-trace=paths", "test_it.py").ends(passed=3)
    for given in (["--gvisor-trace=paths"], ["-o", "gvisor_trace=paths"]):
        here.run(*given, source).ends(passed=1)
    here.run("--gvisor-trace", source).ends(failed=1).shows("assert True == 'paths'")
    here.run("-o", "gvisor_trace=path").exits(4).shows(
        ": trace='path' is neither true nor false, nor one of paths, values"
    )
    here.write({"pytest.toml": "[pytest]\ngvisor_trace = 'paths'"}).run(source).ends(passed=1)
    here.write({"pytest.toml": "[pytest]\ngvisor_trace = 'true'"})
    here.run(source).ends(failed=1).shows("assert True == 'paths'")


def test_a_trace_has_paths_only_of_a_run(here: Project) -> None:
    """A warm sandbox and a test inside refuse them: their parts of the strace are not known."""
    here.test("""
        import pytest

        def test_warm(gvisor_sandbox):
            pass

        @pytest.mark.in_gvisor
        def test_inside():
            pass

        @pytest.mark.in_gvisor
        @pytest.mark.gvisor(trace="values")
        def test_values(gvisor_trace):
            import os
            os.spawnve(os.P_WAIT, "/bin/true", ["true"], {"KEY": "a=b"})
            assert ("KEY=a=b",) in [one.environment for one in gvisor_trace().executed]
    """)
    ran = here.run("--gvisor-trace=paths,values").ends(passed=1, errors=2)
    ran.shows("trace=paths,values: a warm sandbox has no paths", "Write trace=True: Trace.changes")
    ran.shows("trace=paths,values: a test inside has no paths")
