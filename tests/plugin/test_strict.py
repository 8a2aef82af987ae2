"""``--gvisor-strict``: what would be skipped fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
def test_without_runsc_everything_that_needs_it_fails(shared: Project, missing: Path) -> None:
    """No runsc is a failure with the path, and with what to do."""
    shared.test(TEST)
    ran = shared.run("--gvisor-strict", f"--gvisor-runsc={missing}").ends(skipped=1, errors=3)
    ran.shows(f"there is no runsc at {missing}", "apt-get install runsc").hides("During handling")
