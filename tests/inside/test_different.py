"""Intended differences between tests inside and tests on the host."""

import os

import pytest

from tests.inside.conftest import inside
from tests.mounts import harmless


def test_the_kernel_is_gvisors(project: pytest.Pytester) -> None:
    """Tests inside see gVisor's kernel, on each platform that was asked for, by its own id."""
    project.makepyfile(
        "import os, unittest\n"
        "from pytest_gvisor import is_gvisor_kernel\n"
        "def test_kernel(): assert is_gvisor_kernel(os.uname().release)\n"
        "class TestUnit(unittest.TestCase):\n"
        "    def test_kernel(self): assert is_gvisor_kernel(os.uname().release)\n"
    )
    result = inside(project, "-v", "--gvisor-platform", "systrap,ptrace")
    assert result.parseoutcomes() == {"passed": 4}
    result.stdout.fnmatch_lines(
        [
            "*test_kernel?systrap? PASSED*",
            "*TestUnit::test_kernel?systrap? PASSED*",
            "*test_kernel?ptrace? PASSED*",
        ]
    )


def test_the_page_of_differences_is_true(project: pytest.Pytester) -> None:
    """Each difference in the table of gVisor's own, and the mapping of pytest-gvisor, is seen."""
    project.makepyfile(
        """
        import ctypes, errno, os, select, socket
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("path", [
            "/proc/diskstats", "/proc/vmstat", "/proc/sys/fs/inotify",
        ])
        def test_is_missing(path): assert not os.path.exists(path)

        def test_urgent_data():
            server = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            accepted = server.accept()[0]
            client.send(b"x", socket.MSG_OOB)
            assert select.select([], [], [accepted], 0.2) == ([], [], [])

        def test_more_of_a_datagram():
            server, client = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
            server.bind(("127.0.0.1", 0))
            with pytest.raises(OSError) as caught:
                client.sendto(b"x", socket.MSG_MORE, server.getsockname())
            assert caught.value.errno == errno.EINVAL

        def test_a_port_later():
            with pytest.raises(OSError) as caught:
                socket.socket().getsockopt(socket.IPPROTO_IP, 24)
            assert caught.value.errno == errno.ENOPROTOOPT

        def test_a_socket_that_is_not_listed():
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
                bound.bind(("::1", 0))
                port = f":{bound.getsockname()[1]:04X} "
                assert port not in Path("/proc/net/udp6").read_text()

        def test_switches_are_not_counted():
            assert "\\nctxt 0\\n" in Path("/proc/stat").read_text()
            counts = [
                line.split()[1] for line in Path("/proc/self/status").read_text().splitlines()
                if "ctxt_switches" in line
            ]
            assert set(counts) <= {"0"}

        def test_inotify_has_no_limit():
            library = ctypes.CDLL(None)
            made = [library.inotify_init() for _ in range(200)]
            assert -1 not in made
            for fd in made:
                os.close(fd)

        def test_the_mapping_of_reports():
            assert "host:[" in Path("/proc/self/maps").read_text()
        """
    )
    assert inside(project).parseoutcomes() == {"passed": 10}


def test_a_visible_line_says_where_the_tests_run(project: pytest.Pytester) -> None:
    """The session's head says that tests run inside; with `--no-gvisor` that they do not."""
    project.makepyfile("def test_it(): pass\n")
    inside(project).stdout.fnmatch_lines(["gvisor: the tests run INSIDE gVisor*"])
    inside(project, "--no-gvisor").stdout.fnmatch_lines(["gvisor: --no-gvisor*on the host*"])


