"""A test inside attacks the host, with any message that its interpreter can make."""

import os
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.inside.conftest import PLUGINS, project, run_inside
from tests.mounts import harmless

__all__ = ["project", "run_inside"]

RunInside = Callable[..., pytest.RunResult]

FORGED = """
from _pytest import reports

def forge(**fields):
    real = reports.TestReport._to_json
    reports.TestReport._to_json = lambda self: {{**real(self), **fields}}

def test_forges(record_property):
    record_property("so that the report", "is no short one")
    forge({fields})
"""
"""A test whose reports have more fields than pytest gives them."""


SECRET = "token = 'of the user'\n"


def extra(content: str, extension: str) -> dict[str, str]:
    """An extra of pytest-html's, which becomes a file."""
    return {
        "name": "x", "format_type": "text", "content": content, "mime_type": "text/plain",
        "extension": extension,
    }  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the host's user, outside of the project, that coverage can show: it is Python."""
    path = tmp_path / "authorized_keys"
    path.write_text(SECRET)
    return path


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_no_report_names_a_file_that_pytest_html_writes(
    workers: str,
    project: pytest.Pytester,
    run_inside: RunInside,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extra's name ends in its extension, and is cut to its end: neither leads out of assets."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    absolute = f"{'/' * 300}{str(canary).lstrip('/')}"
    extras = [
        extra("overwritten", absolute), extra("overwritten", "/../../../authorized_keys"),
        extra("benign", "txt"),
    ]  # fmt: skip
    project.makepyfile(test_it=FORGED.format(fields=f"extras={extras!r}"))
    result = run_inside("--html=out/report.html", "-p", "no:randomly", workers)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*fields of reports from inside were left out*: extras: *"])
    assert canary.read_text() == SECRET
    made = {path.name for path in (project.path / "out").rglob("*")}
    assert made >= {"report.html", "assets", "style.css"}
    written = [path for path in (project.path / "out/assets").iterdir() if path.suffix == ".txt"]
    assert {path.read_text() for path in written} == {"benign"}


def test_no_report_names_a_file_that_hypothesis_reads(
    project: pytest.Pytester, run_inside: RunInside, canary: Path
) -> None:
    """A report loses the field that makes hypothesis write a patch; a warning names the field."""
    triple = f'["{canary}", "the user", "x"]'
    fields = f"_hypothesis_failing_examples={triple!r}"
    project.makepyfile(test_it="import hypothesis\n" + FORGED.format(fields=fields))
    result = run_inside("-p", "hypothesispytest")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*left out*: _hypothesis_failing_examples.*"])
    assert "git apply" not in result.stdout.str()


def test_no_report_has_an_attribute_that_nobody_knows(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A report loses each unknown attribute; the warning names the setting that allows one."""
    project.makeconftest(
        """
        def pytest_runtest_logreport(report):
            if report.when == "teardown":
                print(f"mine {getattr(report, 'mine', None)}", getattr(report, "other", None))
        """
    )
    project.makepyfile(test_it=FORGED.format(fields="mine='\\x1b[2J', other=1"))
    result = run_inside("-s")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*mine None None*", "*left out*: *gvisor_report_fields*"])
    project.makeini("[pytest]\ngvisor_report_fields = mine other\n")
    run_inside("-s").stdout.fnmatch_lines(["*mine \\x1b?2J 1*"])
    project.makeini("[pytest]\ngvisor_report_fields = extras\n")
    refused = run_inside()
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*gvisor_report_fields: 'extras' is no attribute*"])


LYING_COVERAGE = """
import base64, os, sqlite3, tempfile, time

class Lies:
    def switch(self, *_):
        pass

    def pieces(self):
        yield from PIECES

    def data(self):
        # A view in the place of a table: whoever reads it never ends.
        path = tempfile.mktemp()
        with sqlite3.connect(path) as made:
            made.executescript(
                "CREATE TABLE coverage_schema (version integer);"
                "INSERT INTO coverage_schema VALUES (7);"
                "CREATE VIEW meta AS WITH RECURSIVE n(key, value) AS "
                "(SELECT 'a', 1 UNION ALL SELECT key, value + 1 FROM n) SELECT * FROM n;"
            )
        return base64.b64encode(open(path, "rb").read()).decode()

def test_lies(pytestconfig):
    worker = pytestconfig.pluginmanager.get_plugin("gvisor-worker")
    worker._coverage = lies = Lies()
    send = worker._link.send
    worker._link.send = lambda kind, **fields: send(
        kind, **(fields | {"coverage": lies.data()} if kind == "finished" else fields)
    )
"""
MEASURED = ("--cov=.", "--cov-report=html", "--cov-report=annotate", "-p", "no:randomly")


@pytest.mark.parametrize("workers", ["-n0", "-n1"])
def test_no_coverage_names_a_file_that_tests_inside_cannot_see(
    workers: str,
    project: pytest.Pytester,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coverage from inside makes the host open no device, no secret and no database."""
    link = project.path / "link"  # coverage itself follows one that looks like Python
    link.symlink_to(canary)
    sessions = project.path / f"tmp/pytest-gvisor-{os.geteuid()}"
    sessions.mkdir(parents=True, mode=0o700)
    session = sessions / "session.py"
    session.write_text(canary.read_text())
    monkeypatch.setenv("TMPDIR", str(sessions.parent))
    netrc = project.path / ".netrc"  # tests inside find it empty
    netrc.write_text(canary.read_text())
    line = "base64.b64encode(bytes([2])).decode()"
    pieces = ", ".join(
        f"{{'file': {str(path)!r}, 'tracer': '', 'lines': [['', {line}]]}}"
        for path in ("/dev/zero", canary, link, "../../authorized_keys", session, netrc)
    )
    project.makepyfile(test_it=f"import base64\nPIECES = [{pieces}]\n{LYING_COVERAGE}")
    result = project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", *MEASURED, workers, timeout=200
    )
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*coverage from inside was left out*/dev/zero*"])
    assert not canary.with_name(canary.name + ",cover").exists()
    assert not list(project.path.glob(".coverage.*"))
    for path in project.path.rglob("*"):
        if path.is_file() and path not in (link, session, netrc):
            assert "of the user" not in path.read_text("utf-8", "replace")


BROKEN = {
    "malformed": ("[{'file': 7}]", "of no file"),
    "too_high": (
        "[{'file': __file__, 'tracer': '', 'lines': [['', 'A' * 9_000_000]]}]", "a line beyond",
    ),
    "without_end": (
        "(time.sleep(0.5) or {'file': 'x', 'tracer': ''} for _ in iter(int, 1))", "not answer",
    ),
}  # fmt: skip


def test_coverage_that_is_none_is_lost_and_said(project: pytest.Pytester) -> None:
    """Broken coverage ends in bounded time, and pytest-cov's own measurements on the host stay."""
    for name, (pieces, _) in BROKEN.items():
        project.makepyfile(**{f"test_{name}": f"PIECES = {pieces}\n{LYING_COVERAGE}"})
    result = project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", "--gvisor-timeout=10", "--gvisor-isolation=module",
        *MEASURED, timeout=200,
    )  # fmt: skip
    result.assert_outcomes(passed=3, warnings=3)
    lost = [f"*nor its coverage:*{told}*" for _, told in BROKEN.values()]
    result.stdout.fnmatch_lines_random([*lost, "Coverage HTML written*"])
    assert not list(project.path.glob(".coverage.*"))


