"""A suite inside has the same reports as on the host."""

import os
import re
import resource
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import coverage
import pytest

from tests.inside.conftest import inside, plain, run_both

SUITE = '''
import logging, sys, unittest, warnings
import pytest

@pytest.fixture(scope="session")
def at_session():
    print("session up")
    yield 1
    print("session down")

@pytest.fixture(scope="module")
def at_module(at_session):
    print("module up")
    yield at_session + 1
    print("module down")

def test_passes(at_module):
    assert at_module == 2

def test_fails(at_module):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").warning("to the log")
    assert [1, 2, 3] == [1, 2, at_module + 2]

@pytest.mark.parametrize("word", ["a", "b-c"], ids=["first", "second"])
@pytest.mark.parametrize("number", [1, 2])
def test_parametrized(word, number):
    assert number == 1 or word == "a"

class TestClass:
    @pytest.fixture(scope="class")
    def at_class(self):
        print("class up")
        yield
        print("class down")

    def test_in_class(self, at_class):
        pass

    def test_in_class_too(self, at_class):
        raise ValueError("of its own")

@pytest.mark.skip(reason="with a reason")
def test_skipped():
    pass

def test_skips_itself():
    pytest.skip("from within")

@pytest.mark.xfail(reason="known")
def test_xfails():
    assert False

@pytest.mark.xfail(strict=True)
def test_xpasses_strictly():
    pass

@pytest.mark.xfail
def test_xpasses():
    pass

def test_setup_error(no_such_fixture):
    pass

@pytest.fixture
def breaks_at_the_end():
    yield
    raise RuntimeError("in teardown")

def test_teardown_error(breaks_at_the_end):
    pass

def test_warns():
    warnings.warn(DeprecationWarning("of the test's"))

def test_subtests(subtests):
    for number in range(3):
        with subtests.test("part", number=number):
            assert number != 1

class TestUnit(unittest.TestCase):
    def test_unit(self):
        self.assertEqual(1, 1)

    @unittest.skip("unit's")
    def test_unit_skipped(self):
        pass

def documented():
    """
    >>> 1 + 1
    2
    """

def test_property(record_property):
    record_property("key", "value")
    record_property("counts", {("a", 1): 2, None: 3})
'''


