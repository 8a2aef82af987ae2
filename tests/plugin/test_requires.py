"""``requires_runsc``, ``requires_kvm``, ``requires_platform``: availability, found out once."""

from tests.plugin.conftest import Project

TEST = """
    import pytest

    @pytest.mark.requires_runsc
    def test_runsc():
        pass

    @pytest.mark.requires_kvm
    def test_kvm():
        pass

    @pytest.mark.requires_platform("kvm")
    def test_platform():
        pass

    @pytest.mark.requires_platform("ptrace")
    @pytest.mark.requires_platform("kvm")
    class TestBoth:
        def test_two(self):
            pass

    @pytest.mark.requires_platform("ptrace")
    def test_ptrace():
        pass
"""

# A conftest.py's text: writes down each real probe, and who made it.
COUNTING = """
import os
from pathlib import Path
from pytest_gvisor.runsc import platforms

real = platforms.probe

def probe(platform, *args, **options):
    with Path(__file__).with_name("probes").open("a") as file:
        file.write(f"{os.getpid()} {platform}\\n")
    return real(platform, *args, **options, kvm_device="/nonexistent/kvm")

platforms.probe = probe
"""


def test_a_test_is_skipped_for_the_platform_that_is_missing(project: Project, no_kvm: str) -> None:
    """Every requirement of a test counts; the skip is at the test and has the cause."""
    ran = project.test(TEST, conftest=no_kvm).run().ends(passed=2, skipped=3)
    cause = (
        "platform kvm is not available here: no device: there is no /nonexistent/kvm; to mend it: "
        "pytest-gvisor doctor"
    )
    skips = [line for line in ran.output.splitlines() if line.startswith("SKIPPED")]
    assert [line.endswith(cause) for line in skips] == [True] * 3
    assert all(line.startswith("SKIPPED [1] test_it.py:") for line in skips)


def test_no_test_runs_before_its_requirements_are_met(here: Project, no_kvm: str) -> None:
    """Fixtures of a test whose requirement fails are not set up."""
    here.test(
        """
        import pytest

        @pytest.fixture(autouse=True)
        def costly():
            raise RuntimeError("was set up")

        @pytest.mark.requires_kvm
        def test_it():
            pass
        """,
        conftest=no_kvm,
    )
    here.run().ends(skipped=1)


def test_each_platform_is_probed_once_by_each_process(project: Project) -> None:
    """Many tests on three platforms, in one process or two: no process probes one twice."""
    project.write({"conftest.py": COUNTING})
    project.test("""
        import pytest

        @pytest.mark.parametrize("n", range(3))
        def test_it(gvisor, n):
            pass

        @pytest.mark.requires_kvm
        def test_kvm():
            pass

        @pytest.mark.requires_platform("systrap")
        def test_systrap():
            pass
    """)
    ran = project.run("--gvisor-platform", "systrap,ptrace,kvm").ends(passed=7, skipped=4)
    probes = ran.lines("probes")
    assert {probe.split()[1] for probe in probes} == {"kvm", "ptrace", "systrap"}
    assert len(probes) == len({*probes})
