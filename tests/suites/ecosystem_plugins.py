"""Plugins that people use, for `make ecosystem`: a tiny project for each shows the same inside."""

from pathlib import Path

import pytest

from pytest_gvisor import Platform
from tests.suites.plugin_projects import PROJECTS, compare


@pytest.mark.gvisor(platform=Platform.SYSTRAP)
@pytest.mark.parametrize("plugin", PROJECTS)
def test_a_plugin_does_inside_what_it_does_on_the_host(
    plugin: str, tmp_path: Path, gvisor_platform: Platform
) -> None:
    """Output, outcomes, exit status and files are alike, apart from the listed differences."""
    asked = ("--in-gvisor", "--gvisor-strict", "--gvisor-platform", gvisor_platform)
    compare(plugin, tmp_path / "project", *asked)
