"""What pytest lists: ``--help``, ``--markers``, ``--fixtures``, ``--collect-only``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.conftest import Project

OPTIONS = (
    "platform",
    "network",
    "runsc",
    "strict",
    "timeout",
    "rootless",
    "image",
    "debug",
    "keep",
    "report",
    "reprobe",
)
FIXTURES = {
    "gvisor": "Runs workloads under gVisor",
    "gvisor_platform": "The platform that this test runs on",
    "oci_bundle": "Factory: writes an OCI bundle",
    "runsc": "The validated runsc",
}


def test_help_names_each_option_its_variable_and_its_ini_key(alone: Project) -> None:
    """Every option says where else it may be written, and the group which source is stronger."""
    text = re.sub(r"\s+", " ", alone.run("--help").exits(0).output)
    assert "(precedence: marker, command line, environment, ini file, default)" in text
    for option in OPTIONS:
        assert f"--gvisor-{option}" in text
        assert f"Environment: PYTEST_GVISOR_{option.upper()}." in text
        if option not in {"debug", "reprobe"}:
            assert f"Ini: gvisor_{option}." in text
            assert re.search(rf" gvisor_{option} \((string|args|float|bool)\): ", text)


def test_markers_are_listed_with_their_arguments(alone: Project) -> None:
    """``--markers`` describes all four, and names what the gvisor marker takes."""
    ran = alone.run("--markers").exits(0)
    line = ran.line("@pytest.mark.gvisor(")
    for name in ("platform", "network", "netns", "runsc", "timeout", "rootless", "memory", "pids",
                 "cpus", "max_output", "sha256"):  # fmt: skip
        assert name in line
    for name in ("requires_runsc", "requires_kvm", "requires_platform(name)"):
        assert ran.line(f"@pytest.mark.{name}: ")


def test_fixtures_are_listed_with_their_docstrings(alone: Project) -> None:
    """``--fixtures`` shows what each fixture is for, and that runsc is for the session."""
    text = alone.run("--fixtures").exits(0).output
    for name, doc in FIXTURES.items():
        assert re.search(rf"^{name}( \[session scope\])? -- .*\n    {doc}", text, re.MULTILINE)
    assert re.search(r"^runsc \[session scope\] -- ", text, re.MULTILINE)


@pytest.mark.parametrize("option", ["--setup-plan", "--setup-show", "--fixtures-per-test"])
def test_plans_of_a_session_can_be_shown(alone: Project, option: str) -> None:
    """pytest's other listings name the fixtures and platforms."""
    alone.test("def test_it(gvisor): pass")
    ran = alone.run(option, "--gvisor-platform=systrap,ptrace").exits(0)
    ran.shows("gvisor_platform").hides("INTERNALERROR")


def test_collection_needs_no_runsc(shared: Project, missing: Path) -> None:
    """Tests can be listed on a machine that has no runsc."""
    shared.test("def test_it(gvisor): pass")
    ran = shared.run("--collect-only", "-q", f"--gvisor-runsc={missing}", "--gvisor-platform=all")
    for platform in ("systrap", "kvm", "ptrace"):
        ran.exits(0).shows(f"test_it.py::test_it[{platform}]")
