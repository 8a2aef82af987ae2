"""Tests inside and on the host in one run: each side's fixtures live as long as they should."""

from __future__ import annotations

import pytest

FILE = """
import pytest

@pytest.fixture(scope="module")
def shared():
    open({log!r}, "a").write("up {name}\\n")
    yield
    open({log!r}, "a").write("down {name}\\n")
    {after}

def test_host(shared):
    pass

@pytest.mark.in_gvisor
def test_inside():
    pass

@pytest.mark.in_gvisor
def test_inside_too():
    pass
"""


def test_what_the_host_has_set_up_is_torn_down_where_its_module_ends(
    project: pytest.Pytester,
) -> None:
    """Behind the module's last test, also where that is inside; and a teardown that fails is an
    error."""
    log = str(project.path / "log")
    for name, after in (("a", "pass"), ("b", "pass"), ("c", "assert False")):
        path = project.path / f"test_{name}.py"
        path.write_text(FILE.format(log=log, name=name, after=after))
    result = project.runpytest_subprocess("-p", "no:xdist", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=9, errors=1)
    with open(log, encoding="utf-8") as file:
        assert file.read().split("\n")[:-1] == [
            "up a", "down a", "up b", "down b", "up c", "down c",
        ]  # fmt: skip


def test_what_the_host_has_judged_is_not_judged_again_inside(project: pytest.Pytester) -> None:
    """Where there is no runsc and no nested platform: no skip, and no look for either."""
    project.makeconftest(
        """
        import os

        if os.uname().release == "4.4.0":
            from pytest_gvisor import header

            def line(config): raise AssertionError("looks for runsc inside")

            header.line = line
        """
    )
    project.makepyfile(
        """
        import os, pytest

        @pytest.mark.requires_runsc
        @pytest.mark.requires_platform("ptrace")
        def test_required(): assert os.uname().release == "4.4.0"

        @pytest.mark.parametrize("name", ["gvisor", "runsc", "gvisor_image"])
        def test_asks(name, request): request.getfixturevalue(name)
        """
    )
    result = project.runpytest_subprocess("--in-gvisor", "--gvisor-strict", "--gvisor-timeout=50")
    assert result.parseoutcomes() == {"passed": 1, "failed": 3}
    result.stdout.fnmatch_lines(["*runsc cannot be had inside gVisor*"])
