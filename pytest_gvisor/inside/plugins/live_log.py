"""The bridge for ``log_cli``: log records of tests inside, shown while the tests run.

The host formats them, since colours and formats are its own, and escapes the result. As on the
host, xdist's workers show none.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest

from pytest_gvisor.base.escape import Live
from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

# The moments of a test; those of the whole session are the host's own.
_MOMENT = rules.one_of("start", "setup", "call", "teardown", "logreport", "finish")
_MOST_ATTRIBUTES = 1000
_OWN: dict[str, rules.Rule] = {
    **dict.fromkeys(
        ("name", "levelname", "pathname", "filename", "module", "funcName", "msg"), rules.any_text
    ),
    **dict.fromkeys(("created", "msecs", "relativeCreated"), rules.seconds),
}
"""The attributes that each record has. They may be None in one that a test has made."""


def find(config: pytest.Config, _bounds: SessionBounds) -> rules.Take | None:
    """Return the end of the bridge if the host shows log records."""
    plugin = config.pluginmanager.get_plugin("logging-plugin")
    handler = getattr(plugin, "log_cli_handler", None)
    return functools.partial(show, handler) if isinstance(handler, logging.StreamHandler) else None


def show(handler: Any, data: Any, _sender: rules.Sender | None) -> None:
    """Show a record under the phase that it comes from. A thread may outlive its test."""
    when = rules.or_none(_MOMENT)(data["when"])
    record = logging.makeLogRecord(_record(data["record"]))
    shown: list[str] = []
    try:
        Live(shown.append).add(handler.format(record) + "\n")  # with -s, behind output from inside
    except (*rules.WRONG, MemoryError):
        return  # the format of the host names an attribute that the record has not
    if handler._when != when:
        handler.set_when(when)
    formatter = handler.formatter
    handler.setFormatter(logging.Formatter())  # of the message alone
    try:
        handler.emit(logging.makeLogRecord({"msg": shown[0].removesuffix("\n")}))
    finally:
        handler.setFormatter(formatter)


def _record(value: Any) -> dict[str, Any]:
    """Check the attributes of a log record: its own, and plain ones that a test has added."""
    checked: dict[str, Any] = rules.each(_scalar, _MOST_ATTRIBUTES)(value)
    checked |= {name: rule(value[name]) for name, rule in _OWN.items()}
    # A number of spaces, which pytest puts before each line.
    indent = checked.pop("auto_indent", None)
    if type(indent) is bool or (type(indent) is int and 0 <= indent <= 200):
        checked["auto_indent"] = indent
    return {**checked, "args": None, "exc_info": None}


def _scalar(value: Any) -> str | float | None:
    if isinstance(value, str):
        return rules.utf8(value)
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r:.50} in a log record")
    return value
