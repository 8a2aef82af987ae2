"""Hints of tests inside that lack something of the host, by the text of the failure.

The remedy is pasted. Tracebacks have no frame of ours.
"""

import re
import socket

import pytest

from tests.inside.conftest import inside

TEST = """
import socket, pytest

def test_service():
    socket.create_connection(("127.0.0.1", {port})).close()

def test_fixture(broken):
    pass
"""
TOLD = (
    "This sandbox has no network, and its 127.0.0.1 is its own. To have the host's: "
    "--gvisor-network=host (or ini gvisor_network)"
)
CONFTEST = """
import pytest

@pytest.fixture
def broken():
    raise ValueError("mine")
"""


def test_a_service_of_the_host_is_out_of_reach_and_the_remedy_is_named(
    project: pytest.Pytester,
) -> None:
    """The hint is whole, and the option in it lets the same test pass."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        project.makepyfile(TEST.format(port=service.getsockname()[1]))
        project.makeconftest(CONFTEST)
        failed = inside(project)
        failed.assert_outcomes(failed=1, errors=1)
        failed.stdout.fnmatch_lines(["*- gvisor: network -*", TOLD])
        inside(project, "--gvisor-network=host", "-k", "test_service").assert_outcomes(passed=1)
    text = failed.stdout.str()
    assert "value = yield" not in text
    assert text.count("gvisor: network") == 1


def pasted(failed: pytest.RunResult) -> list[str]:
    """The options that a failure's hints name."""
    lines = [line for line in failed.outlines if " (or ini gvisor_" in line]
    return [word for line in lines for word in re.sub(r"^.*?: | \(or .*", "", line).split()]
