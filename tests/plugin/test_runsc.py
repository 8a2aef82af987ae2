"""``--gvisor-runsc``: one binary without a search, and the tests without a binary."""

from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from tests.plugin.conftest import Project

EVERY_WAY = """
    import pytest

    def test_fixture(runsc):
        pass

    def test_platform(gvisor_platform):
        pass

    def test_gvisor(gvisor):
        pass

    @pytest.mark.requires_runsc
    def test_marked():
        pass

    @pytest.mark.requires_platform("ptrace")
    def test_platform_marked():
        pass

    def test_of_nothing():
        pass
"""


def test_the_path_is_used_and_shown_as_what_it_leads_to(
    here: Project, runsc: Runsc, tmp_path: Path
) -> None:
    """A link is followed: the header and the runs name the file itself."""
    link = tmp_path / "link"
    link.symlink_to(runsc.path)
    here.test(f"""
        def test_it(gvisor, runsc):
            assert runsc.path == {runsc.path!r}
            assert {runsc.path!r} in gvisor.run(["true"]).command
            assert gvisor.settings.runsc == {str(link)!r}
    """)
    ran = here.run(f"--gvisor-runsc={link}").ends(passed=1)
    ran.shows(f"({runsc.path}, named by a setting), systrap")


@pytest.mark.fault("A14")
def test_without_runsc_the_tests_that_need_it_are_skipped(project: Project, no_runsc: str) -> None:
    """Each way to use runsc is skipped with the list of places that were searched."""
    ran = project.test(EVERY_WAY, conftest=no_runsc).run().ends(passed=1, skipped=5)
    if not project.distributed:  # a controller collects nothing, and so looks for no binary
        ran.shows("gvisor: runsc was not found: ")
    skips = [line for line in ran.output.splitlines() if line.startswith("SKIPPED")]
    assert len(skips) == 5
    for line in skips:
        assert line.startswith("SKIPPED [1] test_it.py:"), "the skip is shown at its test"
        assert "runsc was not found: the trusted system paths" in line


@pytest.mark.fault("A14")
@pytest.mark.parametrize("way", ["option", "ini", "environment"])
def test_a_path_that_was_named_and_is_not_there_is_an_error(
    here: Project, missing: Path, way: str
) -> None:
    """A misspelt path is an error from each source, strict or not."""
    ini = f"gvisor_runsc = {missing}" if way == "ini" else ""
    here.test(EVERY_WAY).write({"pytest.ini": f"[pytest]\n{ini}\n"})
    args = [f"--gvisor-runsc={missing}"] if way == "option" else []
    environ = {"PYTEST_GVISOR_RUNSC": str(missing)} if way == "environment" else {}
    for strict in ([], ["--gvisor-strict"]):
        ran = here.run(*args, *strict, **environ).ends(passed=1, errors=5)
        ran.shows(f"gvisor: there is no runsc at {missing}", "apt-get install runsc")
        ran.hides("would be a skip", "During handling")


def test_a_marker_may_name_a_binary_for_one_test(here: Project, missing: Path) -> None:
    """The argument ``runsc=`` of a marker applies to its own test only."""
    here.test(f"""
        import pytest

        @pytest.mark.gvisor(runsc={str(missing)!r})
        def test_marked(gvisor):
            pass

        @pytest.mark.gvisor(runsc={str(missing)!r})
        @pytest.mark.requires_runsc
        def test_required():
            pass

        def test_other(gvisor):
            pass
    """)
    here.run().ends(passed=1, errors=2).shows(f"there is no runsc at {missing}")


@pytest.mark.fault("A13")
@pytest.mark.parametrize("strict", [[], ["--gvisor-strict"]], ids=["", "strict"])
def test_a_binary_that_is_refused_is_an_error_and_never_a_skip(
    here: Project, insecure: Path, strict: list[str]
) -> None:
    """A binary that everybody may write fails every test that needs it, strict or not."""
    ran = here.test(EVERY_WAY).run(f"--gvisor-runsc={insecure}", *strict)
    ran.ends(passed=1, errors=5).hides("engine.py", "fixtures.py")
    ran.shows("InsecureRunsc", f"refusing to run {insecure} (mode 0777, owner uid ")


@pytest.mark.parametrize("value", ["", "bin/runsc\\n"])
def test_a_path_that_cannot_be_meant_does_not_start_a_search(here: Project, value: str) -> None:
    """An empty path, as from a variable that is not set, is an error; another is looked for."""
    ran = here.test("def test_it(runsc): pass").run(f"--gvisor-runsc={value}", "--gvisor-strict")
    if value:
        ran.ends(errors=1)
    else:
        ran.exits(pytest.ExitCode.USAGE_ERROR).shows("--gvisor-runsc: runsc='' is not a path")
