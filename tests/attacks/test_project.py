"""A project whose ini file or hooks leave tests on the host that are to run inside."""

import sys
from pathlib import Path

import pytest

from tests.attacks.conftest import RunInside

INSIDE = ("--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider")
TEST = """
import os

def test_it():
    assert "gvisor" in os.uname().release
"""


@pytest.mark.parametrize(
    "name", ["pytest_gvisor.inside.hooks", "gvisor-arrivals", "gvisor-early", "gvisor-report"]
)
def test_no_part_of_the_plugin_is_blocked_alone(
    name: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Without the part, tests ran on the host with status 0, or no report was written."""
    project.makepyfile(TEST)
    project.makeini(f"[pytest]\naddopts = -p no:{name}\n")
    result = run_inside("--gvisor-report=report.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*-p no:{name} blocks a part of the plugin. Write -p no:gvisor*"])


MARKS = """
import pytest

def pytest_{hook}:
    for item in {items}:
        item.add_marker(pytest.mark.in_gvisor)
"""


@pytest.mark.parametrize(
    ("hook", "items", "outcome"),
    [
        ("collection_modifyitems(items)", "items", "passed"),
        ("runtestloop(session)", "session.items", "errors"),
        ("runtest_setup(item)", "[item]", "failed"),
    ],
)
def test_no_test_that_a_hook_has_marked_runs_on_the_host(
    hook: str, items: str, outcome: str, project: pytest.Pytester
) -> None:
    """A mark of a collection hook counts, and with one that comes later the test fails."""
    project.makepyfile(TEST)
    project.makeconftest(MARKS.format(hook=hook, items=items))
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(**{outcome: 1})
    if outcome != "passed":
        result.stdout.fnmatch_lines(["*this test is to run inside, and is known too late*"])


def test_no_test_that_a_fixture_has_marked_runs_on_the_host(project: pytest.Pytester) -> None:
    """The mark comes in the setup of the test itself."""
    project.makepyfile(TEST)
    project.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True)
        def marked(request):
            request.applymarker(pytest.mark.in_gvisor)
    """)
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*this test is to run inside, and is known too late*"])


RUNS = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_{hook}:
    for item in {items}:
        runtestprotocol(item, nextitem=None)
    return True
"""


@pytest.mark.parametrize(
    ("hook", "items"),
    [("runtest_protocol(item)", "[item]"), ("runtestloop(session)", "session.items")],
)
def test_no_test_inside_is_run_on_the_host_by_a_hook_of_the_project(
    hook: str, items: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Such a hook ran all tests on the host, and the report had them in a sandbox's column."""
    project.makepyfile("def test_it(): pass")
    project.makeconftest(RUNS.format(hook=hook, items=items))
    result = run_inside()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*this test is to run inside, and a hook runs it on the host*"])


CALLS = """
import pytest

def pytest_runtestloop(session):
    for item in session.items:
        call = pytest.CallInfo.from_call(item.obj, "call")
        report = item.ihook.pytest_runtest_makereport(item=item, call=call)
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


@pytest.mark.parametrize("body", ["pass", "pytest.skip()", "pytest.xfail()"])
def test_no_test_inside_that_a_loop_of_the_project_calls_itself_has_passed(
    body: str, project: pytest.Pytester, run_inside: RunInside
) -> None:
    """Such a loop ran all tests on the host, and the report had them in a sandbox's column."""
    project.makepyfile(f"import pytest\n\ndef test_it(): {body}\n")
    project.makeconftest(CALLS)
    result = run_inside()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*to run inside, and a hook has called it on the host*"])


