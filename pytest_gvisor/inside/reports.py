"""Messages from the pytest inside, as pytest's own objects again. Everything in them is untrusted.

JSON turns tuples into lists, and pytest relies on some being tuples: a skip's ``longrepr``, the
``location``, each of ``sections`` and ``user_properties``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.report.sections import escape_report, safe, safe_but_colour

_OUTCOMES = frozenset({"passed", "failed", "skipped", "rerun"})
_PHASES = frozenset({"setup", "call", "teardown"})
# Where pytest 9.2 keeps a report's node id, and what xdist's controller adds.
_HOSTS = frozenset({"_id", "node", "worker_id", "testrun_uid", "item_index"})
# pytest raises RuntimeError for a kind of traceback that it does not know.
_NO_REPORT = (
    LookupError, TypeError, ValueError, AssertionError, AttributeError, RuntimeError, OverflowError
)  # fmt: skip
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
        if not isinstance(report, pytest.TestReport):
            raise TypeError(f"no plugin here knows a report that is {type(report)}")
        # The tests' own colours stay, in what they print too: so it looks on the host.
        escape_report(report, painted=safe_but_colour, output=safe_but_colour)
        if report.longrepr is not None:
            str(report.longrepr)  # what can be written now can be written later
    except _NO_REPORT as error:
        text = safe(repr(error))[:_LONGEST_CAUSE]
        raise ProtocolError(f"a report from inside that cannot be one: {text}") from error
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
    fields["location"] = (safe(str(path)), line, safe(str(domain)))
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
    return {name: _without_surrogates(value) for name, value in fields.items()}


def _without_surrogates(value: Any) -> Any:
    """A value whose texts all have a UTF-8: no worker of xdist's can send others."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return type(value)(map(_without_surrogates, value))
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


def _is_the_hosts(name: str) -> bool:
    """Whether a field would hide what a report has here: all of them become its attributes."""
    return name in _HOSTS or hasattr(pytest.TestReport, name)


def warn(config: pytest.Config, message: dict[str, Any], nodeid: str) -> None:
    """Record a warning from inside in the host's summary.

    Its category is looked up among what is imported here; nothing is imported or called for it. Its
    line comes with it: Python would look for one in any file of the host's.
    """
    line = message.get("lineno")
    recorded = warnings.WarningMessage(
        message=safe(str(message.get("text"))),
        category=_category(str(message.get("module")), str(message.get("name"))),
        filename=safe(str(message.get("filename"))),
        lineno=line if isinstance(line, int) else 0,
        line=safe(str(message.get("line") or "")),
    )
    location = _location(message.get("location"))
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": recorded,
            "nodeid": nodeid,
            "when": safe(str(message.get("when"))),
            "location": location,
        }
    )


def _location(where: Any) -> tuple[str, int, str] | None:
    if not isinstance(where, list) or len(where) != 3 or not isinstance(where[1], int):
        return None
    return safe(str(where[0])), where[1], safe(str(where[2]))


def _category(module: str, name: str) -> type[Warning]:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = _names(found).get(part)
    return found if isinstance(found, type) and issubclass(found, Warning) else UserWarning


def _names(thing: object) -> Mapping[str, Any]:
    """What a module or class holds; looked up so that neither one's own code runs."""
    if issubclass(type(thing), ModuleType):
        names: Mapping[str, Any] = object.__getattribute__(thing, "__dict__")
        return names
    return type.__getattribute__(thing, "__dict__") if issubclass(type(thing), type) else {}


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
