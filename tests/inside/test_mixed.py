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