def test_a_first_hook_of_the_project_is_called_for_each_test_inside(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The hook comes before what runs the test, as on the host, also if it returns None."""
    project.makepyfile("def test_it(): pass\ndef test_more(): pass")
    project.makeconftest("""
        import os
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item):
            if "PYTEST_GVISOR_INSIDE" not in os.environ:
                print("about to run", item.name)
    """)
    result = run_inside("-s")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*about to run test_it*", "*about to run test_more*"])


def test_no_test_inside_runs_twice_where_a_hook_of_the_project_has_another_order(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """The tests ran ahead in the usual order, and the second try of such a test was reported."""
    project.makepyfile("""
        import pytest

        tried = set()

        @pytest.mark.parametrize("number", range(12))
        def test_it(number):
            is_first = number not in tried
            tried.add(number)
            assert number != 7 or not is_first
    """)
    project.makeconftest("""
        def pytest_runtestloop(session):
            order = [*range(6), 10, *range(6, 10), 11]
            items = [session.items[number] for number in order]
            for item, following in zip(items, [*items[1:], None]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            return True
    """)
    run_inside().assert_outcomes(passed=11, failed=1)


def test_no_death_of_a_test_that_is_not_wanted_is_an_expected_failure(
    project: pytest.Pytester, run_inside: RunInside
) -> None:
    """A test that ran ahead ends the sandbox; the one that comes in its place never began."""
    project.makepyfile("""
        import os, pytest

        expected = pytest.mark.gvisor(xfail={"systrap": "so", "ptrace": "so"})

        @pytest.mark.parametrize("number", [0, 1, pytest.param(2, marks=expected)])
        def test_it(number):
            if number == 1:
                os._exit(1)
    """)
    project.makeconftest("""
        def pytest_runtestloop(session):
            for number in (0, 2):
                item = session.items[number]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=session.items[1])
            return True
    """)
    result = run_inside()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the sandbox was lost in this test's setup*"])


SETS = """
os.environ["PYTEST_GVISOR_INSIDE"] = f"{os.uname().release} {os.uname().version}"
"""
CLEARS = """
import pytest

@pytest.fixture(autouse=True, scope="session")
def clear():
    os.environ.clear()
