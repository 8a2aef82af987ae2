"""The fields of a report from inside, with a rule for each.

A field becomes an attribute of the host's report, and plugins act on attributes. pytest-html makes
file names of them, and hypothesis reads files that they name. So a field without a rule is left
out. Does no input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest

from pytest_gvisor.base.escape import safe
from pytest_gvisor.inside.wire import rules

_PHASES = ("setup", "call", "teardown")

_MOST_EXTRAS = 1000
_LONGEST_CAUSE = 100
_MEDIA = ("image", "video")

# What the host knows itself: a test's id and place, what xdist's controller adds, and attributes
# of this plugin. pytest-html 4 reads no `extra`: the one inside has put it into `extras`.
_UNREAD = frozenset({
    "_id", "extra", "item_index", "location", "node", "nodeid", "result", "testrun_uid",
    "worker_id",
})  # fmt: skip
STATISTICS = "_hypothesis_stats"
"""What hypothesis prints of a test at the end, its node id first."""

_OURS = "gvisor_"
_OUR_PROPERTIES = "gvisor."
"""The beginning of the names of what the host tells of a test, such as its platform."""


_PLACE = rules.object_of(path=rules.text, lineno=rules.number, message=rules.text)
_ENTRY = rules.object_of(
    lines=rules.list_of(rules.text),
    reprfuncargs=rules.or_none(
        rules.object_of(args=rules.list_of(rules.tuple_of(rules.text, rules.text)))
    ),
    reprlocals=rules.or_none(rules.object_of(lines=rules.list_of(rules.text))),
    reprfileloc=rules.or_none(_PLACE),
    style=rules.one_of("long", "short", "value", "line", "native", "no", "auto"),
)
_NATIVE = rules.object_of(lines=rules.list_of(rules.text))


def _entry(value: Any) -> dict[str, Any]:
    kinds = {"ReprEntry": _ENTRY, "ReprEntryNative": _NATIVE}
    return {"type": value["type"], "data": kinds[value["type"]](value["data"])}


_TRACEBACK = rules.object_of(
    reprentries=rules.list_of(_entry),
    extraline=rules.or_none(rules.text),
    style=rules.one_of("long", "short", "value", "line", "native", "no", "auto"),
)


_SEPARATOR = rules.matching(r"(?s)[^\ud800-\udfff]{1,20}")
"""A separator has a character, and no half of one: pytest divides by its length."""

_FAILURE = rules.object_of(
    reprcrash=rules.or_none(_PLACE),
    reprtraceback=_TRACEBACK,
    sections=rules.list_of(rules.tuple_of(rules.text, rules.text, _SEPARATOR)),
    chain=rules.or_none(
        rules.list_of(rules.tuple_of(_TRACEBACK, rules.or_none(_PLACE), rules.or_none(rules.text)))
    ),
)


def _longrepr(value: Any) -> Any:
    """Check a traceback, a skip's place and reason, or a text.

    JSON turns tuples into lists, and pytest relies on a skip's being one.
    """
    if isinstance(value, dict):
        return _FAILURE(value)
    if isinstance(value, list):
        return rules.tuple_of(rules.any_text, rules.number, rules.any_text)(value)
    return rules.or_none(rules.text)(value)


def sources(longrepr: Any) -> Iterator[dict[str, Any]]:
    """Yield the entries of a checked failure among whose lines is source, which pytest colours."""
    if isinstance(longrepr, dict):
        for traceback, *_more in longrepr["chain"] or [[longrepr["reprtraceback"]]]:
            yield from (one["data"] for one in traceback["reprentries"] if "style" in one["data"])


def _json_report(value: Any) -> dict[str, Any]:
    """Check the data of pytest-json-report for a phase or a test, which are both objects."""
    checked: dict[str, Any] = rules.each(rules.plain)(value)
    if not all(isinstance(checked.get(phase, {}), dict) for phase in _PHASES):
        raise TypeError("a phase that is no object")
    return checked


_EXTRA = rules.object_of(
    name=rules.or_none(rules.shown),
    format_type=rules.one_of(*_MEDIA, "html", "text", "url", "json"),
    mime_type=rules.or_none(rules.matching(r"[A-Za-z0-9.+-]{1,60}/[A-Za-z0-9.+-]{1,60}")),
    extension=rules.or_none(rules.matching(r"[A-Za-z0-9]{1,10}")),
)


def _extra(value: Any) -> dict[str, Any]:
    """Check one of pytest-html's extras: a file with ``extension``, a link, or HTML.

    HTML may hold what it may hold on the host. All else of its texts is shown, or put into a name.
    """
    extra: dict[str, Any] = _EXTRA(value)
    kind, content = extra["format_type"], value["content"]
    if kind == "json":
        content = rules.plain(content, rules.utf8)
    else:
        content = rules.text(content)
        if kind in _MEDIA:
            # pytest-html warns of a link, in a self-contained report; base64 stays as it is.
            content = safe(content)
    return {**extra, "content": content}


_PROPERTIES = rules.list_of(rules.tuple_of(rules.any_text, rules.plain))
phase = rules.one_of(*_PHASES)
times = rules.tuple_of(rules.past, rules.past, rules.past)

_REQUIRED: dict[str, rules.Rule] = {
    # One of pytest's, or the name that a plugin gives one.
    "outcome": rules.matching(r"[A-Za-z][A-Za-z0-9_ -]{0,39}"),
    "when": phase,
    "duration": rules.past,
    "start": rules.past,
    "stop": rules.past,
    "keywords": rules.each(lambda _value: 1),
    "sections": rules.list_of(rules.tuple_of(rules.any_text, rules.any_text)),
    "longrepr": _longrepr,
}
_OPTIONAL: dict[str, rules.Rule] = {
    "wasxfail": rules.any_text,
    "$report_type": rules.one_of("TestReport"),
    # A subtest's, of pytest's own plugin or of pytest-subtests.
    "_report_type": rules.one_of("SubTestReport"),
    "_subtest.context": rules.object_of(
        msg=rules.or_none(rules.text), kwargs=rules.each(rules.any_text)
    ),
    "rerun": rules.whole,  # pytest-rerunfailures
    STATISTICS: rules.shown,
    "_json_report_extra": _json_report,
    "_ctrf_metadata": rules.each(rules.plain),  # pytest-json-ctrf: tags and parameters
}


def checked(data: Any, more: Collection[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of a report that follow their rules, and names of those left out.

    ``more`` names further fields, of plain data. Raises `KeyError`, `TypeError`, `ValueError` or
    `AttributeError` for what is no report.
    """
    if not isinstance(data, dict):
        raise TypeError("not an object")
    fields = {name: rule(data[name]) for name, rule in _REQUIRED.items()}
    left_out = []
    for name in data.keys() - fields.keys():
        if name in _OPTIONAL:
            fields[name] = _OPTIONAL[name](data[name])
        elif name in _DIVIDED:
            fields[name], refused = _DIVIDED[name](data[name])
            left_out += refused
        elif name in more and is_free(name):
            fields[name] = rules.plain(data[name])
        elif name not in _UNREAD and not name.startswith(_OURS):
            left_out.append(safe(name)[:_LONGEST_CAUSE])
    return fields, left_out


