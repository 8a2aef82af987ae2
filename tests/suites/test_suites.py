"""The test suites of real projects, unmodified: inside gVisor each test ends as on the host."""

import pytest

from pytest_gvisor import Platform
from tests.suites.compare import SUITES, compare


@pytest.mark.parametrize("suite", [name for name in SUITES if not SUITES[name].get("long")])
def test_a_suite_of_others_ends_as_on_the_host(suite: str, gvisor_platform: Platform) -> None:
    """Each test and phase ends alike, apart from the listed ones with their causes."""
    compare(suite, gvisor_platform)


@pytest.mark.gvisor(platform=Platform.SYSTRAP)
@pytest.mark.parametrize("suite", [name for name in SUITES if SUITES[name].get("long")])
def test_a_long_suite_of_others_does_on_one_platform(suite: str, gvisor_platform: Platform) -> None:
    """A long suite gives the same results; one platform is enough, as each takes half a minute."""
    compare(suite, gvisor_platform)