"""


@pytest.mark.parametrize("changes", [SETS, CLEARS], ids=["sets", "clears"])
def test_no_variable_that_a_test_changes_decides_where_tests_run(
    changes: str, project: pytest.Pytester
) -> None:
    """A file that set the mark of a pytest inside ran on the host, and a cleared one failed."""
    project.makeini("[pytest]\nin_gvisor = true\n")
    project.makepyfile(TEST + changes)
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("mark", "ini", "status"),
    [("in_gvisor", "", 4), ("skipif(False, reason='')", "in_gvisor = true", 4), ("no", "", 0)],
)
def test_no_worker_without_the_plugin_runs_tests_unseen(
    mark: str, ini: str, status: int, project: pytest.Pytester
) -> None:
    """Tests that were to run inside ran on the machine of such a worker, and all was green."""
    project.makeini(f"[pytest]\n{ini}\n")
    project.makepyfile(f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    without = "popen//env:PYTEST_ADDOPTS=-pno:gvisor"
    result = project.runpytest_subprocess("--tx", without, "--dist=load", "-p", "no:cacheprovider")
    assert result.ret == status
    if status:
        result.stderr.fnmatch_lines(["*worker gw0 on this machine has not loaded this plugin*"])


def test_no_other_test_runs_in_the_place_of_one_that_the_host_alone_has(
    project: pytest.Pytester,
) -> None:
    """The only test without parameters inside ran as it, and it passed."""
    project.makepyfile("""
        import os
        import pytest

        if "PYTEST_GVISOR_INSIDE" not in os.environ:
            @pytest.mark.in_gvisor
            def test_it(): assert 0

        def test_other(): pass
    """)
    result = project.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_it was collected here and not inside the sandbox*"])


@pytest.mark.parametrize("ini", ["in_gvisor = true", "addopts = --in-gvisor"])
def test_no_worker_without_the_ini_file_runs_tests_on_its_host(
    ini: str, project: pytest.Pytester, tmp_path: Path
) -> None:
    """Tests that were to run inside ran on the machine of such a worker, and all was green."""
    project.makeini(f"[pytest]\n{ini}\n")
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_it(): assert 'PYTEST_GVISOR_INSIDE' in os.environ\n"
    )
    worker = f"popen//chdir={tmp_path}"
    result = project.runpytest_subprocess("--tx", worker, "--dist=load", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(("options", "status"), [("-pno:gvisor", 4), ("", 0)])
def test_no_worker_without_the_plugin_is_lost_unseen(
    options: str, status: int, project: pytest.Pytester
) -> None:
    """A worker that crashed after its last test was not asked for the plugin."""
    project.makeconftest("""
        import os

        def pytest_sessionfinish(session):
            if hasattr(session.config, "workerinput"):
                os._exit(0)
    """)
    project.makepyfile("""
        import pytest

        @pytest.mark.in_gvisor
        def test_it(subtests):
            with subtests.test():
                pass
    """)
    worker = f"popen//env:PYTEST_ADDOPTS=-pno:cacheprovider {options}"
    result = project.runpytest_subprocess(
        "--tx", worker, "--dist=load", "--max-worker-restart=0", "-p", "no:cacheprovider"
    )
    assert result.ret == status


def test_a_project_that_makes_the_data_of_reports_itself_has_the_plugin(
    project: pytest.Pytester,
) -> None:
    """Its data has no attribute of ours. The run was an error after all tests had passed."""
    project.makeconftest("""
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_report_to_serializable(report):
            data = {"$report_type": type(report).__name__, **report._to_json()}
            return {name: data[name] for name in data if not name.startswith("gvisor")}
    """)
    project.makepyfile("import pytest\n@pytest.mark.in_gvisor\ndef test_it(): pass")
    report = "--gvisor-report=r.md"
    result = project.runpytest_subprocess("-n1", "-p", "no:cacheprovider", report)
    result.assert_outcomes(passed=1)
    assert result.ret == 0
    assert "gw0: its reports have lost our data" in (project.path / "r.md").read_text()


def test_options_that_choose_by_id_know_the_platform_of_a_test_inside(
    project: pytest.Pytester,
) -> None:
    """With `--nf` one platform of each test was never tried. `--lf` left out what had failed."""
    project.makepyfile(
        test_one="def test_bad(): assert 0\ndef test_good(): pass\n",
        test_two="import pytest\ndef test_host(runsc): assert 0\ndef test_bad(): assert 0\n",
    )
    inside = ("--in-gvisor", "--gvisor-strict", "--gvisor-platform=systrap,ptrace")
    for option, outcomes in ("--nf", {"failed": 5, "passed": 2}), ("--lf", {"failed": 5}):
        result = project.runpytest_subprocess(*inside, option)
        found = result.parseoutcomes()
        found.pop("deselected", 0)
        assert found == outcomes


@pytest.mark.parametrize(
    ("act", "option"), [("add_marker", "-m"), ("extra_keyword_matches.add", "-k")]
)
def test_a_mark_of_one_platform_chooses_no_other(
    project: pytest.Pytester, act: str, option: str
) -> None:
    """A hook marks one of the tests that are made of one, and an option leaves out that alone."""
    project.makeini("[pytest]\nmarkers = slow\n")
    project.makeconftest(f"""
        def pytest_collection_modifyitems(items):
            for item in items:
                if "ptrace" in item.nodeid:
                    item.{act}("slow")
    """)
    project.makepyfile("def test_it(): pass\n")
    inside = ("--in-gvisor", "--gvisor-strict", "--gvisor-platform=systrap,ptrace")
    result = project.runpytest_subprocess(*inside, option, "not slow", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, deselected=1)


def test_no_mark_of_a_hook_is_without_effect(project: pytest.Pytester) -> None:
    """A hook asks for another sandbox, or platform. The test would run where all others do."""
    project.makeconftest("""
        import pytest

        def pytest_collection_modifyitems(items):
            first, fresh, platform = items
            fresh.add_marker(pytest.mark.in_gvisor(fresh=True))
            platform.add_marker(pytest.mark.gvisor(platform="ptrace"))
    """)
    project.makepyfile("""
        import os

        def test_first(): open("/tmp/shared", "w").close()
        def test_fresh(): assert not os.path.exists("/tmp/shared")
        def test_platform(): pass
    """)
    result = project.runpytest_subprocess(*INSIDE, "--gvisor-platform=systrap")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*test_platform*runs on systrap, though a marker asks for ptrace*"]
    )


def test_a_part_of_the_tests_that_a_hook_takes_is_the_host_s(project: pytest.Pytester) -> None:
    """Inside, a hook that takes each second test has fewer of them to choose from."""
    project.makeconftest("""
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_modifyitems(items):
            items[:] = items[1::2]
    """)
    project.makepyfile("\n".join(f"def test_{name}(): pass" for name in "abcdef"))
    result = project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider", "-k", "not test_b"
    )
    result.assert_outcomes(passed=2, deselected=1)


CHANGES = """
import pytest

def broken(*args):
    assert False

@pytest.fixture
def breaks():
    yield
    assert False

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items[:] = items[1::2]
    for item in items:
        if "strict" in item.name:
            item.add_marker(pytest.mark.xfail(strict=True))
        if "other" in item.name:
            item.own_markers = [pytest.mark.xfail(strict=True).mark]
        if "uses" in item.name:
            item.fixturenames.append("breaks")
        if "wrapped" in item.name:
            item.obj = broken
        if "method" in item.name:
            item.runtest = broken