def test_writes_stay_inside(project: pytest.Pytester) -> None:
    """Tests may write to the project and anywhere else, and the host sees none of it."""
    file = project.makepyfile(
        """
        import os, tempfile
        HERE = os.path.dirname(__file__)
        def test_write():
            for folder in (HERE, "/usr", "/", "/etc", "/tmp"):
                with open(os.path.join(folder, "pytest-gvisor-canary"), "w") as file:
                    file.write("x")
            with open(__file__, "a") as file:
                file.write("# changed")
        def test_it_is_still_there():
            assert os.path.exists(os.path.join(HERE, "pytest-gvisor-canary"))
            assert open(__file__).read().endswith("# changed")
        """
    )
    before = file.read_text()
    assert inside(project, "--gvisor-user=root").parseoutcomes() == {"passed": 2}
    assert file.read_text() == before
    for folder in (str(project.path), "/usr", "/", "/etc", "/tmp"):
        assert not os.path.exists(os.path.join(folder, "pytest-gvisor-canary"))


def test_no_test_writes_outside_before_the_verdict_on_the_one_before(
    project: pytest.Pytester,
) -> None:
    """A session that stops after a test has no effects of the next one in a writable folder."""
    folder = project.path / "build/outside"
    folder.mkdir(parents=True)
    project.makeconftest(
        """
        def pytest_runtest_logfinish(nodeid):
            if nodeid.endswith("[1]"):
                SESSION[0].shouldstop = "enough"

        SESSION = []

        def pytest_sessionstart(session):
            SESSION.append(session)
        """
    )
    project.makepyfile(
        f"""
        import pytest

        @pytest.mark.parametrize("number", range(9))
        def test_it(number):
            open({str(folder)!r} + f"/{{number}}", "w").close()
        """
    )
    with harmless(folder):
        inside(project, "--gvisor-writable", str(folder)).assert_outcomes(passed=2)
        assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]


