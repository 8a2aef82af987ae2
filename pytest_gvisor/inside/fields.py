"""The fields of a report from inside, with a rule for each.

A field becomes an attribute of the host's report, and plugins act on attributes: pytest-html makes
file names of them, hypothesis reads files that they name. So a field without a rule is left out.
Does no input or output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import pytest

from pytest_gvisor.escape import safe

Rule = Callable[[Any], Any]

_PHASES = ("setup", "call", "teardown")
_OUTCOME = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,39}")
_LONGEST_TIME = 1e11  # seconds: a duration, or a time since 1970
_HIGHEST_NUMBER = 2**31
_MOST_EXTRAS = 1000
_LONGEST_CAUSE = 100
_MEDIA = frozenset({"image", "video"})
_TEXTS = frozenset({"html", "text", "url"})
_EXTENSION = re.compile(r"[A-Za-z0-9]{1,10}")
_MIME_TYPE = re.compile(r"[A-Za-z0-9.+-]{1,60}/[A-Za-z0-9.+-]{1,60}")

# What the host knows itself: a test's id, what xdist's controller adds, and attributes of this
# plugin. pytest-html 4 reads no `extra`: the one inside has put it into `extras`.
_UNREAD = frozenset({
    "_id", "extra", "item_index", "node", "nodeid", "result", "testrun_uid", "worker_id",
})  # fmt: skip
_OURS = "gvisor_"


def utf8(text: str) -> str:
    """Escape characters that UTF-8 cannot encode: neither xdist nor a plugin could pass them on."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain(value: Any, text: Callable[[str], str] = safe) -> Any:
    """Return JSON data, with ``text`` applied to each text in it."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return [plain(part, text) for part in value]
    if isinstance(value, dict):
        return {text(name): plain(part, text) for name, part in value.items()}
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} in the place of a text")
    return utf8(value)


def _any_text(value: Any) -> str:
    return utf8(str(value))


def _shown(value: Any) -> str:
    return safe(str(value))


def _number(value: Any) -> int:
    if not isinstance(value, int) or not abs(value) < _HIGHEST_NUMBER:
        raise ValueError(f"{value!r:.50} in the place of a number")
    return int(value)


def _count(value: Any) -> int:
    return max(0, _number(value))


def _time(value: Any) -> float:
    if not isinstance(value, int | float) or not abs(value) < _LONGEST_TIME:
        raise TypeError(f"{value!r:.50} in the place of seconds")
    return float(value)


def _one_of(*words: str) -> Rule:
    def rule(value: Any) -> str:
        if value not in words:
            raise ValueError(f"{value!r:.50} is none of {', '.join(words)}")
        return str(value)

    return rule


def _outcome(value: Any) -> str:
    """Check an outcome: one of pytest's, or the name that a plugin gives one."""
    if not _OUTCOME.fullmatch(_text(value)):
        raise ValueError(f"{value!r:.50} is no outcome")
    return str(value)