"""


def test_no_test_that_a_hook_has_marked_here_runs_without_its_marks(
    project: pytest.Pytester,
) -> None:
    """Inside, the hook has left it out before, so that it would not fail there."""
    project.makeconftest(CHANGES)
    names = ("a", "b", "c", "strict", "d", "e", "f", "uses", "g", "wrapped", "h", "method")
    text = "".join(f"def test_{name}(): pass\n" for name in names)
    project.makepyfile(
        f"import pytest\n{text}test_i = test_a\ntest_other = pytest.mark.xfail(test_h)"
    )
    result = project.runpytest_subprocess(*INSIDE, "-p", "no:randomly", "-k", "not test_b")
    result.assert_outcomes(passed=1, errors=5, deselected=1)
    result.stdout.fnmatch_lines(["*::test_strict: left out by a hook inside, and changed here*"])


def test_a_part_of_the_tests_has_the_fixtures_that_a_hook_gives_each_of_them(
    project: pytest.Pytester,
) -> None:
    """The tests that are made of one for two platforms share the list to which the hook adds."""
    project.makeconftest("""
        import pytest

        @pytest.fixture
        def more():
            pass

        def pytest_collection_modifyitems(items):
            for item in items:
                item.fixturenames.append("more")
            items[:] = items[1::2]
    """)
    project.makepyfile("\n".join(f"def test_{name}(): pass" for name in "abcd"))
    platforms = "--gvisor-platform=systrap,ptrace"
    project.runpytest_subprocess(*INSIDE, platforms).assert_outcomes(passed=4)


def test_a_hook_that_reads_how_tests_were_chosen_reads_the_same_inside(
    project: pytest.Pytester,
) -> None:
    """Without the option there, it skipped each test that the user had asked for."""
    project.makeini("[pytest]\nmarkers = slow\n")
    project.makeconftest("""
        import pytest

        def pytest_collection_modifyitems(config, items):
            if not (config.getoption("-m") or config.getoption("-k")):
                for item in items:
                    item.add_marker(pytest.mark.skip(reason="give -m slow"))
    """)
    project.makepyfile("""
        import pytest

        @pytest.mark.slow
        def test_slow(): pass

        def test_it(): pass
    """)
    for option in ("-m", "-k"):
        result = project.runpytest_subprocess(*INSIDE, option, "slow")
        result.assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize("option", ["in_gvisor", "gvisor_platform", "gvisor_strict", "gvisor_user"])
def test_no_hook_that_reads_where_tests_run_is_without_effect_inside(
    option: str, project: pytest.Pytester
) -> None:
    """Without the option there, it marked the tests on the host alone, where none of them runs."""
    project.makeconftest(f"""
        import pytest

        def pytest_collection_modifyitems(config, items):
            if config.getoption("{option}"):
                items[0].add_marker(pytest.mark.skip)
                items[1].add_marker(pytest.mark.xfail(strict=True))
    """)
    project.makepyfile("def test_skip(): pass\ndef test_strict(): pass\n")
    options = ("--gvisor-platform=systrap", "--gvisor-user=caller")
    project.runpytest_subprocess(*INSIDE, *options).assert_outcomes(skipped=1, failed=1)


COPIES = """
import copy
import pytest

@pytest.hookimpl({when})
def pytest_collection_modifyitems(items):
    twin = copy.copy(items[0])
    if hasattr(pytest.Item, "_id"):
        twin._id = type(twin._id).parse(items[0].nodeid + "_copy")
    else:
        twin._nodeid = items[0].nodeid + "_copy"
    twin.obj, items[0].obj = [lambda: 1 / 0, lambda: None][::{step}]
    items.append(twin)
