"""Reports and warnings of pytest, rebuilt from untrusted messages of the pytest inside."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr
from _pytest._io import TerminalWriter

from pytest_gvisor.base.escape import safe
from pytest_gvisor.inside.wire import fields, rules
from pytest_gvisor.inside.wire.session_bounds import COLLECTING, SessionBounds, place
from pytest_gvisor.plugin.sections import escape_report


class Text(TerminalRepr):
    """A failure's representation from text.

    pytest takes the first line of a plain string for the failure's message. It takes none from this
    one, as on the host.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the text unchanged."""
        tw.line(self.text)


def revive(
    config: pytest.Config, message: dict[str, Any], item: pytest.Item, bounds: SessionBounds
) -> pytest.TestReport:
    """Rebuild the report of a test's phase from a message. The host knows which test it is of.

    ``bounds`` notes the fields that were left out. Raises `ProtocolError` for a message that is
    not the report of a test's phase.
    """
    with rules.reading("a report from inside that cannot be one"):
        data, left_out = fields.checked(message.get("data"), bounds.fields)
        if fields.STATISTICS in data:
            data[fields.STATISTICS] = _statistics(item.nodeid, data[fields.STATISTICS])
        for entry in fields.sources(data["longrepr"]):
            if not bounds.colours(entry["lines"]):
                entry["style"] = "value"  # the one whose lines pytest writes as they are
        report = _make(config, item, data)
        _restore_subtest(report, data)
        if isinstance(report.longrepr, str) and not message.get("plain"):
            report.longrepr = Text(report.longrepr)
        _complete(report, item)
        _check_outcome(config, report)
        # The tests' own colours stay, in what they print too: so it looks on the host.
        escape_report(report, painted=bounds.escaped, output=bounds.escaped)
        written = str(report.longrepr)  # what can be written now can be written later
        # Its parts, each of them escaped, may be a command together.
        if isinstance(report.longrepr, TerminalRepr) and bounds.escaped(written) != written:
            report.longrepr = Text(bounds.escaped(written))
        bounds.leave_out(left_out)
    return report


def revive_passed(short: Any, item: pytest.Item) -> pytest.TestReport:
    """Make the report of a passed phase from its short form: see guest/tests/passed.py.

    Raises `ProtocolError` for data of another shape.
    """
    with rules.reading("a passed phase from inside that cannot be one"):
        duration, start, stop = fields.times(short["times"])
        return pytest.TestReport(
            _nodeid(item), item.location, dict.fromkeys(item.keywords, 1), "passed", None,
            fields.phase(short["when"]), duration=duration, start=start, stop=stop,
        )  # fmt: skip


def _nodeid(item: pytest.Item) -> Any:
    """Return the node id, in the parsed form of pytest 9.2 if it has one: reports share that."""
    parsed = getattr(item, "id", "")  # an older pytest has none, and a project may have its own
    return parsed if str(parsed) == item.nodeid else item.nodeid


def _make(config: pytest.Config, item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    """Make a report of checked fields. A test may have added keywords to itself, and no more."""
    data |= {"nodeid": item.nodeid, "location": item.location}
    data["keywords"] = dict.fromkeys([*data["keywords"], *item.keywords], 1)
    report = config.hook.pytest_report_from_serializable(config=config, data=data)
    if not isinstance(report, pytest.TestReport):
        raise TypeError(f"no plugin here knows a report that is {type(report)}")
    return report


def _statistics(nodeid: str, text: str) -> str:
    """Return what hypothesis prints of a test: a line with its node id, and indented lines."""
    first, *lines = text.split("\n")
    if first.startswith(" "):
        lines = [first, *lines]
    return "\n".join([f"{nodeid}:", *(line and f"  {line.removeprefix('  ')}" for line in lines)])


def _complete(report: pytest.TestReport, item: pytest.Item) -> None:
    """Give a report the failure or the skip's place that pytest and its plugins rely on."""
    if report.skipped and not (hasattr(report, "wasxfail") or isinstance(report.longrepr, tuple)):
        report.longrepr = (item.location[0], item.location[1] or 0, report.longreprtext)
    elif report.failed:
        vars(report).pop("wasxfail", None)  # pytest shows such a failure, and does not count it
        report.longrepr = report.longrepr or Text("")


def _check_outcome(config: pytest.Config, report: pytest.TestReport) -> None:
    """Raise `ValueError` for an outcome that no plugin here has: others rely on known ones."""
    if report.passed or report.failed or report.skipped:
        return
    status = config.hook.pytest_report_teststatus(report=report, config=config)
    if status is None or status[1:] == ("F", report.outcome.upper()):  # pytest's for an unknown one
        raise ValueError(f"no plugin here has the outcome {report.outcome!r}")


def _restore_subtest(report: object, data: dict[str, Any]) -> None:
    """Undo the second repr of a subtest's arguments, which pytest takes whenever it makes one."""
    if (context := getattr(report, "context", None)) is not None:
        object.__setattr__(context, "kwargs", data["_subtest.context"]["kwargs"])


def warn(
    config: pytest.Config, message: dict[str, Any], nodeid: str, bounds: SessionBounds
) -> None:
    """Record a warning from inside in the host's summary, if ``bounds`` takes it.

    A warning of the collection belongs to no test. One that the host's collection had is left out.
    Its category is one of the classes of warnings that are loaded here; nothing is imported or
    called for it. Its line comes with it: Python would look for one in any file of the host's.
    """
    words = {name: str(message.get(name) or "") for name in ("text", "filename", "line", "when")}
    location = message.get("location")
    if not bounds.takes([*words.values(), str(location)]):
        return
    words = {name: safe(text) for name, text in words.items()}
    number = line if isinstance(line := message.get("lineno"), int) else 0
    kind = _category(str(message.get("module")), str(message.get("name")))
    # Hooks expect a warning. xdist's controller calls its class, which may take no text.
    own = any(hasattr(getattr(kind, n), "__code__") for n in ("__init__", "__new__", "__str__"))
    try:
        made = Exception.__new__(Warning if own else kind, words["text"])
    except TypeError:  # it has another form, as one that is an OSError too
        made = Warning(words["text"])
    recorded = warnings.WarningMessage(made, kind, words["filename"], number, line=words["line"])
    collecting = words["when"] in COLLECTING
    if collecting and place(recorded) in bounds.known:
        return
    config.hook.pytest_warning_recorded.call_historic(
        kwargs={
            "warning_message": recorded,
            "nodeid": "" if collecting else nodeid,
            "when": words["when"] if collecting else "runtest",
            "location": _location(location),
        }
    )


def _location(where: Any) -> tuple[str, int, str] | None:
    if not isinstance(where, list) or len(where) != 3 or not isinstance(where[1], int):
        return None
    return safe(str(where[0])), where[1], safe(str(where[2]))


def _category(module: str, name: str) -> type[Warning]:
    classes = [Warning]
    for known in classes:
        if (known.__module__, known.__qualname__) == (module, name):
            return known
        classes += type.__subclasses__(known)
    return UserWarning


def made_up(item: pytest.Item, when: str, text: str, duration: float) -> pytest.TestReport:
    """Make a failed report for a phase whose own report never came."""
    names: Any = dict.fromkeys(item.keywords, 1)
    phase: Any = when
    return pytest.TestReport(
        item.nodeid, item.location, names, "failed", text, phase, duration=duration
    )
