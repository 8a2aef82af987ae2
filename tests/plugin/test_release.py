"""``gvisor_release`` and ``requires_runsc(">=…")``: another release is an error, no skip."""

from pathlib import Path

import pytest

from tests.plugin.conftest import Project

EVERY_WAY = """
    import pytest

    def test_fixture(runsc):
        pass

    def test_platform(gvisor_platform):
        pass

    def test_gvisor(gvisor):
        pass

    def test_sandboxes(gvisor_sandboxes):
        gvisor_sandboxes()

    @pytest.mark.in_gvisor
    def test_inside():
        pass

    @pytest.mark.xfail
    def test_expected(gvisor):
        pass

    def test_of_nothing():
        pass
"""


def ini(release: str) -> dict[str, str]:
    """A project that wants a release."""
    return {"pytest.ini": f"[pytest]\naddopts = -ra\ngvisor_release = {release}\n"}


@pytest.mark.parametrize("strict", [[], ["--gvisor-strict"]], ids=["", "strict"])
def test_a_release_that_the_project_does_not_want_is_an_error_of_each_test_with_a_sandbox(
    here: Project, older: Path, strict: list[str]
) -> None:
    """The error names the found release, the wanted one, and the command that installs that."""
    here.test(EVERY_WAY).write(ini(">=20260905"))
    ran = here.run(f"--gvisor-runsc={older}", "--gvisor-platform=ptrace", *strict)
    ran.ends(passed=1, failed=1, errors=5).hides("skipped")
    ran.shows(f"runsc 20240729.0 ({older.resolve()}) is not the release that the project asks for")
    ran.shows(">=20260905: it is not >=20260905")
    ran.shows("`pytest-gvisor install --release 20260905` installs one that is.")


def test_a_release_that_will_do_changes_nothing(here: Project, older: Path) -> None:
    """The floor of a project is of no other interest."""
    here.test("def test_it(gvisor): assert gvisor.run(['true']).returncode == 0")
    here.write(ini(">=20240729,<20250101"))
    here.run(f"--gvisor-runsc={older}").ends(passed=1)


def test_a_marker_may_ask_for_a_release(here: Project, older: Path) -> None:
    """A marker requires a release for its test alone, with a sandbox or without."""
    here.test("""
        import pytest

        @pytest.mark.requires_runsc(">=20260905")
        def test_newer():
            pass

        @pytest.mark.requires_runsc("<20260905")
        def test_older(gvisor_platform):
            pass

        @pytest.mark.requires_runsc(">=2024")
        def test_misspelt():
            pass
    """)
    ran = here.run(f"--gvisor-runsc={older}").ends(passed=1, errors=2).hides("skipped")
    ran.shows("is not the release that this test asks for, >=20260905: it is not >=20260905")
    ran.shows("`pytest-gvisor install --release 20260905` installs one that is.")
    ran.shows("requires_runsc='>=2024': '>=2024' is not one of >=, <=, ==, < and > before")


@pytest.mark.parametrize("release", ["2024", ">=20241399"])
def test_a_release_that_cannot_be_meant_is_a_usage_error(here: Project, release: str) -> None:
    """A senseless release is a usage error when the ini file is read."""
    here.test("def test_it(): pass").write(ini(release))
    ran = here.run().exits(pytest.ExitCode.USAGE_ERROR)
    ran.shows("pytest-gvisor: gvisor_release in ", f"release={release!r}: ")
