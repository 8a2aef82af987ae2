"""``--gvisor-platform``: the platforms of the tests, and the tests' ids."""

import re

import pytest

from tests.fakes.fake import FakeRunsc
from tests.plugin.conftest import Project, Ran

ONE = """
    from pytest_gvisor import is_gvisor_kernel

    def test_it(gvisor, gvisor_platform):
        done = gvisor.run(["uname", "-r"], check=True)
        assert done.platform == gvisor.platform == gvisor_platform
        assert f"--platform {gvisor_platform}" in done.command
        assert is_gvisor_kernel(done.stdout.strip())

    def test_without_a_sandbox(runsc):
        assert runsc.platforms
"""


def ids(ran: Ran) -> list[str]:
    """The ids of the tests that were run or listed, sorted."""
    return sorted(set(re.findall(r"test_it\.py::(\S+)", ran.output)))


@pytest.mark.parametrize(("option", "shown"), [("auto", "systrap"), ("ptrace", "ptrace")])
def test_one_platform_runs_each_test_once(here: Project, option: str, shown: str) -> None:
    """A single platform adds nothing to the ids; ``auto`` is systrap."""
    ran = here.test(ONE).run("-v", "--gvisor-platform", option).ends(passed=2)
    assert ids(ran) == ["test_it", "test_without_a_sandbox"]
    ran.shows(f", {shown}, network none")


def test_each_of_two_platforms_runs_each_test_that_uses_a_sandbox(project: Project) -> None:
    """Two platforms make two tests, each with its platform in its id, of those with a sandbox."""
    ran = project.test(ONE).run("-v", "--gvisor-platform", "systrap,ptrace").ends(passed=3)
    assert ids(ran) == ["test_it[ptrace]", "test_it[systrap]", "test_without_a_sandbox"]
    ran.shows("), systrap, ptrace, network none")


@pytest.mark.parametrize(
    "args",
    [
        ["--gvisor-platform=ptrace", "--gvisor-platform", "systrap"],
        ["--gvisor-platform=ptrace,ptrace", "--gvisor-platform", "systrap, ptrace"],
        ["-o", "gvisor_platform=ptrace, systrap"],
    ],
    ids=["repeated", "named twice", "ini"],
)
def test_a_list_may_be_written_in_several_ways_and_keeps_its_order(
    here: Project, args: list[str]
) -> None:
    """The option adds up when repeated, a second mention is dropped, spaces do not matter."""
    ran = here.test(ONE).run("--collect-only", "-q", *args).exits(0)
    assert re.findall(r"test_it\[\w+\]", ran.output) == ["test_it[ptrace]", "test_it[systrap]"]


def test_all_skips_what_does_not_work_here_and_says_why(here: Project, no_kvm: str) -> None:
    """``all`` makes a test a platform; one without its device is skipped for that reason."""
    ran = here.test(ONE, conftest=no_kvm).run("-v", "--gvisor-platform", "all")
    ran.ends(passed=3, skipped=1)
    assert ids(ran) == [
        "test_it[kvm]", "test_it[ptrace]", "test_it[systrap]", "test_without_a_sandbox",
    ]  # fmt: skip
    ran.shows("platform kvm is not available here: no device: there is no /nonexistent/kvm")


def test_what_works_here_does_not_change_what_is_collected(project: Project, no_runsc: str) -> None:
    """Without a runsc the same tests are collected, in the same order, and all are skipped."""
    args = ("--gvisor-platform", "all")
    listing = project.test(ONE).run("--collect-only", "-q", *args).exits(0)
    found = re.findall(r"^test_it.*$", listing.output, re.MULTILINE)
    assert found == [
        "test_it.py::test_it[systrap]", "test_it.py::test_it[kvm]", "test_it.py::test_it[ptrace]",
        "test_it.py::test_without_a_sandbox",
    ]  # fmt: skip
    project.test(ONE, conftest=no_runsc)
    without = project.run("--collect-only", "-q", *args).exits(0)
    assert re.findall(r"^test_it.*$", without.output, re.MULTILINE) == found
    assert ids(project.run("-v", *args).ends(skipped=4)) == ids(listing)