def test_a_mixed_suite_reads_as_on_the_host(project: pytest.Pytester) -> None:
    """Outcomes, tracebacks, captured output and the summary are exactly the same.

    The JUnit file has the same cases, results and properties, apart from the plugin's own.
    """
    project.makepyfile(test_mixed=SUITE)
    words = ("-rA", "-v", "--doctest-modules", "--junitxml=junit.xml", "-p", "no:randomly")

    def cases() -> list[tuple[str, list[str]]]:
        root = ET.parse(project.path / "junit.xml")
        for case in root.iter("testcase"):
            for group in case.findall("properties"):
                for one in group.findall("property"):
                    if str(one.get("name")).startswith("gvisor."):
                        group.remove(one)
                if len(group) == 0:
                    case.remove(group)
        return sorted(
            (f"{case.get('classname')}.{case.get('name')}", [part.tag for part in case])
            for case in root.iter("testcase")
        )

    found = []
    for more in ((), ("--no-gvisor",)):
        result = inside(project, *words, *more)
        assert result.ret == 1
        found.append((plain(result), cases()))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-x",), ("--maxfail=2", "-q"), ("-k", "parametrized or unit"), ("--tb=short", "-ra"),
        ("--deselect", "test_mixed.py::test_fails"), ("--setup-show", "-rA"),
        ("--setup-plan",), ("--setup-plan", "--gvisor-platform=systrap,ptrace"),
        ("-p", "no:logging"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_mean_the_same(arguments: tuple[str, ...], project: pytest.Pytester) -> None:
    """Options that choose tests, stop the run or change the output mean the same inside."""
    project.makepyfile(test_mixed=SUITE)
    both = run_both(project, *arguments)
    assert plain(both.inside) == plain(both.host)
    assert both.inside.ret == both.host.ret


def test_output_is_shown_with_s(project: pytest.Pytester, bundles_written: Path) -> None:
    """With `-s`, the output of a test inside appears while it runs."""
    project.makepyfile("def test_it(): print('aloud')\n")
    inside(project, "-s").stdout.fnmatch_lines(["*aloud*", "*1 passed*"])
    assert b"guest/tests/begin.py" in bundles_written.read_bytes()  # to be judged, as in every test


def test_an_error_of_pytest_s_own_shows_its_frames(project: pytest.Pytester) -> None:
    """There are none of the project's."""
    project.makepyfile("""
        class TestOuter:
            def setup_method(self): ...

            class TestInner:
                def test_inner(self): ...
    """)
    result = inside(project)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E  *AttributeError*setup_method*", "*_pytest/python.py:*: Attr*"])
    result.stdout.no_fnmatch_line("*traceback entries are hidden*")


def test_warnings_of_the_collection_come_once(project: pytest.Pytester) -> None:
    """Both pytests collect the file. A warning that only the one inside has is kept."""
    project.makepyfile(
        """
        import os, sys, warnings

        warnings.warn("at import")
        INSIDE = "PYTEST_GVISOR_INSIDE" in os.environ
        if INSIDE:
            warnings.warn("inside alone")

        class TestNone:
            def __init__(self): pass
            def test_it(self): pass

        def test_it():
            warnings.warn("in a test")

        def test_flags():
            assert sys.flags.safe_path is False
        """
    )
    both = run_both(project)
    assert both.outcomes() == ({"passed": 2, "warnings": 4}, {"passed": 2, "warnings": 3})
    alone = "".join(both.inside.outlines).count("inside alone")
    assert alone == 2  # its text, and its line


COVERAGE_FILES = {
    "pyproject.toml": '[tool.coverage.run]\nbranch = true\nsource = ["."]\nomit = ["other.py"]\n',
    "setup.cfg": "[coverage:run]\nbranch = true\nsource = .\nomit = other.py\n",
    "tox.ini": "[coverage:run]\nsource = .\nomit =\n    other.py\n",
    "ci/coverage.ini": "[run]\nbranch = true\nparallel = true\nsource = .\nomit = other.py\n",
    "../elsewhere.ini": "[run]\nbranch = true\nsource = .\nomit = other.py\n",
}


def test_localhost_has_the_addresses_of_the_host(project: pytest.Pytester) -> None:
    """AI_ADDRCONFIG finds the families of the host; another host is out of reach at once."""
    project.makepyfile(
        """
        import errno, os, socket, pytest

        @pytest.mark.parametrize(
            ("name", "family"),
            [("localhost", "AF_INET"), ("localhost", "AF_UNSPEC"), (None, "AF_INET"),
             (None, "AF_INET6"), (None, "AF_UNSPEC")],
        )
        def test_addresses(name, family):
            family, flags = getattr(socket, family), socket.AI_ADDRCONFIG
            found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM, 0, flags)
            print(sorted({address[0] for *_, address in found}))
            assert 0

        @pytest.mark.parametrize("address", ["192.0.2.1", "127.1.1.1", "2001:db8::1", "fd00::2"])
        def test_out_of_reach(address):
            if "PYTEST_GVISOR_INSIDE" not in os.environ:
                return
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as client, pytest.raises(OSError) as caught:
                client.connect((address, 9))
            nowhere = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED}
            assert caught.value.errno in nowhere
        """
    )
    both = run_both(project)
    assert plain(both.inside) == plain(both.host)
    assert both.inside.parseoutcomes() == {"failed": 5, "passed": 4}


@pytest.mark.parametrize("file", COVERAGE_FILES)
def test_coverage_inside_has_the_settings_of_the_host(
    project: pytest.Pytester, file: str, request: pytest.FixtureRequest
) -> None:
    """Each file of settings counts: the total is the host's, and each line's tests and phases."""
    place = project.path / file
    place.parent.mkdir(exist_ok=True)
    place.write_text(COVERAGE_FILES[file])
    request.addfinalizer(place.unlink)
    project.makepyfile(
        mine="def double(n):\n    if n > 5:\n        return 0\n    return n * 2\n",
        other="def unused():\n    return 1\n",
        test_mine="""
            import pytest
            from mine import double

            @pytest.fixture
            def doubled():
                yield double(6)
                double(7)

            @pytest.mark.parametrize("n", [1, 6])
            def test_it(n, doubled): assert double(n) == (2 if n == 1 else 0)
            """,
    )
    own = [f"--cov-config={file}"] if "/" in file else []
    found = []
    for more in ((), ("--no-gvisor",)):
        result = project.runpytest_subprocess(
            "--in-gvisor", "--cov", "--cov-report=term-missing", "--cov-context=test", *own, *more
        )
        data = coverage.CoverageData(basename=str(project.path / ".coverage"))
        data.read()
        total = [line for line in result.outlines if line.startswith(("mine.py", "TOTAL", "other"))]
        (name,) = [path for path in data.measured_files() if path.endswith("/mine.py")]
        contexts = data.contexts_by_lineno(name)
        lines = {line: sorted(filter(None, of)) for line, of in contexts.items()}
        found.append((total, lines, data.has_arcs()))
    assert found[0] == found[1]
    assert len(found[0][0]) == 2
    assert len(found[0][1][3]) == 5
    assert not list(Path(project.path).glob(".coverage.gvisor*"))


def test_coverage_inside_has_the_lines_of_children(project: pytest.Pytester) -> None:
    """A child's data file begins like the project's, and not like that of the pytest inside."""
    project.path.joinpath(".coveragerc").write_text("[run]\nconcurrency = multiprocessing\n")
    project.makepyfile(
        mine="def double(n):\n    return n * 2\n\ndef half(n):\n    return n / 2\n",
        test_mine="""
            import multiprocessing, pytest
            import mine

            @pytest.mark.parametrize("way, runs", [("fork", mine.double), ("spawn", mine.half)])
            def test_it(way, runs):
                child = multiprocessing.get_context(way).Process(target=runs, args=[1])
                child.start()
                child.join()
                assert child.exitcode == 0
            """,
    )
    result = project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", "--cov=mine", "--cov-report=term-missing"
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["mine.py * 100%"])
    assert not list(project.path.glob(".coverage.*"))


