"""Reports of passed phases from their short form, which says only what differs from test to test.

Most reports of most suites are such ones, see guest/passed.py. Does no input or output.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_gvisor.inside import rules
from pytest_gvisor.inside.fields import location, phase

_TIMES = rules.tuple_of(rules.seconds, rules.seconds, rules.seconds)
_KEYWORDS = rules.list_of(rules.text)


class Reviver:
    """Makes the reports of one session's passed phases."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._hook = config.hook.pytest_report_from_serializable
        self._nodeid = ""
        self._location: tuple[str, int | None, str] | None = None
        self._keywords: dict[str, Any] = {}

    def revive(self, short: Any, nodeid: str) -> pytest.TestReport:
        """Make the report of a short form, under the host's node id for the test.

        Raises `ProtocolError` for data of another shape.
        """
        with rules.reading("a passed phase from inside that cannot be one"):
            if "location" in short:
                self._location = location(short["location"])
                self._keywords = dict.fromkeys(_KEYWORDS(short["keywords"]), 1)
                self._nodeid = nodeid
            if self._location is None or self._nodeid != nodeid:
                raise ValueError("a test without a location")
            duration, start, stop = _TIMES(short["times"])
            fields: dict[str, Any] = {
                "nodeid": nodeid,
                "location": self._location,
                "keywords": {**self._keywords},
                "outcome": "passed",
                "longrepr": None,
                "when": phase(short["when"]),
                "sections": [],
                "duration": max(0.0, duration),
                "start": start,
                "stop": stop,
                "user_properties": [],
                "$report_type": "TestReport",
            }
            report = self._hook(config=self._config, data=fields)
            if not isinstance(report, pytest.TestReport):
                raise TypeError(f"a plugin here makes {type(report)} of a report")
            return report
