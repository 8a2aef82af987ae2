"""Larger parts of the suites of real projects, for `make ecosystem`."""

import pytest

from pytest_gvisor import Platform
from tests.suites.compare import SUITES, compare


@pytest.mark.gvisor(platform=Platform.SYSTRAP)
@pytest.mark.parametrize("suite", [name for name in SUITES if "whole" in SUITES[name]])
def test_a_whole_suite_of_others_ends_as_on_the_host(suite: str, gvisor_platform: Platform) -> None:
    """Each test and phase ends alike, apart from the listed ones with their causes."""
    compare(suite, gvisor_platform, "whole")