def is_free(name: str) -> bool:
    """Whether a project may name a field: it has no rule, and pytest has no use for it."""
    known = {*_REQUIRED, *_OPTIONAL, *_UNREAD, *_DIVIDED}
    taken = name in known or name.startswith(_OURS) or hasattr(pytest.TestReport, name)
    return name.isidentifier() and not taken


def _extras(value: Any) -> tuple[list[dict[str, Any]], list[str]]:
    if not isinstance(value, list) or len(value) > _MOST_EXTRAS:
        return [], [f"extras: no list of {_MOST_EXTRAS} at most"]
    kept, refused = [], []
    for one in value:
        try:
            kept.append(_extra(one))
        except (LookupError, TypeError, ValueError) as error:
            refused.append(safe(f"extras: {error!r}")[:_LONGEST_CAUSE])
    return kept, refused


def _properties(value: Any) -> tuple[list[tuple[str, Any]], list[str]]:
    kept, refused = [], []
    for name, told in _PROPERTIES(value):
        if name.startswith(_OUR_PROPERTIES):
            refused.append(f"user_properties: {name}"[:_LONGEST_CAUSE])
        else:
            kept.append((name, told))
    return kept, refused


_DIVIDED: dict[str, Callable[[Any], tuple[list[Any], list[str]]]] = {
    "extras": _extras,
    "user_properties": _properties,
}
"""The fields of which a part may be left out."""