def test_shared_memory_and_open_files_are_limited_as_on_the_host(project: pytest.Pytester) -> None:
    """The size of /dev/shm and the limit on open files are the host's; one can be set."""
    here = os.statvfs("/dev/shm")
    wanted = here.f_blocks * here.f_frsize, *resource.getrlimit(resource.RLIMIT_NOFILE)
    source = (
        "import os, resource\n"
        "def test_it():\n"
        "    here = os.statvfs('/dev/shm')\n"
        "    limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "    assert (here.f_blocks * here.f_frsize, *limits) == {}\n"
    )
    project.makepyfile(source.format(wanted))
    both = run_both(project)
    assert both.outcomes() == ({"passed": 1}, {"passed": 1})
    project.makepyfile(source.format((1 << 20, *wanted[1:])))
    project.makeini("[pytest]\ngvisor_shm = 1M\n")
    assert inside(project).parseoutcomes() == {"passed": 1}


def test_few_open_files_are_enough_for_tests_that_read_many(project: pytest.Pytester) -> None:
    """The sandbox holds a descriptor for each file of the host that a test has looked at lately."""
    (project.path / "data").mkdir()
    for number in range(1500):
        (project.path / f"data/{number}").touch()
    project.makepyfile(
        "from pathlib import Path\n"
        "def test_it():\n"
        "    assert [f.read_bytes() for f in Path('data').iterdir()] == [b''] * 1500\n"
    )
    words = "--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider"
    limited = "sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"
    result = project.run(*limited, sys.executable, "-m", "pytest", *words)
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("ini", [True, False], ids=["ini", "no-ini"])
@pytest.mark.parametrize(
    "arguments", [(), ("--maxfail=3", "--basetemp=made", "test_it.py")], ids=str
)
def test_the_configuration_reads_as_on_the_host(
    project: pytest.Pytester, arguments: tuple[str, ...], ini: bool
) -> None:
    """Options and names that the pytest inside is started with others of are the host's."""
    if not ini:
        (project.path / "tox.ini").unlink()
    (project.path.parent / "conftest.py").write_text("assert not 'of the project'")
    project.makepyfile(
        test_it="""
        def test_fails(): assert 0

        def test_it(pytestconfig, request, tmp_path):
            option = pytestconfig.option
            given = [one for one in pytestconfig.invocation_params.args if one != "--no-gvisor"]
            print(pytestconfig.rootpath, pytestconfig.inipath, pytestconfig.args_source, given)
            print(option.basetemp, option.maxfail, option.no_summary, option.file_or_dir)
            print(option.rootdir, option.inifilename, option.confcutdir)
            print(request.session.testsfailed)
            assert 0
        """
    )
    try:
        both = run_both(project, "-p", "no:randomly", *arguments)
    finally:
        (project.path.parent / "conftest.py").unlink()
    # Each run of pytester has a folder of its own.
    read = [re.sub(r"runpytest-\d+", "", "\n".join(plain(one))) for one in (both.inside, both.host)]
    assert read[0] == read[1]
    both.inside.assert_outcomes(failed=2)