def test_a_platform_that_no_binary_lists_is_a_usage_error_that_names_theirs(
    project: Project, fake: FakeRunsc
) -> None:
    """A misspelt one too; before any worker is started, and where pytest shows no header."""
    fake.script(platforms=["systrap", "kvm", "slimvm"])
    args = (f"--gvisor-runsc={fake.path}", "--gvisor-platform", "systrap,slimwm", "-q")
    ran = project.test(ONE).run(*args).exits(pytest.ExitCode.USAGE_ERROR).hides("workers")
    ran.shows("--gvisor-platform: platform='slimwm' is not one of systrap, kvm, ptrace, and no ")
    ran.shows("runsc of this run lists it: there are kvm, slimvm, systrap")


MISSPELT = {
    "marker": '@pytest.mark.gvisor(platform="sytrap")\ndef test_it(gvisor): pass',
    "required": '@pytest.mark.requires_platform("sytrap")\ndef test_it(): pass',
    "expected": '@pytest.mark.gvisor(xfail={"sytrap": "x"})\ndef test_it(gvisor_platform): pass',
    "inside": '@pytest.mark.in_gvisor\n@pytest.mark.gvisor(platform="sytrap")\ndef test_it(): pass',
    "direct": '@pytest.mark.parametrize("gvisor_platform", ["sytrap"])\ndef test_it(gvisor): pass',
    "indirect": "@pytest.mark.parametrize('gvisor_platform', ['sytrap'], indirect=True)\n"
    "def test_it(gvisor): pass",
    "factory": 'def test_it(gvisor_sandboxes): gvisor_sandboxes("sytrap")',
}


@pytest.mark.parametrize("place", MISSPELT)
def test_a_misspelt_platform_is_an_error_wherever_it_stands(here: Project, place: str) -> None:
    """A misspelt platform is an error of its test, and never a skip."""
    here.write({"test_it.py": f"import pytest\n{MISSPELT[place]}\n"})
    ran = here.run().exits(pytest.ExitCode.TESTS_FAILED).hides("skipped", "three sandboxes")
    ran.shows("='sytrap' is not one of systrap, kvm, ptrace, and no runsc of this run lists it")
    if place != "factory":
        ran.shows("test_it.py::test_it" + "[sytrap]" * ("direct" in place) + " (test_it.py:")


def test_a_marker_has_the_last_word_on_platforms(here: Project) -> None:
    """``platform=`` of a marker replaces the command line's list, for better and for fewer."""
    here.test("""
        import pytest

        @pytest.mark.gvisor(platform="ptrace")
        def test_one(gvisor_platform):
            assert gvisor_platform == "ptrace"

        @pytest.mark.gvisor(platform=["systrap", "ptrace"])
        def test_two(gvisor_platform):
            pass

        @pytest.mark.gvisor(platform="systrap,ptrace")
        class TestBoth:
            def test_two(self, gvisor_platform):
                pass

            @pytest.mark.gvisor(platform="systrap")
            def test_one(self, gvisor_platform):
                assert gvisor_platform == "systrap"

        def test_rest(gvisor_platform):
            assert gvisor_platform == "ptrace"
    """)
    ran = here.run("-v", "--gvisor-platform", "ptrace").ends(passed=7)
    assert ids(ran) == [
        "TestBoth::test_one", "TestBoth::test_two[ptrace]", "TestBoth::test_two[systrap]",
        "test_one", "test_rest", "test_two[ptrace]", "test_two[systrap]",
    ]  # fmt: skip


