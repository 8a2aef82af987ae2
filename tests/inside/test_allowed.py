"""The allow-list of tests inside: what they reach by it, and what a failure tells of it."""

import http.server
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.programs import relay
from tests.inside.conftest import inside
from tests.sandbox.test_allow import CERTIFICATE, RESOLVER, Handler, served, website

PLUGIN = """
import os, sys

def command(_program, *words):
    return [sys.executable, "-I", "-S", {program!r}, *map(str, words)]

if "PYTEST_GVISOR_INSIDE" not in os.environ:
    from pytest_gvisor.run import egress_relays
    egress_relays.command = command
"""


@pytest.fixture
def names(project: pytest.Pytester) -> str:
    """An option by which each name of these tests is the host's own loopback."""
    table = {name: ["127.0.0.1"] for name in ("pypi.example", "web.example", "evil.example")}
    program = project.path.parent / "relay_with_names.py"
    package = str(Path(relay.__file__).parents[2])
    program.write_text(RESOLVER.format(package=package, names=table))
    (project.path / "names_plugin.py").write_text(PLUGIN.format(program=str(program)))
    return "-pnames_plugin"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A server on the host's loopback; its port."""
    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


OPENS = """
import pytest, urllib.request

def status(host, port):
    return urllib.request.urlopen(f"http://{{host}}:{{port}}/").status

def refused(port):
    with pytest.raises(OSError, match="Connection refused"):
        status("127.0.0.1", port)

def test_it():
    assert status("127.0.0.1", {port}) == 200
    refused({port} - 1)
"""
MARKED = """
@pytest.mark.gvisor(allow=["127.0.0.1:9"])
def test_another_list():
    refused({port})

@pytest.mark.gvisor(allow=[])
def test_none():
    refused({port})
"""


@pytest.mark.parametrize("source", ["option", "ini", "marker"])
def test_a_test_inside_reaches_what_its_list_has(
    project: pytest.Pytester, port: int, source: str
) -> None:
    """The closest list counts. Tests of another list have another sandbox."""
    entry, options = f"127.0.0.1:{port}", list[str]()
    project.makepyfile((OPENS + MARKED).format(port=port))
    if source == "option":
        options = [f"--gvisor-allow={entry}"]
    elif source == "ini":
        project.makeini(f"[pytest]\ngvisor_allow = {entry}\n")
    else:
        text = OPENS.replace("def test_it", f"@pytest.mark.gvisor(allow=['{entry}'])\ndef test_it")
        project.makepyfile((text + MARKED).format(port=port))
    inside(project, *options).assert_outcomes(passed=3)


def test_it_reaches_a_host_by_name_with_tls(project: pytest.Pytester, names: str) -> None:
    """Its processes too, and no descriptor of the relay is theirs."""
    (project.path / "ca.pem").write_text(CERTIFICATE.read_text())
    (project.path / "hello.txt").write_text("hello")
    with website(project.path) as port:
        project.makepyfile(f"""
            import os, ssl, subprocess, sys, urllib.request

            def fetch():
                context = ssl.create_default_context(cafile="ca.pem")
                url = "https://pypi.example:{port}/hello.txt"
                return urllib.request.urlopen(url, context=context).read()

            def test_it():
                assert fetch() == b"hello"
                code = "import test_it_reaches_a_host_by_name_with_tls as t; print(t.fetch())"
                assert subprocess.check_output([sys.executable, "-c", code]) == b"b'hello'\\n"

            def test_its_own_addresses_are_as_before():
                with open("/etc/hosts") as file:
                    lines = file.read().splitlines()
                assert lines[0].split() == ["127.0.0.1", "localhost", "gvisor"]
                assert lines[-1].split() == ["127.64.0.1", "pypi.example"]
                assert os.getppid() == 1
        """)
        allow = f"--gvisor-allow=pypi.example:{port},127.0.0.1:{port}"
        inside(project, names, allow).assert_outcomes(passed=2)


def test_the_names_of_another_list_are_not_there(project: pytest.Pytester) -> None:
    """Each list numbers its own: by another one's line, a test would reach another host."""
    project.makepyfile("""
        import pytest
        from socket import gethostbyname

        @pytest.mark.gvisor(allow=["alpha.example:80"])
        def test_one():
            assert gethostbyname("alpha.example") == "127.64.0.1"

        @pytest.mark.gvisor(allow=["beta.example:80", "alpha.example:80"])
        def test_two():
            names = [gethostbyname(f"{name}.example") for name in ("beta", "alpha")]
            assert names == ["127.64.0.1", "127.64.0.2"]
    """)
    inside(project).assert_outcomes(passed=2)


