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


def test_there_are_none_otherwise(alone: Project) -> None:
    """An ordinary run warns of nothing."""
    alone.test(TEST).run("-W", "default").ends(passed=1)


def test_a_filter_can_make_an_error_of_it_or_ignore_it(project: Project) -> None:
    """The public name of the class serves in filters, in a file or on the command line."""
    project.write({"pytest.ini": "[pytest]\nfilterwarnings =\n    error\n"})
    project.test(TEST, conftest=LEAKING).run().ends(passed=1, errors=1).shows("not removed:")
    ignored = "ignore:not removed:pytest_gvisor.PytestGvisorWarning"
    project.run("-W", ignored).ends(passed=1)


def test_a_bundle_from_elsewhere_warns_of_nothing(alone: Project) -> None:
    """Changes to a foreign bundle are in its notes, and no warning."""
    alone.test("""
        import json
        from pytest_gvisor import Bundle

        def test_it(gvisor, oci_bundle):
            made = oci_bundle(["echo", "hello"])
            path = f"{made.path}/config.json"
            with open(path) as file:
                config = json.load(file)
            config["process"]["terminal"] = True
            config["linux"]["maskedPaths"] = ["/proc/kcore"]
            config["root"]["path"] = str(made.spec.root.path).removeprefix(made.path + "/")
            with open(path, "w") as file:
                json.dump(config, file)
            opened = Bundle.open(made.path, allow_dangerous=True)
            assert len(opened.notes) == 2
            assert gvisor.run_bundle(opened).stdout == "hello\\n"
    """)
    alone.run().ends(passed=1)