def test_a_failed_test_is_told_of_a_variable_that_is_held_back(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was looked up or asked for; a test that passes, or looks for no such name, not.

    Nor is it told of one that a hook looks for while it reports.
    """
    for name in ("APP_URL", "APP_MODE", "OTHER"):
        monkeypatch.setenv(name, "of the host")
    project.makeconftest(
        "import os\ndef pytest_runtest_logreport(): assert os.getenv('OTHER') != 'none'\n"
    )
    project.makepyfile(
        """
        import os

        def test_passes(): assert "OTHER" not in os.environ
        def test_key(): os.environ["APP_URL"]
        def test_get(): assert os.getenv("APP_MODE") and os.getenv("NOWHERE")
        def test_own(monkeypatch):
            monkeypatch.setenv("APP_URL", "own")
            assert os.environ["APP_URL"] == os.environb[b"APP_URL"].decode() == "own"
            assert os.popen("echo $APP_URL").read() == "own\\n"
            assert 0
        """
    )
    result = inside(project, "-v")
    assert result.parseoutcomes() == {"passed": 1, "failed": 3}
    told = [line for line in result.outlines if "the test looked for" in line]
    assert [line.split("looked for ")[1].split(":")[0] for line in told] == ["APP_URL", "APP_MODE"]
    result.stdout.fnmatch_lines(["gvisor: * environment variables are held back*: *APP_MODE, *"])
    result = inside(
        project, "-q", "--gvisor-env=APP_*", "-o", "gvisor_env=OTHER=inside", "-k", "key"
    )
    assert result.parseoutcomes() == {"passed": 1, "deselected": 3}


@pytest.mark.parametrize("autoload", [False, True])
def test_variables_of_pytest_mean_inside_what_they_mean_on_the_host(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, autoload: bool
) -> None:
    """The same plugins are loaded, and a test knows its worker.

    A Python that a test starts imports what is on the host's ``PYTHONPATH``.
    """
    project.plugins.clear()
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.bundlewatch,of_the_project")
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=":")
    options = ["--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider"]
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        options += ["-p", "pytest_gvisor.plugin", "-p", "xdist"]
    project.makepyfile(
        of_the_project="import pytest\n@pytest.fixture\ndef given(): return 1\n",
        test_it="""
        import os, subprocess, sys

        def test_it(given, worker_id, testrun_uid, pytestconfig):
            assert given == 1
            assert worker_id == os.environ["PYTEST_XDIST_WORKER"] == "gw0"
            assert testrun_uid == os.environ["PYTEST_XDIST_TESTRUNUID"]
            found = pytestconfig.pluginmanager.hasplugin("hypothesispytest")
            assert found == ("PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ)
            subprocess.run([sys.executable, "-c", "import of_the_project"], cwd="/", check=True)
        """,
    )
    # No fixture of ours is of a kind that pytest warns of.
    project.runpytest_subprocess(*options, "-n1", "-W", "error").assert_outcomes(passed=1)


def test_there_is_no_network(project: pytest.Pytester) -> None:
    """A server on the host's loopback cannot be reached, unless the host's network is asked for."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        project.makepyfile(
            "import socket\n"
            f"def test_it(): socket.create_connection(('127.0.0.1', {port}), 5).close()\n"
        )
        assert inside(project).parseoutcomes() == {"failed": 1}
        assert inside(project, "--gvisor-network", "host").parseoutcomes() == {"passed": 1}


def test_marked_tests_and_host_tests_mix(project: pytest.Pytester) -> None:
    """Without `--in-gvisor` the marked tests run inside, with fixtures of their own."""
    project.makepyfile(
        """
        import os, pytest
        from pytest_gvisor import is_gvisor_kernel

        @pytest.fixture(scope="module")
        def where():
            yield os.uname().release

        def test_on_the_host(where):
            assert not is_gvisor_kernel(where)

        @pytest.mark.in_gvisor
        def test_inside(where):
            assert where == os.uname().release
            assert is_gvisor_kernel(where)

        def test_on_the_host_again(where):
            assert not is_gvisor_kernel(where)

        @pytest.mark.in_gvisor(fresh=True)
        def test_in_a_sandbox_of_its_own():
            assert not os.path.exists("/tmp/mark")
            open("/tmp/mark", "w").close()

        @pytest.mark.in_gvisor
        def test_inside_again(where):
            assert not os.path.exists("/tmp/mark")
        """
    )
    result = project.runpytest_subprocess("-v", "--strict-markers", "--gvisor-strict")
    assert result.parseoutcomes() == {"passed": 5}


def test_a_test_that_uses_a_sandbox_stays_on_the_host(project: pytest.Pytester) -> None:
    """With `--in-gvisor`, a test that requests `gvisor` runs on the host."""
    project.makepyfile(
        "import os\n"
        "from pytest_gvisor import is_gvisor_kernel\n"
        "def test_it(gvisor):\n"
        "    assert not is_gvisor_kernel(os.uname().release)\n"
        "    assert is_gvisor_kernel(gvisor.run(['uname', '-r']).stdout.strip())\n"
    )
    assert inside(project).parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize(("unit", "shared"), [("session", 2), ("module", 1), ("test", 0)])
def test_isolation_says_who_shares_a_sandbox(
    unit: str, shared: int, project: pytest.Pytester
) -> None:
    """A file in /tmp is seen by the session's, the module's, or no other test."""
    body = (
        "import os, pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_it(n, record_property):\n"
        "    seen = os.path.exists('/tmp/mark')\n"
        "    open('/tmp/mark', 'w').close()\n"
        "    print('seen' if seen else 'fresh')\n"
    )
    project.makepyfile(test_one=body, test_two=body)
    result = inside(project, "--gvisor-isolation", unit, "-rP")
    assert result.parseoutcomes() == {"passed": 4}
    assert sum(line == "seen" for line in result.outlines) == {0: 0, 1: 2, 2: 3}[shared]


@pytest.mark.parametrize(("platforms", "passed"), [("systrap", 8), ("systrap,ptrace", 16)])
def test_under_xdist_a_module_has_one_sandbox(
    platforms: str, passed: int, project: pytest.Pytester
) -> None:
    """Whole files are distributed where each module has a sandbox, unless ``--dist`` is given.

    A worker knows one test ahead, so a file's tests run on one platform after the other.
    """
    text = """
        import pathlib, pytest
        NOTE = pathlib.Path("/tmp/note")
        def test_first(): NOTE.write_text(__name__)
        @pytest.mark.parametrize("number", range(3))
        def test_note(number): assert NOTE.read_text() == __name__
    """
    project.makepyfile(test_a=text, test_b=text)
    options = ("-n2", "--gvisor-isolation", "module", "--gvisor-platform", platforms)
    assert inside(project, *options).parseoutcomes() == {"passed": passed}


def test_a_test_is_not_the_first_process(project: pytest.Pytester) -> None:
    """Somebody else reaps the orphans that its programs leave: a test waits for its own alone."""
    project.makepyfile(
        """
        import os, subprocess, time

        def test_it():
            assert os.getpid() != 1
            subprocess.run(["sh", "-c", "sleep 0.2 & echo $! > orphan"], check=True, cwd="/tmp")
            orphan = f"/proc/{open('/tmp/orphan').read().strip()}"
            # It is a zombie until somebody reaps it.
            until = time.monotonic() + 30
            while os.path.exists(orphan) and time.monotonic() < until:
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    time.sleep(0.05)
                else:
                    raise AssertionError("somebody else's child")
            assert not os.path.exists(orphan)
        """
    )
    assert inside(project).parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize("value", ["1", "{0.release} {0.version}"])
def test_the_variable_that_says_inside_is_refused_on_the_host(
    value: str, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable would turn tests inside into tests on the host, even with the host's kernel."""
    monkeypatch.setenv("PYTEST_GVISOR_INSIDE", value.format(os.uname()))
    project.makepyfile("def test_it(): pass\n")
    result = inside(project)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*PYTEST_GVISOR_INSIDE is set*this is not the kernel of one. Unset it.*"]
    )


def test_a_mark_of_one_platform_that_the_pytest_inside_cannot_know_fails(
    project: pytest.Pytester,
) -> None:
    """A hook skips one platform's copy. The test would run there, and count as passed.

    If it marks each copy, it may name it in the reason.
    """
    project.makeconftest(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        if item.name == 'test_one[ptrace]':\n"
        "            item.add_marker(pytest.mark.skip(reason='of ptrace'))\n"
        "        if item.name.startswith('test_all'):\n"
        "            item.add_marker(pytest.mark.xfail(reason=f'see {item.name}'))\n"
        "        if item.name.startswith('test_late'):\n"
        "            item.add_marker(pytest.mark.skip(f'{item.nodeid} is slow'))\n"
    )
    project.makepyfile("def test_one(): pass\ndef test_all(): pass\ndef test_late(): pass")
    result = inside(project, "--gvisor-platform", "systrap,ptrace", "-k", "ptrace")
    result.assert_outcomes(errors=1, xpassed=1, skipped=1, deselected=3)
    result.stdout.fnmatch_lines(["*for one platform alone*"])


def test_the_end_inside_runs_nothing_of_atexit_and_waits_for_no_thread(
    project: pytest.Pytester,
) -> None:
    """An error of ``pytest_unconfigure`` inside is lost too."""
    project.makeconftest("""
        import os

        def pytest_unconfigure():
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                open("build/unconfigured", "x").close()
                raise ValueError("mine")
    """)
    project.makepyfile("""
        import atexit, threading, time

        def test_it():
            atexit.register(lambda: open("build/at-exit", "x").close())
            threading.Thread(target=time.sleep, args=(2,)).start()
    """)
    folder = project.path / "build"
    folder.mkdir()
    with harmless(folder):
        result = inside(project, "--gvisor-writable", str(folder))
        assert (result.ret, result.parseoutcomes()) == (0, {"passed": 1})
        assert os.listdir(folder) == ["unconfigured"]
