"""Data that a plugin gathers in the tests' process arrive on the host."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inside.conftest import Both, plain

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


def test_live_log(project: pytest.Pytester, run_both: RunBoth) -> None:
    """Lines of ``log_cli`` are those of the host: from each phase, a thread, with a traceback."""
    project.makepyfile("""
        import logging, threading
        import pytest

        log = logging.getLogger("of.tests")

        @pytest.fixture
        def prepared():
            log.warning("set up")
            yield
            log.error("torn down")

        def test_logs(prepared):
            log.debug("not shown")
            log.info("first %s\\nsecond", 1, extra={"own": "mark"})
            thread = threading.Thread(target=log.info, args=("of a thread",))
            thread.start()
            thread.join()
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("failed")
            print("::error::captured")

        def test_is_silent():
            pass

        def test_fails():
            log.critical("before")
            assert 0
    """)
    line = "%(levelname)-8s %(name)s:%(lineno)d %(message)s"
    both = run_both("-p", "no:randomly", "--log-cli-level=INFO", "-o", f"log_cli_format={line}")
    assert plain(both.inside) == plain(both.host)
    both.inside.stdout.fnmatch_lines(["*live log setup*", "*live log call*", "*live log teardown*"])
    assert both.inside.parseoutcomes() == {"passed": 2, "failed": 1}