def test_an_option_named_like_those_of_pytest_cov_has_the_host_s_value(
    project: pytest.Pytester,
) -> None:
    """With the default in its place, a test that fails on the host passed."""
    project.makeconftest("def pytest_addoption(parser): parser.addoption('--cov-kind')")
    project.makepyfile("""
        def test_it(pytestconfig):
            names = "cov_kind", "cov_branch"
            assert str([*map(pytestconfig.getoption, names)]) == "shown"
    """)
    both = run_both(project, "--cov-kind=full", "--cov=.", "--cov-branch", "-p", "no:randomly")
    for result in both.inside, both.host:
        result.stdout.fnmatch_lines(["*[[]'full', True[]]*", "TOTAL *"])


def test_an_option_of_the_project_s_own_type_has_the_host_s_value(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default in its place, or a text, a test that fails on the host passed."""
    project.makeconftest("""
        import enum, pathlib

        class Level(enum.Enum):
            LOW = "low"
            HIGH = "high"

        class Mode(enum.StrEnum):
            FAST = "fast"
            SLOW = "slow"

        def pytest_addoption(parser):
            parser.addoption("--level", type=Level, default=Level.LOW, choices=list(Level))
            parser.addoption("--levels", type=Level, default=[], action="append")
            parser.addoption("--where", type=pathlib.Path, default=pathlib.Path("."))
            parser.addoption("--mode", type=Mode, default=Mode.FAST)
            parser.addoption("--most", type=float, default=float("inf"))
            parser.addoption("--least", type=float, default=0.0)
            parser.addoption("--sdk", type=existing, default="/srv")

        def existing(name):
            if not pathlib.Path(name).is_dir():
                raise ValueError(name)  # inside, where it is not shown
            return pathlib.Path(name)
    """)
    # As modules, both have the name conftest.
    project.mkdir("sub").joinpath("conftest.py").write_text("MINE = 1")
    project.path.joinpath("sub/test_more.py").write_text("def test_more(): pass")
    project.makeini("[pytest]\naddopts = --where 'a b' --levels=low\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--levels high")
    project.makepyfile("""
        def test_it(pytestconfig):
            names = "level", "levels", "where", "mode", "most", "least"
            assert str([*map(pytestconfig.getoption, names)]) == "shown"
    """)
    both = run_both(project, "--level", "high", "--least=-inf", "-p", "no:randomly")
    values = "<Level.HIGH: 'high'>, [[]<Level.LOW: 'low'>, <Level.HIGH: 'high'>[]], "
    values += "PosixPath('a b'), <Mode.FAST: 'fast'>, inf, -inf"
    for result in both.inside, both.host:
        result.stdout.fnmatch_lines([f"*[[]{values}[]]*"])


def test_the_command_line_comes_after_the_arguments_of_a_plugin(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So an option that the user gives counts. The umask is the host's too."""
    project.makepyfile(
        early="""
        def pytest_addoption(parser):
            parser.addoption("--mode")
            parser.addoption("--more", action="append")

        def pytest_load_initial_conftests(args):
            args[:] = ["--mode=fast", "--more=early", *args]
    """
    )
    project.makepyfile("""
        import os

        def test_it(pytestconfig):
            options = pytestconfig.option
            assert (options.mode, options.more, os.umask(0o077)) == "shown"
    """)
    monkeypatch.syspath_prepend(project.path)
    before = os.umask(0o027)
    try:
        both = run_both(project, "-p", "early", "--mode=slow")
    finally:
        os.umask(before)
    for result in both.inside, both.host:
        result.stdout.fnmatch_lines(["*('slow', [[]'early'[]], 23) == 'shown'*"])


def test_a_large_option_is_there_inside(project: pytest.Pytester) -> None:
    """The socket holds less, and nobody reads from it before runsc is greeted."""
    project.makeconftest("""
        def pytest_addoption(parser):
            parser.addoption("--size", type=lambda word: bytes(int(word)))
    """)
    project.makepyfile(
        "def test_it(pytestconfig): assert len(pytestconfig.option.size) == 6_000_000"
    )
    assert inside(project, "--size=6000000").parseoutcomes() == {"passed": 1}


def test_a_plugin_that_the_ini_file_switches_off_keeps_its_keys(project: pytest.Pytester) -> None:
    """pytest knows the keys of such a plugin, which ``--strict-config`` would refuse else."""
    project.makeini(
        "[pytest]\naddopts = --strict-config -p no:doctest\ndoctest_optionflags = ELLIPSIS\n"
    )
    project.makepyfile(
        "def test_it(pytestconfig): assert pytestconfig.getini('doctest_optionflags')"
    )
    both = run_both(project, "-v")
    assert plain(both.inside) == plain(both.host)
    both.inside.assert_outcomes(passed=1)


def test_a_report_at_which_a_hook_ends_the_session_is_there(project: pytest.Pytester) -> None:
    """The host knew that the session had ended, and not that the test had failed."""
    project.makeconftest("""
        import pytest

        def pytest_runtest_logreport(report):
            if report.failed:
                pytest.exit("enough", returncode=3)
    """)
    project.makepyfile("def test_a(): assert 0\ndef test_b(): pass\n")
    both = run_both(project, "-rA")
    assert plain(both.inside) == plain(both.host)
    assert both.inside.ret == both.host.ret == 3
    both.inside.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("how", "passed"), [("hookimpl", 2), ("hookimpl(wrapper=True, tryfirst=True)", 1)]
)
def test_a_hook_that_changes_a_report_changes_it_once(
    how: str, passed: int, project: pytest.Pytester
) -> None:
    """On the host. With the change inside, a failed test passed: the host counts before or after
    its own change.
    """
    project.makeconftest(f"""
        import pytest

        @pytest.{how}
        def pytest_runtest_logreport(report):
            if report.when == "call":
                report.outcome = "failed" if report.passed else "passed"
                report.longrepr = "not known to pass" if report.failed else None
            {"return (yield)" if "wrapper" in how else ""}
    """)
    project.makepyfile("def test_a(): assert 0\ndef test_b(): pass\ndef test_c(): pass\n")
    both = run_both(project, "-rA", "-p", "no:randomly")
    assert both.inside.ret == both.host.ret == 1
    for result in both.inside, both.host:
        result.assert_outcomes(passed=passed, failed=3 - passed)