def test_a_marker_that_comes_after_the_variants_is_no_silent_loss(here: Project) -> None:
    """pytest makes the variants of a function before it looks at the marks of parameters."""
    here.test("""
        import pytest

        ptrace = pytest.mark.gvisor(platform="ptrace")

        @pytest.mark.parametrize("n", [1, pytest.param(2, marks=ptrace)])
        def test_it(gvisor_platform, n):
            pass

        @pytest.mark.gvisor(platform="systrap")
        @pytest.mark.parametrize("gvisor_platform", ["ptrace"], indirect=True)
        def test_own(gvisor_platform):
            pass
    """)
    run = ["--gvisor-platform", "systrap,ptrace"]
    ran = here.run(*run, "-W", "default").ends(passed=5, warnings=1)
    ran.shows("test_it[systrap-2] (test_it.py:6) runs on systrap, though a marker asks for ptrace")
    ran.hides("test_own[ptrace] (")
    here.run(*run, "--gvisor-strict").ends(passed=4, errors=1)


def test_a_hook_that_chooses_the_platform_is_no_marker_that_comes_late(here: Project) -> None:
    """No marker shows what a hook of the project has chosen in its place."""
    chooses = """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("gvisor_platform", ["ptrace"], indirect=True)
    """
    here.test("def test_it(gvisor_platform): pass", conftest=chooses)
    here.run("--gvisor-platform", "systrap", "--gvisor-strict").ends(passed=1)


def test_a_test_may_parametrize_its_platform_itself(here: Project, no_kvm: str) -> None:
    """Direct or indirect, by string or enum, alone or beside others: as written, and checked."""
    here.test(
        """
        import pytest
        from pytest_gvisor import Platform

        @pytest.mark.parametrize("gvisor_platform", ["systrap", "kvm"], indirect=True)
        def test_indirect(gvisor):
            assert gvisor.run(["true"]).platform is Platform.SYSTRAP

        @pytest.mark.parametrize("gvisor_platform", ["ptrace", "kvm"])
        def test_direct(gvisor):
            assert gvisor.run(["true"]).platform is Platform.PTRACE

        @pytest.mark.parametrize("n, gvisor_platform", [(1, Platform.PTRACE)])
        class TestIt:
            def test_both(self, gvisor, n):
                assert (gvisor.platform, n) == ("ptrace", 1)

        @pytest.mark.parametrize("n", [7])
        def test_other(gvisor_platform, n):
            pass
        """,
        conftest=no_kvm,
    )
    ran = here.run("-v", "--gvisor-platform", "systrap,ptrace").ends(passed=5, skipped=2)
    assert ids(ran) == [
        "TestIt::test_both[1-ptrace]", "test_direct[kvm]", "test_direct[ptrace]",
        "test_indirect[kvm]", "test_indirect[systrap]", "test_other[ptrace-7]",
        "test_other[systrap-7]",
    ]  # fmt: skip
    ran.shows("platform kvm is not available here: no device")


ALONE = {
    "unittest": """
        import unittest
        import pytest

        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def take(self, gvisor):
                self.gvisor = gvisor

            def test_it(self):
                assert self.gvisor.run(["true"]).platform == "ptrace"
        """,
    "doctest": """
        def it():
            \"\"\"
            >>> str(getfixture("gvisor_platform"))
            'ptrace'
            \"\"\"
        """,
    "getfixturevalue": """
        def test_it(request):
            assert request.getfixturevalue("gvisor_platform") == "ptrace"
        """,
}


@pytest.mark.parametrize("kind", ALONE)
def test_what_pytest_does_not_parametrize_says_where_it_does_not_run(
    alone: Project, kind: str
) -> None:
    """A test that pytest does not parametrize runs on one platform and warns; strict, it fails."""
    alone.write({"test_it.py": ALONE[kind], "pytest.ini": "[pytest]\naddopts = -ra\n"})
    args = ("--doctest-modules", "--gvisor-platform", "ptrace,systrap")
    ran = alone.run(*args).ends(passed=1, warnings=1)
    ran.shows("PytestGvisorWarning: ", "runs on ptrace alone, and not on systrap")
    ran = alone.run(*args, "--gvisor-strict").exits(1)
    ran.shows("runs on ptrace alone, and not on systrap").hides("PytestGvisorWarning")
    alone.run("--doctest-modules", "--gvisor-platform", "ptrace").ends(passed=1)
