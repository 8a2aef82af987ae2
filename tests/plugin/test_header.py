"""The header line, and the costs that a session without gVisor does not have."""

import tempfile
from pathlib import Path

import pytest

from pytest_gvisor import Runsc
from tests.plugin.conftest import Project

# A conftest.py's text: writes down what of the heavy modules each process of the run has imported.
IMPORTS = """
import sys
from pathlib import Path

HEAVY = ("docker", "pytest_gvisor.run", "pytest_gvisor.oci", "pytest_gvisor.runsc",
         "pytest_gvisor.harness", "pytest_gvisor.plugin.sections", "ctypes")

def pytest_unconfigure(config):
    found = [name for name in HEAVY if name in sys.modules]
    with Path(__file__).with_name("imported").open("a") as file:
        file.write(f"{found}\\n")
"""

USES = ["test_it(gvisor)", "test_it(gvisor_platform)", "test_it(runsc)"]


def header(runsc: Runsc) -> str:
    """The line's start, up to the platforms."""
    return f"gvisor: runsc {runsc.version} ({runsc.path}), "


def test_an_idle_session_says_nothing_and_imports_nothing(project: Project) -> None:
    """Tests that do not use gVisor: no line, and none of the package's heavy parts, nor docker."""
    project.test("def test_it(): pass", conftest=IMPORTS)
    ran = project.run().ends(passed=1).hides("gvisor:")
    assert set(ran.lines("imported")) == {"[]"}
    assert len(ran.lines("imported")) == (3 if project.distributed else 1)


def test_the_line_of_a_configured_session(project: Project, runsc: Runsc) -> None:
    """A setting on the command line is in pytest's header, in exactly this form."""
    ran = project.test("def test_it(): pass").run("--gvisor-network=none").ends(passed=1)
    assert ran.line("gvisor:") == header(runsc) + "systrap, network none"
    above, _, _ = ran.output.partition("rootdir:")
    assert "gvisor: runsc" in above


@pytest.mark.parametrize("use", USES)
def test_the_line_comes_after_the_collection_where_nothing_is_configured(
    here: Project, runsc: Runsc, use: str
) -> None:
    """A test that uses gVisor is reason enough for the line, and the collection has to find it."""
    ran = here.test(f"def {use}: pass").run().ends(passed=1)
    assert ran.line("gvisor:") == header(runsc) + "systrap, network none"
    above, _, below = ran.output.partition("collected 1 item")
    assert "gvisor:" not in above
    assert "gvisor:" in below


def test_all_that_is_configured_is_in_the_line(here: Project, runsc: Runsc) -> None:
    """Several platforms, the network and strictness are named."""
    args = ("--gvisor-platform=ptrace,kvm", "--gvisor-network=host", "--gvisor-strict")
    ran = here.test("def test_it(): pass").run(*args).ends(passed=1)
    assert ran.line("gvisor:") == header(runsc) + "ptrace, kvm, network host, strict"


def test_a_runsc_that_cannot_be_used_is_in_the_line_and_fails_nothing_by_that(
    project: Project, missing: Path, insecure: Path
) -> None:
    """A missing or refused binary does not affect a test that uses none."""
    project.test("def test_it(): pass")
    ran = project.run(f"--gvisor-runsc={missing}").ends(passed=1)
    assert ran.line("gvisor:").startswith(f"gvisor: there is no runsc at {missing}")
    ran = project.run(f"--gvisor-runsc={insecure}").ends(passed=1)
    assert ran.line("gvisor:").startswith(f"gvisor: refusing to run {insecure} (mode 0777, owner")


def test_a_folder_for_sessions_that_is_passed_over_is_in_the_line_and_fails_nothing(
    here: Project, tmp_path: Path
) -> None:
    """The line says where the sessions are instead, and why; each test has its sandbox."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as short:
        here.test(
            "def test_it(gvisor): gvisor.run(['true'])\ndef test_too(gvisor): gvisor.run(['true'])",
            conftest="from pytest_gvisor.sessions import session_folder\n"
            f"bases = '{tmp_path}/open/x', '{short}/s'\n"
            "session_folder.session_bases = lambda: iter(bases)",
        )
        line = here.run("--gvisor-network=none").ends(passed=2).line("gvisor:")
        assert f"; sessions are in {short}/s, because of {tmp_path}/open/x: the folder" in line
        assert "can be written by others" in line


def test_no_folder_for_sessions_is_in_the_line_and_fails_only_who_needs_one(
    here: Project, tmp_path: Path
) -> None:
    """A test without a sandbox passes, and the error of the other names each candidate."""
    here.test(
        "def test_it(gvisor): gvisor.run(['true'])\ndef test_too(): pass",
        conftest="from pytest_gvisor.sessions import session_folder\n"
        f"session_folder.session_bases = lambda: iter(['{tmp_path}/none/x'])",
    )
    ran = here.run("--gvisor-network=none").ends(passed=1, errors=1)
    assert "no folder can hold sessions" in ran.line("gvisor:")
    ran.shows(f"cannot reach {tmp_path}/none")


def test_a_path_cannot_write_into_the_line(here: Project, missing: Path) -> None:
    """Control characters in a path are written out."""
    ran = here.test("def test_it(): pass").run(f"--gvisor-runsc={missing}\x1b[2J\n= 1 failed in 1s")
    assert r"\x1b[2J" in ran.ends(passed=1).hides("\x1b").line("gvisor:")


def test_quiet_output_has_no_line(here: Project) -> None:
    """``-q`` has no header; the list of ``--collect-only -q`` is for programs to read."""
    here.test("def test_it(gvisor): pass")
    here.run("-q").ends(passed=1).hides("gvisor:")
    assert here.run("--collect-only", "-q").exits(0).output.startswith("test_it.py::test_it\n")
