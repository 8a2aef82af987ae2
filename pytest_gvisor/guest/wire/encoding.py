"""The JSON of messages to the host, with long parts shortened.

Used inside the sandbox alone: standard library only.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

from pytest_gvisor.guest.wire import checked_json


def _told(value: object) -> str:
    """Return a value's text, as pytest's JUnit report has it; of bytes, ``python -bb`` has none."""
    return repr(value) if isinstance(value, bytes) else str(value)


_JSON = json.JSONEncoder(default=_told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_MAX_TEXT = 8 * 1024 * 1024
# Both less than what the host allows.
_MAX_MESSAGE = 60 * 1024 * 1024
_MAX_VALUES = 900_000
_WHOLE = frozenset({"collected", "coverage", "finished"})


def encoded(kind: str, fields: dict[str, Any], most: int = _MAX_MESSAGE) -> bytes:
    """Return the JSON of a message, with long parts shortened; texts mention that."""
    data = short(kind, fields)
    for longest in (1024 * 1024, 64 * 1024, 4096, 256):
        many = checked_json.has_more_values(data, _MAX_VALUES)
        if kind in _WHOLE or not (many or len(data) > most):
            break
        data = short(kind, _shortened(fields, longest))
    return data


def short(kind: str, fields: dict[str, Any]) -> bytes:
    """Return the JSON of a message whole."""
    message = {"type": kind, **fields}
    try:
        text = _JSON.encode(message)
    except (TypeError, ValueError):  # of a name or number that JSON has not
        text = _JSON.encode(_shortened(message, sys.maxsize))
    return text.encode("utf-8", "surrogatepass")


def _shortened(value: Any, longest: int) -> Any:
    """Return the beginning and end of a value's long texts and lists.

    Numbers that JSON has not become text, and so do whole ones that Python does not write there.
    """
    if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
        return hex(value) if isinstance(value, int) else str(value)
    if isinstance(value, str):
        return cut(value, longest)
    if isinstance(value, list | tuple):
        half = longest // 2
        parts = value if len(value) <= longest else [*value[:half], *value[-half:]]
        return [_shortened(part, longest) for part in parts]
    if isinstance(value, dict):
        first = itertools.islice(value.items(), longest)
        return {_name(name): _shortened(part, longest) for name, part in first}
    return value


def _name(name: Any) -> Any:
    return _shortened(name, sys.maxsize) if isinstance(name, str | int | None) else str(name)


def cut(text: str, longest: int = _MAX_TEXT) -> str:
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[... {len(text) - longest} characters left out ...]\n{text[-half:]}"


def numbered(item: Any) -> str:
    """Return the id of a test by the numbers of its parameters; nothing if it has none.

    The id itself may hold a time or an address, which the next collection makes anew.
    """
    spec = getattr(item, "callspec", None)
    if spec is None:
        return ""
    name = getattr(item, "originalname", item.name)
    return f"{item.parent.nodeid}::{name}{sorted(spec.indices.items())}"


def changes(item: Any) -> str:
    """Return what hooks may have changed of a test: its function, marks and fixtures."""
    code = getattr(getattr(item, "obj", None), "__code__", None)
    # Not their conditions, which may differ by the machine.
    marks = sorted(f"{mark.name} {mark.kwargs.get('strict')}" for mark in item.iter_markers())
    runs = getattr(code, "co_name", ""), getattr(code, "co_firstlineno", 0)
    # Tests of one function share the list of fixtures, and a hook may add to it for each of them.
    return str((runs, "runtest" in vars(item), marks, sorted({*getattr(item, "fixturenames", ())})))
