"""`PytestGvisorWarning`: notes for a reader, which fail nothing by themselves."""

import pytest

import pytest_gvisor
from tests.plugin.conftest import Project

TEST = """
    def test_it(gvisor):
        assert gvisor.run(["echo", "hello"]).stdout == "hello\\n"
"""
# A conftest.py's text: the removal of every sandbox leaves something, as far as it can tell.
LEAKING = """
from pytest_gvisor.run.supervisor import Supervisor

real = Supervisor.clean

def clean(self):
    return (*real(self), "/run/something")

Supervisor.clean = clean
"""


def test_it_is_a_warning_of_pytests() -> None:
    """Filters for pytest's own warnings take it along."""
    assert issubclass(pytest_gvisor.PytestGvisorWarning, pytest.PytestWarning)


def test_what_a_run_leaves_behind_is_a_warning(project: Project) -> None:
    """Something that could not be removed is named; the verdict on the test stands."""
    ran = project.test(TEST, conftest=LEAKING).run("-W", "default").ends(passed=1, warnings=1)
    ran.shows("PytestGvisorWarning: not removed: /run/something")


def test_a_filter_can_make_an_error_of_it_or_ignore_it(alone: Project) -> None:
    """The public name of the class serves in filters, in a file or on the command line."""
    alone.write({"pytest.ini": "[pytest]\nfilterwarnings =\n    error\n"})
    alone.test(TEST, conftest=LEAKING).run().ends(passed=1, errors=1).shows("not removed:")
    ignored = "ignore:not removed:pytest_gvisor.PytestGvisorWarning"
    alone.run("-W", ignored).ends(passed=1)
