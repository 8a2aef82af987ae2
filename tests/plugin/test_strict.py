"""``--gvisor-strict``: tests that would be skipped fail."""

import json
import textwrap
from pathlib import Path

import pytest

from tests.plugin.conftest import Project

TEST = """
    import pytest

    @pytest.mark.requires_kvm
    def test_kvm():
        pass

    @pytest.mark.gvisor(platform="kvm")
    def test_gvisor(gvisor):
        pass

    @pytest.mark.skip(reason="the author's own")
    def test_skipped(gvisor):
        pass

    def test_works(gvisor):
        pass
"""


def test_a_platform_that_does_not_work_fails_its_tests(project: Project, no_kvm: str) -> None:
    """Each of them fails at set-up with the cause; an author's own skip stays one."""
    project.test(TEST, conftest=no_kvm)
    project.run().ends(passed=1, skipped=3)
    ran = project.run("--gvisor-strict").ends(passed=1, skipped=1, errors=2)
    ran.shows(", network none, strict")
    ran.shows("platform kvm is not available here: no device: there is no /nonexistent/kvm")
    ran.shows("--gvisor-strict: this would be a skip otherwise").hides("During handling")


@pytest.mark.fault("A14")
def test_without_runsc_everything_that_needs_it_fails(here: Project, no_runsc: str) -> None:
    """A missing runsc is a failure that names the searched places and a remedy."""
    here.test(TEST, conftest=no_runsc)
    ran = here.run("--gvisor-strict").ends(skipped=1, errors=3)
    ran.shows("runsc was not found: ", "apt-get install runsc").hides("During handling")


INSIDE = """
    def test_one():
        pass

    def test_two():
        pass
"""
NOTHING = "NOTHING RAN UNDER GVISOR: all 2 tests for it were skipped: "


@pytest.mark.fault("A14")
@pytest.mark.parametrize("where", ["option", "addopts"])
def test_who_asks_for_gvisor_by_option_gets_it_or_an_error(
    project: Project, no_runsc: str, where: str
) -> None:
    """Without runsc `--in-gvisor` is no green session; with the ini key it is, and says so."""
    project.test(INSIDE, conftest=no_runsc)
    asked = ["--in-gvisor"]
    if where == "addopts":
        project.write({"pytest.ini": "[pytest]\naddopts = --in-gvisor\n"})
        asked = []
    ran = project.run(*asked).ends(errors=2)
    ran.shows("runsc was not found: ", "with -o in_gvisor=true in its place").hides(NOTHING)
    project.write({"pytest.ini": "[pytest]\n"})
    ran = project.run("-o", "in_gvisor=true").exits(0)
    assert ran.output.splitlines()[-1].startswith(f"gVisor: {NOTHING}runsc was not found")


@pytest.mark.fault("A14")
def test_nothing_that_ran_under_gvisor_is_the_last_line(here: Project, no_runsc: str) -> None:
    """Where the project or a fixture asks, tests are skipped; one that ran is enough."""
    here.test("def test_one(gvisor): pass\ndef test_two(runsc, gvisor): pass", conftest=no_runsc)
    assert NOTHING in here.run("-q").exits(0).output.splitlines()[-1]
    here.test(INSIDE).write({"pytest.ini": "[pytest]\nin_gvisor = true\n"})
    assert NOTHING in here.run().exits(0).output.splitlines()[-1]
    here.run("--gvisor-strict").ends(errors=2).hides(NOTHING)
    here.run("--no-gvisor").ends(passed=2).hides(NOTHING)


def test_of_one_platform_too_who_asks_gets_it_or_an_error(here: Project, no_kvm: str) -> None:
    """Some of several platforms may be missing, and so may one that a marker names."""
    here.test(INSIDE, conftest=no_kvm)
    here.run("--in-gvisor", "--gvisor-platform=kvm").ends(errors=2).shows("-o in_gvisor=true")
    here.run("-o", "in_gvisor=true", "--gvisor-platform=kvm").shows(NOTHING)
    ran = here.run("--in-gvisor", "--gvisor-platform=kvm,ptrace")
    ran.ends(passed=2, skipped=2).hides(NOTHING)
    ran = here.run("--in-gvisor", "--gvisor-platform=native,kvm").ends(passed=2, errors=2)
    ran.shows("kvm: 2 error; kvm cannot be used: no device").hides("platforms differ")
    marked = "import pytest\npytestmark = pytest.mark.gvisor(platform='kvm')\n"
    here.test(marked + textwrap.dedent(INSIDE))
    here.run("--in-gvisor").exits(0).shows(NOTHING)


XFAIL = """
    import pytest

    pytestmark = pytest.mark.xfail(reason="known")

    @pytest.mark.gvisor(platform="kvm")
    def test_platform(gvisor):
        assert 0

    @pytest.mark.gvisor(image="nowhere:none")
    def test_docker(gvisor):
        assert 0

    @pytest.mark.xfail(strict=True)
    def test_docker_in_the_call(gvisor_image):
        gvisor_image("nowhere:none")

    @pytest.mark.requires_kvm
    def test_required():
        assert 0

    @pytest.mark.in_gvisor
    @pytest.mark.gvisor(platform="kvm")
    def test_inside():
        assert 0

    def test_known(gvisor):
        assert 0
"""


def test_an_authors_own_xfail_excuses_no_lack(here: Project, no_kvm: str) -> None:
    """A lack of a platform or docker is no expected failure, in set-up and call."""
    here.test(XFAIL, conftest=no_kvm)
    report = {"DOCKER_HOST": f"unix://{here.folder}/none"}
    here.run("--gvisor-report=r.json", **report).ends(skipped=5, xfailed=1)
    assert states(here) == {"test_known": "xfailed", **dict.fromkeys(LACKING, "unavailable")}
    ran = here.run("--gvisor-report=r.json", "--gvisor-strict", **report)
    ran.ends(errors=4, failed=1, xfailed=1).shows("(--gvisor-strict: this would be a skip")
    assert states(here) == {"test_known": "xfailed", **dict.fromkeys(LACKING, "error")}


@pytest.mark.fault("A14")
def test_an_authors_own_xfail_does_not_excuse_want_of_runsc(
    here: Project, no_runsc: str, missing: Path
) -> None:
    """A missing runsc excuses neither a test with workloads nor one that requests the binary."""
    here.test(
        """
        import pytest

        @pytest.mark.xfail
        def test_gvisor(gvisor): ...

        @pytest.mark.xfail
        def test_runsc(runsc): ...
    """,
        conftest=no_runsc,
    )
    here.run().ends(skipped=2)
    here.run("--gvisor-strict").ends(errors=2).shows("runsc was not found: ")
    ran = here.run(f"--gvisor-runsc={missing}").ends(errors=2)
    ran.shows(f"there is no runsc at {missing}")


LACKING = ("test_platform", "test_docker", "test_inside")


def states(project: Project) -> dict[str, str]:
    """The state of each test in the report that was written."""
    rows = json.loads((project.folder / "r.json").read_text())["tests"]
    return {row["test"].partition("::")[2]: row["cells"][0]["state"] for row in rows}