def test_a_hook_that_changes_a_report_as_it_is_shown_changes_no_count(
    project: pytest.Pytester,
) -> None:
    """pytest has counted the failure by then. With the change inside, the test passed."""
    project.makeconftest("""
        def pytest_report_teststatus(report):
            if report.when == "call" and report.failed:
                report.outcome = "passed"
                return "known", "k", "KNOWN"
    """)
    project.makepyfile("def test_it(): assert 0")
    both = run_both(project, "-p", "no:randomly")
    assert both.inside.ret == both.host.ret == 1
    assert both.inside.parseoutcomes() == both.host.parseoutcomes() == {"known": 1}


def test_a_test_may_stop_the_clock_at_the_last_second_of_all(project: pytest.Pytester) -> None:
    """A fixture that stops it does so for pytest's own times, too."""
    project.makepyfile("""
        import datetime, pytest

        @pytest.fixture(autouse=True)
        def stopped(monkeypatch):
            last = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc).timestamp()
            monkeypatch.setattr("_pytest.timing.time", lambda: last)

        def test_passes():
            pass

        def test_fails(record_property):
            record_property("so that the report", "is no short one")
            assert 0
    """)
    inside(project).assert_outcomes(passed=1, failed=1)


def test_a_property_has_the_text_that_it_has_on_the_host(project: pytest.Pytester) -> None:
    """Numbers of numpy's are of such types, too."""
    project.makepyfile("""
        import decimal, pathlib

        def test_it(record_property):
            record_property("path", pathlib.Path("a/b"))
            record_property("parts", [decimal.Decimal("0.5"), b"c"])
            record_property("number", decimal.Decimal("0.5"))
    """)
    told = []
    for where in (), ("--no-gvisor",):
        inside(project, "--junitxml=report.xml", *where).assert_outcomes(passed=1)
        found = ET.parse(project.path / "report.xml").iter("property")
        told.append({one.get("name"): one.get("value") for one in found})
    names = ("path", "number")
    assert [told[0][name] for name in names] == [told[1][name] for name in names] == ["a/b", "0.5"]


