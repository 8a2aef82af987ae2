"""A test inside attacks the host, with any message that its interpreter can make."""

import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.attacks.conftest import SECRET, RunInside
from tests.inside.conftest import PLUGINS
from tests.mounts import harmless

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


def extra(content: str, extension: str) -> dict[str, str]:
    """An extra of pytest-html's, which becomes a file."""
    return {
        "name": "x", "format_type": "text", "content": content, "mime_type": "text/plain",
        "extension": extension,
    }  # fmt: skip


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
    """A failure of ``pytest_sessionfinish`` inside is in exit status and report, in a worker of
    xdist too.
    """
    project.makeconftest(f"""
        import os

        def pytest_sessionfinish(session):
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                {ends}
    """)
    project.makepyfile("def test_it(): pass")
    result = run_inside(*options.split(), "--gvisor-report=r.md")
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{told}*"])
    assert "the session failed, and none of these tests" in (project.path / "r.md").read_text()


@pytest.mark.parametrize(
    ("hook", "act"),
    [("sessionfinish", "exitstatus = 1"), ("runtestloop", "testsfailed += 1")],
)
def test_a_session_that_a_wrapper_fails_inside_is_not_green(
    hook: str, act: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A wrapper inside fails the session when all other hooks are over."""
    project.makeconftest(f"""
        import os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_{hook}(session):
            result = yield
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                session.{act}
            return result
    """)
    project.makepyfile("def test_it(): pass")
    result = run_inside()
    result.assert_outcomes(passed=1, warnings=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*a hook inside failed the session: status 1*"])


def test_no_expected_failure_hides_that_a_session_fails_inside(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A failure that the host expects is none, so a hook inside decides on the status."""
    project.makeconftest("""
        import os

        def pytest_sessionfinish(session, exitstatus):
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                session.exitstatus = exitstatus + 3
    """)
    project.makepyfile("""
        import pytest

        @pytest.mark.gvisor(xfail={"systrap": "so", "ptrace": "so"})
        def test_it(): assert 0
    """)
    result = run_inside()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*a hook inside failed the session: status 3*"])


COMMANDS = """
import pytest

COMMAND = "##vso[task.complete result=Succeeded;]"
MESSAGES = [
    (COMMAND, {}), ("done", {"id": COMMAND}), ("done", {"type": [COMMAND]}),
    ("bridge", {"bridge": COMMAND}), ("debugger", {"id": "ID", "event": COMMAND}),
]

@pytest.fixture
def channel(pytestconfig):
    return pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link

@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_sends(number, channel, request):
    kind, fields = MESSAGES[number]
    given = {name: request.node.nodeid if one == "ID" else one for name, one in fields.items()}
    channel.send(kind, **given)

def test_leaves_one(channel, pytestconfig):
    class AtTheEnd:
        def pytest_sessionfinish(self):
            channel.send(COMMAND)

    pytestconfig.pluginmanager.register(AtTheEnd())
"""


def test_no_message_from_inside_writes_a_command_for_a_ci_system(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Azure Pipelines and TeamCity take one anywhere in a line of the log, as a verdict too."""
    project.makepyfile(COMMANDS)
    result = run_inside("-rA", "-p", "no:randomly")
    result.assert_outcomes(failed=5, passed=1, warnings=1)
    text = result.stdout.str() + result.stderr.str()
    assert "##vso" not in text
    assert text.count("\\x23#vso[task.complete result=Succeeded;]") >= 6


TOGETHER = """
import pytest
from _pytest._code.code import ReprEntryNative

COMMAND = "#vso[task.complete result=Succeeded;]"

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        (traceback, place, _told), = report.longrepr.chain
        entry, kind = traceback.reprentries[0], item.callspec.id
        if kind == "separator":
            report.longrepr.addsection("x", "x", sep=":error::x\\n:")
        elif kind == "native":
            traceback.reprentries[:] = [ReprEntryNative(["#", COMMAND])]
        elif kind == "break":
            entry.lines[:] = ["    x\\n" + COMMAND, "#"]
        elif kind == "empty":
            entry.lines[:] = ["", "    x", ":", "    :error::x"]
        else:
            entry.reprfileloc.path, entry.reprfileloc.message = "=== 5 passed", "in 0.10s ==="
    return report
"""
"""Parts of a failure that are harmless one by one."""


def test_no_parts_of_a_failure_are_a_command_together(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Nor are they pytest's last line, where it is pytest that joins them."""
    project.makeconftest(TOGETHER)
    project.makepyfile("""
        import pytest

        @pytest.mark.parametrize("kind", ["separator", "native", "break", "empty", "place"])
        def test_fails(kind): assert 0
    """)
    result = run_inside("--color=yes", "-p", "no:randomly")
    assert result.parseoutcomes() == {"failed": 5}
    lines = result.stdout.str().splitlines()
    assert not [line for line in lines if "##vso" in line or line.startswith("::")]
    assert not [line for line in lines if line.startswith("=== 5 passed")]


def test_no_output_ends_the_session_where_the_host_cannot_encode_it(
    project: pytest.Pytester, run_inside: RunInside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may write UTF-8, whatever the locale is. Such characters are shown as escapes."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    project.makepyfile("""
        import os

        def test_writes():
            os.write(1, "10 \u20ac".encode())

        def test_fails():
            assert 0
    """)
    result = run_inside("-s", "-p", "no:randomly")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*10 \\u20ac*"])


def test_no_id_from_inside_writes_to_the_terminal(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A test with another id inside is named by that id where a hook there leaves it out."""
    project.makeconftest(r"""
        import os, pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_finish(session):
            if "PYTEST_GVISOR_INSIDE" in os.environ:
                link = session.config.pluginmanager.get_plugin("gvisor-worker")._link
                numbers = [f"{session.items[0].parent.nodeid}::test_it[('x', 0)]"]
                ids = ["\x1b]0;forged\x07\n##vso[task.complete result=Succeeded;]"]
                link.send("collected", ids=ids, numbers=numbers, left=["other"], errors=[])
    """)
    project.makepyfile(
        test_it="import pytest\n@pytest.mark.parametrize('x', [0])\ndef test_it(x): pass"
    )
    result = run_inside()
    result.assert_outcomes(errors=1, warnings=2)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(["*was collected here and not inside*"])
    assert "\x1b]0;" not in text
    assert "##vso" not in text