"""


@pytest.mark.parametrize("when", ["", "tryfirst=True"])
@pytest.mark.parametrize("step", [1, -1])
def test_no_copy_of_a_test_that_a_hook_has_made_runs_in_its_place(
    when: str, step: int, project: pytest.Pytester
) -> None:
    """One of the two ran twice, and the other, which fails, was reported as passed."""
    project.makeconftest(COPIES.format(when=when, step=step))
    project.makepyfile("def test_it(): pass")
    project.runpytest_subprocess(*INSIDE).assert_outcomes(passed=1, failed=1)


@pytest.mark.parametrize("mark", ["gvisor(forbid=['exec'])", "in_gvisor(user='root')"])
def test_no_mark_for_its_sandbox_that_a_test_gets_in_its_setup_is_without_effect(
    mark: str, project: pytest.Pytester
) -> None:
    """The host, which starts and judges the sandbox, does not know of it."""
    project.makepyfile(f"""
        import pytest

        @pytest.fixture
        def marked(request):
            request.applymarker(pytest.mark.{mark})

        @pytest.mark.in_gvisor(fresh=False)
        def test_it(marked): pass

        def test_more(): pass
    """)
    result = project.runpytest_subprocess(*INSIDE)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*got a mark for its sandbox in its setup*"])


@pytest.mark.parametrize(
    "own", ["@pytest.fixture\ndef runsc(): pass", "@pytest.mark.parametrize('runsc', [1])"]
)
def test_nothing_else_of_the_name_of_a_fixture_keeps_a_test_on_the_host(
    own: str, project: pytest.Pytester
) -> None:
    """Such a test was taken for one that uses a sandbox itself."""
    project.makepyfile(f"""import os, pytest
{own}
def test_it(runsc):
    assert "PYTEST_GVISOR_INSIDE" in os.environ
""")
    project.runpytest_subprocess(*INSIDE).assert_outcomes(passed=1)


def test_a_test_that_is_named_and_deselected_is_no_error_inside(
    project: pytest.Pytester,
) -> None:
    """Inside, pytest found no function of the name that the argument has, and ran no test."""
    project.makepyfile("def test_one(): pass\ndef test_two(): pass\n")
    (path,) = project.path.glob("test_*.py")
    names = [f"{path.name}::test_one", f"{path.name}::test_two"]
    result = project.runpytest_subprocess(*INSIDE, *names, "-k", "two")
    result.assert_outcomes(passed=1, deselected=1)


def test_a_module_that_is_skipped_inside_alone_says_why(project: pytest.Pytester) -> None:
    """Its tests were collected here, so they are errors with its reason."""
    project.makepyfile("""
        import os
        import pytest

        if "gvisor" in os.uname().release:
            pytest.skip("needs the host", allow_module_level=True)

        def test_it(): pass
    """)
    result = project.runpytest_subprocess(*INSIDE)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs the host*"])


CHECK = """
import sys
import pytest

class Check:
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if getattr(sys, "leaks", False):
            report.outcome, report.longrepr = "failed", "it leaks"
        return report

pytest_runtest_makereport = Check().pytest_runtest_makereport
"""
MAIN = """
import sys
import check
import pytest

sys.exit(pytest.main(sys.argv[1:], plugins=[{plugin}]))
"""


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        ("check.Check()", "*has an object with pytest_runtest_makereport, which would not be*"),
        ("check", "*1 failed*"),
        ("'check'", "*1 failed*"),
    ],
)
def test_no_plugin_that_a_program_gives_is_left_out_inside(
    plugin: str, told: str, project: pytest.Pytester
) -> None:
    """The plugin fails the test on the host. Inside there was none, and the test passed."""
    project.makepyfile(
        check=CHECK,
        program=MAIN.format(plugin=plugin),
        test_it="import sys\n\ndef test_it():\n    sys.leaks = True\n",
    )
    result = project.run(sys.executable, "program.py", *INSIDE)
    assert result.ret != pytest.ExitCode.OK
    output = [*result.outlines, *result.errlines]
    pytest.LineMatcher(output).fnmatch_lines([told])


QUARANTINE = """
import pytest

failed = []

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and "flaky" not in item.name:
        failed.append(item)
    return report

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    yield
    if session.exitstatus == 1 and not failed:
        session.exitstatus = session.testsfailed = 0
"""


@pytest.mark.parametrize(
    ("body", "arguments", "status"),
    [
        ("assert 0", (), 1),
        ("os._exit(0)", (), 1),
        ("assert 0", ("-k", "flaky"), 0),
        # A sandbox without failures hears how many there were in others.
        ("pass", ("--gvisor-isolation=test",), 0),
    ],
)
def test_no_failure_passes_that_a_hook_inside_alone_knows(
    body: str, arguments: tuple[str, ...], status: int, project: pytest.Pytester
) -> None:
    """The hook has counted failures inside, and none here, where it let the session pass."""
    project.makeconftest(QUARANTINE)
    project.makepyfile(f"""
        import os

        def test_flaky(): assert 0
        def test_it(): {body}
    """)
    result = project.runpytest_subprocess(*INSIDE, *arguments)
    assert result.ret == status
    told = "*gvisor: ERROR: a hook let the failures pass here, and none did so inside*"
    result.stdout.fnmatch_lines([told] if status else ["*1 failed*"])