def test_a_hook_may_add_a_section_to_a_failure(project: pytest.Pytester) -> None:
    """Its line may repeat several characters."""
    project.makeconftest("""
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport():
            report = yield
            if report.failed:
                report.longrepr.addsection("Page", "of the browser", sep="=-")
            return report
    """)
    project.makepyfile("def test_fails(): assert 0")
    both = run_both(project)
    assert plain(both.inside) == plain(both.host)
    both.inside.stdout.fnmatch_lines(["*=-=- Page =-=-*", "of the browser"])


def test_a_warning_may_be_another_exception_too(project: pytest.Pytester) -> None:
    """Python makes an `OSError` in another way than most warnings."""
    project.makepyfile("""
        import warnings

        class NoDisk(UserWarning, OSError):
            pass

        def test_warns():
            warnings.warn("slow", NoDisk)

        def test_next():
            pass
    """)
    both = run_both(project)
    assert plain(both.inside) == plain(both.host)
    both.inside.assert_outcomes(passed=2, warnings=1)


@pytest.mark.parametrize("wish", ["shouldstop", "shouldfail"])
@pytest.mark.parametrize(("place", "option"), [("hook", "-v"), ("test", "-x")])
def test_a_hook_or_test_ends_the_session_as_on_the_host(
    place: str, option: str, wish: str, project: pytest.Pytester
) -> None:
    """Else all tests ran, and those that passed made the session green."""
    stops = f"\n    if item.name == 'test_it[1]': item.session.{wish} = 'enough'\n"
    if place == "hook":
        project.makeconftest(f"def pytest_runtest_makereport(item):{stops}")
        stops = "pass"
    project.makepyfile(
        "import pytest\n"
        "@pytest.fixture\n"
        "def item(request): return request.node\n"
        "@pytest.mark.parametrize('number', range(9))\n"
        f"def test_it(number, item): {stops}"
    )
    both = run_both(project, option, "-p", "no:randomly")
    assert plain(both.inside) == plain(both.host)
    assert both.inside.ret == both.host.ret != 0
    both.inside.assert_outcomes(passed=2)