def _or_none(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def _list(rule: Rule) -> Rule:
    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise TypeError(f"{type(value).__name__} in the place of a list")
        return [rule(part) for part in value]

    return check


def _tuple(*rules: Rule) -> Rule:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError(f"{type(value).__name__} in the place of a list")
        return tuple(rule(part) for rule, part in zip(rules, value, strict=True))

    return check


def _object(**rules: Rule) -> Rule:
    """Return a rule for an object of exactly these fields."""

    def check(value: Any) -> dict[str, Any]:
        return {name: rule(value[name]) for name, rule in rules.items()}

    return check


def _each(rule: Rule) -> Rule:
    """Return a rule for an object of any names."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__} in the place of an object")
        return {utf8(name): rule(part) for name, part in value.items()}

    return check


_PLACE = _object(path=_text, lineno=_number, message=_text)
_ENTRY = _object(
    lines=_list(_text),
    reprfuncargs=_or_none(_object(args=_list(_tuple(_text, _text)))),
    reprlocals=_or_none(_object(lines=_list(_text))),
    reprfileloc=_or_none(_PLACE),
    style=_one_of("long", "short", "value", "line", "native", "no", "auto"),
)
_NATIVE = _object(lines=_list(_text))


def _entry(value: Any) -> dict[str, Any]:
    kinds = {"ReprEntry": _ENTRY, "ReprEntryNative": _NATIVE}
    return {"type": value["type"], "data": kinds[value["type"]](value["data"])}


_TRACEBACK = _object(
    reprentries=_list(_entry),
    extraline=_or_none(_text),
    style=_one_of("long", "short", "value", "line", "native", "no", "auto"),
)


def _separator(value: Any) -> str:
    """Check a separator of one character: pytest divides by its length."""
    if len(_text(value)) != 1:
        raise ValueError("a line that is filled with no character, or with several")
    return _text(value)


_FAILURE = _object(
    reprcrash=_or_none(_PLACE),
    reprtraceback=_TRACEBACK,
    sections=_list(_tuple(_text, _text, _separator)),
    chain=_or_none(_list(_tuple(_TRACEBACK, _or_none(_PLACE), _or_none(_text)))),
)


def _longrepr(value: Any) -> Any:
    """Check a traceback, a skip's place and reason, or a text.

    JSON turns tuples into lists, and pytest relies on a skip's being one.
    """
    if isinstance(value, dict):
        return _FAILURE(value)
    if isinstance(value, list):
        return _tuple(_any_text, _number, _any_text)(value)
    return _or_none(_text)(value)


def _json_report(value: Any) -> dict[str, Any]:
    """Check the data of pytest-json-report for a phase or a test, which are both objects."""
    checked: dict[str, Any] = _each(plain)(value)
    if not all(isinstance(checked.get(phase, {}), dict) for phase in _PHASES):
        raise TypeError("a phase that is no object")
    return checked


def _extra(value: Any) -> dict[str, Any]:
    """Check one of pytest-html's extras: a file with ``extension``, a link, or HTML.

    HTML may hold what it may hold on the host. All else of its texts is shown, or put into a name.
    """
    kind, extension, mime = value["format_type"], value["extension"], value["mime_type"]
    if kind not in {*_MEDIA, *_TEXTS, "json"}:
        raise ValueError(f"format_type {kind!r:.50}")
    if extension is not None and not _EXTENSION.fullmatch(extension):
        raise ValueError(f"extension {extension!r:.50}")
    if mime is not None and not _MIME_TYPE.fullmatch(mime):
        raise ValueError(f"mime_type {mime!r:.50}")
    content = value["content"]
    if kind == "json":
        content = plain(content, utf8)
    else:
        content = _text(content)
        if kind in _MEDIA:
            # pytest-html warns of a link, in a self-contained report; base64 stays as it is.
            content = safe(content)
    return {
        "name": _or_none(_shown)(value["name"]),
        "format_type": kind,
        "content": content,
        "mime_type": mime,
        "extension": extension,
    }


_REQUIRED: dict[str, Rule] = {
    "outcome": _outcome,
    "when": _one_of(*_PHASES),
    "duration": lambda value: max(0.0, _time(value)),  # clocks are turned back
    "start": _time,
    "stop": _time,
    "keywords": _each(lambda _value: 1),
    "location": _tuple(_shown, _or_none(_number), _shown),
    "sections": _list(_tuple(_any_text, _any_text)),
    "longrepr": _longrepr,
}
_OPTIONAL: dict[str, Rule] = {
    "user_properties": _list(_tuple(_any_text, plain)),
    "wasxfail": _any_text,
    "$report_type": _one_of("TestReport"),
    # A subtest's, of pytest's own plugin or of pytest-subtests.
    "_report_type": _one_of("SubTestReport"),
    "_subtest.context": _object(msg=_or_none(_text), kwargs=_each(_any_text)),
    "rerun": _count,  # pytest-rerunfailures
    "_hypothesis_stats": _shown,
    "_json_report_extra": _json_report,
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
        elif name == "extras":
            fields[name], refused = _extras(data[name])
            left_out += refused
        elif name in more and is_free(name):
            fields[name] = plain(data[name])
        elif name not in _UNREAD and not name.startswith(_OURS):
            left_out.append(safe(name)[:_LONGEST_CAUSE])
    return fields, left_out


def is_free(name: str) -> bool:
    """Whether a project may name a field: it has no rule, and pytest has no use for it."""
    known = {*_REQUIRED, *_OPTIONAL, *_UNREAD, "extras"}
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
