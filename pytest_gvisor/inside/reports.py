"""Messages from the pytest inside, as pytest's own objects again. Everything in them is untrusted.

JSON turns tuples into lists, and pytest relies on some being tuples: a skip's ``longrepr``, the
``location``, each of ``sections`` and ``user_properties``.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.escape import escape

_OUTCOMES = frozenset({"passed", "failed", "skipped", "rerun"})
_PHASES = frozenset({"setup", "call", "teardown"})
# Where pytest 9.2 keeps a report's node id, and what xdist's controller adds.
_HOSTS = frozenset({"_id", "node", "worker_id", "testrun_uid", "item_index"})
# What pytest raises for kinds of reports and of entries in a traceback that it does not know.
_PYTESTS = (AssertionError, RuntimeError)
_LONGEST_CAUSE = 300
_LONGEST = 1e11  # seconds: a duration, or a time since 1970


class Text(TerminalRepr):
    """A representation that reached us as text: pytest takes the first line of a plain string for
    the failure's message, and no message for a representation without one, as on the host.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write it as it is."""
        tw.line(self.text)


def revive(config: pytest.Config, message: dict[str, Any], nodeid: str) -> pytest.TestReport:
    """The report in a message, under the node id that the host has for the test.

    Raises `ProtocolError` for one that is not the report of a test's phase.
    """
    try:
        fields = _checked(message.get("data"))
        fields["nodeid"] = nodeid
        report = config.hook.pytest_report_from_serializable(config=config, data=fields)
        _restore_subtest(report, fields)
        if isinstance(report.longrepr, str) and not message.get("plain"):
            report.longrepr = Text(report.longrepr)
        if report.longrepr is not None:
            str(report.longrepr)  # what can be written now can be written later
    except (LookupError, TypeError, ValueError, AttributeError, *_PYTESTS) as error:
        text = escape(repr(error))[:_LONGEST_CAUSE]
        raise ProtocolError(f"a report from inside that cannot be one: {text}") from error
    if not isinstance(report, pytest.TestReport):
        raise ProtocolError(f"a report from inside that no plugin here knows: {type(report)}")
    return report


def _restore_subtest(report: object, fields: dict[str, Any]) -> None:
    """Undo the second repr of a subtest's arguments, which pytest takes whenever it makes one."""
    arguments = fields.get("_subtest.context", {}).get("kwargs")
    context = getattr(report, "context", None)
    if isinstance(arguments, dict) and context is not None:
        texts = {str(name): str(text) for name, text in arguments.items()}
        object.__setattr__(context, "kwargs", texts)


def _checked(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise TypeError("not an object")
    if data["outcome"] not in _OUTCOMES or data["when"] not in _PHASES:
        raise ValueError(f"outcome {data['outcome']!r} of phase {data['when']!r}")
    for name in ("duration", "start"):
        if not isinstance(data[name], int | float) or not abs(data[name]) < _LONGEST:
            raise TypeError(f"{name} is {data[name]!r:.50}")
    if not isinstance(data["keywords"], dict):
        raise TypeError("keywords are no object")
    path, line, domain = data["location"]
    if not isinstance(line, int | None):
        raise TypeError("a location without a line")
    sections = [(str(title), str(text)) for title, text in data["sections"]]
    properties = [(str(name), value) for name, value in data.get("user_properties", [])]
    fields = {name: value for name, value in data.items() if not _is_the_hosts(name)}
    fields["location"] = (str(path), line, str(domain))
    if "wasxfail" in fields:
        fields["wasxfail"] = str(fields["wasxfail"])
    fields |= {"sections": sections, "user_properties": properties}
    fields["duration"] = max(0.0, data["duration"])
    longrepr = data.get("longrepr")
    if isinstance(longrepr, dict) and not {"reprcrash", "reprtraceback"} <= set(longrepr):
        raise TypeError("an incomplete traceback")
    if not isinstance(longrepr, dict | list | str | None):
        raise TypeError(f"longrepr is {type(longrepr).__name__}")
    if isinstance(longrepr, list):
        where, number, reason = longrepr
        fields["longrepr"] = (str(where), int(number), str(reason))
    return fields


def _is_the_hosts(name: str) -> bool:
    """Whether a field would hide what a report has here: all of them become its attributes."""
    return name in _HOSTS or hasattr(pytest.TestReport, name)


def warn(config: pytest.Config, message: dict[str, Any], nodeid: str) -> None:
    """Record a warning from inside in the host's summary.

    Its category is looked up among what is imported here; nothing is imported or called for it.
    """
    category: type[Warning] = UserWarning
    found: Any = sys.modules.get(str(message.get("module")))
    for part in str(message.get("name")).split("."):
        found = inspect.getattr_static(found, part, None)
    if isinstance(found, type) and issubclass(found, Warning):
        category = found
    line = message.get("lineno")
    recorded = warnings.WarningMessage(
        message=str(message.get("text")),
        category=category,
        filename=str(message.get("filename")),
        lineno=line if isinstance(line, int) else 0,
    )
    where = message.get("location")
    location = _location(where)
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": recorded,
            "nodeid": nodeid,
            "when": str(message.get("when")),
            "location": location,
        }
    )


def _location(where: Any) -> tuple[str, int, str] | None:
    if not isinstance(where, list) or len(where) != 3 or not isinstance(where[1], int):
        return None
    return str(where[0]), where[1], str(where[2])


def made_up(item: pytest.Item, when: str, text: str, duration: float) -> pytest.TestReport:
    """A failed report for a phase whose own report never came."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when=when,  # type: ignore[arg-type]
        sections=[],
        duration=duration,
    )