def test_a_failure_names_the_entry_that_is_missing(
    project: pytest.Pytester, names: str, port: int
) -> None:
    """The option that it says lets the test pass."""
    project.makepyfile(f"""
        import urllib.request

        def test_it():
            assert urllib.request.urlopen("http://web.example:{port}/").status == 200
    """)
    failed = inside(project, names, f"--gvisor-allow=127.0.0.1:{port}")
    failed.assert_outcomes(failed=1)
    remedy = f"--gvisor-allow=127.0.0.1:{port},web.example:{port}"
    failed.stdout.fnmatch_lines([
        "*- gvisor: network -*",
        f"It is not in allow=?'127.0.0.1:{port}'?. To reach it: {remedy} (or ini gvisor_allow, *",
    ])  # fmt: skip
    failed.stdout.no_fnmatch_line("*- gvisor: allow -*")
    inside(project, names, remedy).assert_outcomes(passed=1)


def test_a_failure_tells_what_the_test_reached_and_what_was_refused(
    project: pytest.Pytester, names: str, port: int
) -> None:
    """The figures are the test's own. A lost sandbox's failure has them too."""
    project.makepyfile(f"""
        import os, signal, urllib.request

        def test_first():
            assert urllib.request.urlopen("http://127.0.0.1:{port}/").status == 200

        def test_refused():
            urllib.request.urlopen("http://127.0.0.1:{port}/").read()
            urllib.request.urlopen("http://evil.example:{port - 1}/")

        def test_nothing():
            assert False

        def test_killed():
            urllib.request.urlopen("http://127.0.0.1:{port}/").read()
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    entry, evil = f"127.0.0.1:{port}", f"evil.example:{port - 1}"
    result = inside(project, names, f"--gvisor-allow={entry},{evil}")
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines([
        "*- gvisor: allow -*",
        f"{entry}: reached (1), * bytes sent, * received",
        f"{evil}: refused (1): the name answers with 127.0.0.1, which is loopback: allow *",
        "*the sandbox was lost in this test's call*",
        "*allow:",
        f"*{entry}: reached (1), * bytes sent, * received",
    ])  # fmt: skip
    assert len(re.findall("- gvisor: allow -", result.stdout.str())) == 1
    result.stdout.no_fnmatch_line("*- gvisor: network -*")


def test_a_relay_that_ends_fails_the_next_test(project: pytest.Pytester, port: int) -> None:
    """The test after that has a sandbox and a relay of its own."""
    project.makepyfile(OPENS.format(port=port) + "\n\ndef test_next(): test_it()\n"
                       "\n\ndef test_last(): test_it()\n")  # fmt: skip
    project.makeconftest("""
        import os, signal
        from pytest_gvisor.programs import relay
        from pytest_gvisor.programs.proc import children_of_self, words_of

        def pytest_runtest_logstart(nodeid):
            if nodeid.endswith("test_next") and "PYTEST_GVISOR_INSIDE" not in os.environ:
                (one,) = [p for p in children_of_self() if relay.__file__ in words_of(p)]
                os.kill(one, signal.SIGKILL)
                os.waitid(os.P_PID, one, os.WEXITED | os.WNOWAIT)
    """)
    result = inside(project, f"--gvisor-allow=127.0.0.1:{port}")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*test_next*", "*the sandbox was lost*relay*"])


def test_no_sandbox_with_a_list_is_a_copy_and_others_are(
    project: pytest.Pytester, port: int
) -> None:
    """`runsc restore` takes no descriptors: these begin anew, each with a relay of its own."""
    project.makepyfile(OPENS.format(port=port) + f"""
@pytest.mark.parametrize("number", range(3))
@pytest.mark.gvisor(allow=["127.0.0.1:{port}"])
def test_with(number):
    assert status("127.0.0.1", {port}) == 200

@pytest.mark.parametrize("number", range(3))
def test_without(number):
    refused({port})
""")  # fmt: skip
    result = inside(project, "-v", "--gvisor-isolation=test", "-k", "test_with")
    result.assert_outcomes(passed=6, deselected=1)
    result.stdout.fnmatch_lines([
        "gvisor: 2 sandboxes of tests inside began as copies of a saved one",
        f"*did not begin as copies: with allow=?'127.0.0.1:{port}'? none is saved",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gvisor-network=host"], "needs network='none', which opens nothing else"),
        (["--gvisor-readable=/etc/hosts"], "/etc/hosts is made for allow"),
    ],
)
def test_what_a_list_does_not_go_with_is_an_error(
    project: pytest.Pytester, options: list[str], told: str
) -> None:
    """Nothing listens on the host's loopback, and no name is lost."""
    project.makepyfile("def test_it(): pass")
    result = inside(project, "--gvisor-allow=127.0.0.1:9", *options)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{told}*"])