def test_no_data_file_of_a_test_s_making_is_read(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writable folder that pytest-cov would take data files from is refused."""
    project.makepyfile("def test_it(): pass\n")
    out = project.path / "build/out"
    out.mkdir(parents=True)
    monkeypatch.setenv("COVERAGE_FILE", str(out / ".coverage"))
    with harmless(out):
        result = run_inside("--cov=.", "--gvisor-writable", str(out))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*build/out', where pytest-cov reads data: set COVERAGE_FILE"])


def test_warnings_that_the_host_keeps_are_bounded(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """One line counts the warnings beyond the bound."""
    project.makepyfile(
        "import warnings\n"
        "def test_warns():\n"
        "    for n in range(30):\n"
        "        warnings.warn(f'{n}' + 'x' * 1_000_000)\n"
    )
    result = run_inside()
    result.assert_outcomes(passed=1, warnings=5)
    result.stdout.fnmatch_lines(["*: 26 more warnings from inside were left out*"])


PATCHES = """
import pytest
from _pytest import reports

def patch():
    real = reports.TestReport._to_json
    reports.TestReport._to_json = lambda self: {**real(self), "outcome": "passed"}

@pytest.mark.in_gvisor(fresh=True)
def test_patches_its_own():
    patch()

def test_fails():
    assert 0

def test_patches():
    patch()

def test_fails_too():
    assert 0
"""


@pytest.mark.parametrize(("isolation", "failed"), [("session", 1), ("test", 2)])
def test_a_test_that_patches_pytest_changes_later_ones_of_its_sandbox_alone(
    isolation: str, failed: int, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Tests of one sandbox share an interpreter; a sandbox for each test keeps a patch in it."""
    project.makepyfile(PATCHES)
    result = run_inside(f"--gvisor-isolation={isolation}", "-pno:randomly")
    result.assert_outcomes(passed=4 - failed, failed=failed)


HOME = """
    from pathlib import Path

    HERE = Path(__file__).parent

    def test_it():
        assert list((HERE / ".ssh").iterdir()) == []
        assert list((HERE / ".aws").iterdir()) == []
        assert list((HERE / ".azure").iterdir()) == list((HERE / "dotfiles/azure").iterdir()) == []
        assert (HERE / ".netrc").read_text() == ""
        assert (HERE / ".config/app").read_text() == "shown"
"""


def test_a_project_that_is_a_home_folder_shows_no_keys(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Whoever runs pytest: ssh's keys tell that it is one, and the other entries go with them."""
    for name in (".ssh/id_ed25519", ".aws/credentials", ".netrc", "dotfiles/azure/token"):
        path = project.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)
    (project.path / ".azure").symlink_to("dotfiles/azure")
    (project.path / ".config").mkdir()
    (project.path / ".config/app").write_text("shown")
    project.makepyfile(HOME)
    run_inside().assert_outcomes(passed=1)
    result = run_inside("--gvisor-readable", ".aws")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*aws/credentials*"])
    assert (project.path / ".ssh/id_ed25519").read_text() == SECRET


def test_a_link_in_the_place_of_keys_hides_what_it_leads_to(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A home folder's settings may be links into a repository: nothing is bound elsewhere."""
    for name in ("dot/ssh/id", "dot/config/gh/token", "dot/config/app", "keys/.ssh/id"):
        (project.path / name).parent.mkdir(parents=True, exist_ok=True)
        (project.path / name).write_text(SECRET)
    (project.path / ".ssh").symlink_to("dot/ssh")
    (project.path / ".config").symlink_to(project.path / "dot/config")
    project.makepyfile("""
        import os

        def test_it():
            assert os.listdir("dot/ssh") == os.listdir(".ssh") == []
            assert os.listdir("dot/config/gh") == os.listdir(".config/gh") == []
            assert os.listdir("keys/.ssh") == ["id"]
            assert os.path.exists(".config/app")
    """)
    run_inside().assert_outcomes(passed=1)


PLANTS = """
import os

def test_it():
    for out in OUTS:
        if not os.path.lexists(out + "/link"):
            os.symlink(os.path.dirname(CANARY), out + "/link")
            os.symlink(CANARY, out + "/file")
        else:
            assert os.path.exists(out + "/real/file")
            assert not os.path.exists(out + "/link/authorized_keys")
            assert not os.path.exists(out + "/file")
    assert not os.path.exists(CANARY)
"""


def test_a_link_in_a_writable_folder_shows_a_later_session_nothing(
    project: pytest.Pytester,
    run_inside: RunInside,
    canary: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In the project and beside it, by a glob of the ini file, with and without the option."""
    outs = [project.path / "build/out", tmp_path_factory.mktemp("out")]
    project.makeini("[pytest]\ngvisor_readable =\n" + "".join(f"    {out}/*\n" for out in outs))
    project.makepyfile(f"OUTS, CANARY = {[*map(str, outs)]}, {str(canary)!r}\n{PLANTS}")
    outs[0].mkdir(parents=True)
    with harmless(outs[0]), harmless(outs[1]):
        for out in outs:
            (out / "real").mkdir()
            (out / "real/file").touch()
        writable = [f"--gvisor-writable={out}" for out in outs]
        for options in (writable, [], writable):
            run_inside(*options).assert_outcomes(passed=1)


@pytest.mark.parametrize("when", ["PYTHONPATH", "collection"])
def test_no_writable_folder_becomes_code_of_the_host(
    project: pytest.Pytester,
    run_inside: RunInside,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    when: str,
) -> None:
    """No test runs, wherever the folder that the host imports from was named."""
    top = tmp_path_factory.mktemp("top")
    if when == "PYTHONPATH":
        monkeypatch.setenv(when, str(top / "lib"))
    project.makepyfile(f"""
        import sys

        sys.path.append({str(top / "lib")!r})
        import helper

        def test_it():
            open(helper.__file__, "a").write("raise SystemExit")
    """)
    with harmless(top):
        (top / "lib").mkdir()
        (top / "lib/helper.py").touch()
        for folder in (top, top / "lib"):
            result = run_inside(f"--gvisor-writable={folder}")
            assert result.ret == pytest.ExitCode.USAGE_ERROR
            told = result.stderr.str() + result.stdout.str()
            assert f"--gvisor-writable={folder}: it holds '{top}/lib'" in told
        assert (top / "lib/helper.py").read_text() == ""


def test_a_project_s_folder_of_docker_is_no_credential(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout that is no home folder may have one."""
    monkeypatch.setenv("HOME", "/root")  # pytester has made it the project's folder
    (project.path / ".docker").mkdir()
    (project.path / ".docker/Dockerfile").write_text("FROM scratch")
    project.makepyfile("""
        from pathlib import Path

        def test_it():
            assert (Path(__file__).parent / ".docker/Dockerfile").read_text() == "FROM scratch"
    """)
    run_inside().assert_outcomes(passed=1)


TWO_OF_ONE_ID = """
    import pytest

    class Case(pytest.Item):
        def __init__(self, *, bad, **more):
            super().__init__(**more)
            self.bad = bad
            self.add_marker("bad" if bad else "good")

        def runtest(self):
            assert not self.bad

    class Cases(pytest.File):
        def collect(self):
            for bad in {order}:
                yield Case.from_parent(self, name="case", bad=bad)

    def pytest_collect_file(file_path, parent):
        return Cases.from_parent(parent, path=file_path) if file_path.suffix == ".case" else None

    def pytest_collection_modifyitems(items):
        items.reverse()
"""


@pytest.mark.parametrize("order", [(True, False), (False, True)], ids=["bad first", "bad last"])
def test_of_tests_with_one_id_each_is_run(
    order: tuple[bool, bool], project: pytest.Pytester, run_inside: RunInside
) -> None:
    """None has the outcome of another one in its place, also if one of them is deselected."""
    project.makeini("[pytest]\nmarkers =\n    good\n    bad\n")
    project.makeconftest(TWO_OF_ONE_ID.format(order=order))
    (project.path / "x.case").touch()
    assert run_inside().parseoutcomes() == {"passed": 1, "failed": 1}
    assert run_inside("-m", "bad").parseoutcomes() == {"failed": 1, "deselected": 1}


def test_a_test_that_a_hook_has_made_runs_inside_or_not_at_all(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """No such test is left to the host, and no test passes in the place of another one."""
    project.makeconftest("""
        import copy, os, pytest

        class Made(pytest.Item):
            def runtest(self):
                assert "PYTEST_GVISOR_INSIDE" in os.environ

        def pytest_collection_modifyitems(session, items):
            items += [copy.copy(items[0]), Made.from_parent(session, name="made")]
    """)
    project.makepyfile("def test_it(): pass")
    result = run_inside()
    result.assert_outcomes(errors=2, passed=1)
    result.stdout.fnmatch_lines(["*::test_it: a hook has made several tests of this node id"])


def test_no_test_names_the_platform_that_it_has_run_on(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """JUnit files have the platform and the release that the host knows."""
    project.makepyfile("""
        def test_it(record_property):
            record_property("gvisor.platform", "kvm")
            record_property("mine", "kept")
    """)
    result = run_inside("--junitxml=j.xml", "-o", "junit_family=xunit1")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*left out*: user_properties: gvisor.platform.*"])
    properties = ET.parse(project.path / "j.xml").iter("property")
    found = [(one.get("name"), one.get("value")) for one in properties]
    assert [value for name, value in found if name == "gvisor.platform"] == ["systrap"]
    assert ("mine", "kept") in found


@pytest.mark.parametrize(
    ("ends", "told", "options"),
    [
        ("raise RuntimeError('at the end')", "at the end", ""),
        ("os._exit(0)", "did not come to its end", ""),
        ("session.exitstatus = 3", "a hook inside failed the session: status 3", "-n1"),
    ],
)
def test_a_session_that_fails_inside_is_not_green(
    ends: str, told: str, options: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A failure of ``pytest_sessionfinish`` inside is in the exit status, in a worker of xdist
    too.
    """
    project.makeconftest(f"""
        import os

        def pytest_sessionfinish(session):
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                {ends}
    """)
    project.makepyfile("def test_it(): pass")
    result = run_inside(*options.split())
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{told}*"])


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

            @pytest.mark.gvisor(timeout=2)
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
