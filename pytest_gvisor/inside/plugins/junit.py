"""The bridge for ``record_testsuite_property`` and ``record_xml_attribute`` of pytest's own JUnit
report.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from _pytest.junitxml import LogXML, bin_xml_escape, xml_key

from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

_MOST_PROPERTIES = 10_000
_MOST_TEXT = 4 * 1024 * 1024
# ElementTree writes the name of an attribute unchanged.
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_OWN = frozenset({"classname", "file", "line", "name", "xmlns"})
"""The attributes that tell the test, and the one that would make another kind of element of it."""


def find(config: pytest.Config, bounds: SessionBounds) -> rules.Take | None:
    """Return the end of the bridge if the host writes a report."""
    xml = config.stash.get(xml_key, None)
    return None if xml is None else Junit(xml, bounds).take


class Junit:
    """The report of the host. The workers of xdist have none, as on the host."""

    def __init__(self, xml: LogXML, bounds: SessionBounds) -> None:
        self._xml = xml
        self._bounds = bounds
        self._count = self._size = 0

    def take(self, data: Any, sender: rules.Sender | None) -> None:
        """Add a property of the suite, or an attribute of the test that runs."""
        name, value = map(rules.exact_text, (data["name"], data["value"]))
        self._count += 1
        self._size += len(name) + len(value)
        if self._count > _MOST_PROPERTIES or self._size > _MOST_TEXT:
            self._bounds.drop("properties of the JUnit report")
        elif "id" not in data:
            self._xml.add_global_property(bin_xml_escape(name), value)
        elif sender is None or data["id"] != sender.inner or sender.over:
            raise ValueError("an attribute of a test that does not run")
        elif not _ATTRIBUTE.fullmatch(name):
            self._bounds.drop("attributes of the JUnit report whose name XML has not")
        elif name in _OWN:
            self._bounds.drop("attributes of the JUnit report that tell the test (classname, name)")
        else:
            self._xml.node_reporter(sender.item.nodeid).add_attribute(name, value)
