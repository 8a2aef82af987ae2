"""Data that a plugin gathers in the tests' process arrive on the host."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inside.conftest import Both

RunBoth = Callable[..., Both]
RunInside = Callable[..., pytest.RunResult]


def test_junit(project: pytest.Pytester, run_inside: RunInside) -> None:
    """Properties of the suite, from its last teardown too, and attributes of a test."""
    project.makeini("[pytest]\njunit_family = xunit1\n")
    project.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def recorded(record_testsuite_property):
            yield record_testsuite_property
            record_testsuite_property("torn down", "<yes>")

        def test_properties(recorded, record_xml_attribute):
            recorded("ARCH", "PPC\\x1b[0m")
            recorded("number", 5)
            record_xml_attribute("assertions", 3)
            with pytest.raises(TypeError):
                recorded(5, "not a name")

        def test_other():
            pass
    """)
    found = []
    for more in ((), ("--no-gvisor",)):
        done = run_inside("-p", "no:randomly", "--junitxml=out.xml", *more)
        written = ET.fromstring(Path(project.path / "out.xml").read_text())
        names = [(one.get("name", ""), one.get("value")) for one in written.iter("property")]
        properties = [named for named in names if not named[0].startswith("gvisor")]
        tests = [(one.get("name"), one.get("assertions")) for one in written.iter("testcase")]
        found.append((properties, tests, done.ret, done.parseoutcomes()))
    assert found[0] == found[1]
    assert found[0][0][0] == ("ARCH", "PPC#x1B[0m")
    assert len(found[0][0]) == 3
    assert found[0][1] == [("test_properties", "3"), ("test_other", None)]
