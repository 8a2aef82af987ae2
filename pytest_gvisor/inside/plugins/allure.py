"""Results of allure-pytest for tests inside: one of each test.

The plugin inside writes those with titles, steps and attachments, and they come back as files. The
plugin on the host begins one too, of which it would know a name alone. It is kept for a test that
did not come to its end inside.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

import pytest

from pytest_gvisor.base.escape import safe
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads, unique
from pytest_gvisor.plugin.placement import params_of

READ = (".json", ".jsonl", ".ndjson", ".xml")
"""The suffixes of files that a reader of Allure may take for results: JUnit's, say, or cucumber's.
"""

MOST_OF_RESULT = 16 * 1024 * 1024
_MOST_VALUES = 1_000_000
_OF_FIXTURES = ("-container.json", "-globals.json")
_OF_THE_RUN = ("categories.json", "environment.xml", "executor.json")
_SUITES = ("assemblies", "assembly", "testsuite", "testsuites")
_FAILURES = ("failed", "broken")
_NAMES = ("fullName", "historyId", "source", "status", "statusDetails", "testCaseId")
_EXACT = {name.lower(): name for name in _NAMES}


class _Known(NamedTuple):
    """The tests of a session."""

    names: dict[str, set[pytest.Item]]
    """Those of each full name."""

    owners: dict[str, set[pytest.Item]]
    """Those of each id of a history, as allure-pytest makes it of their parameters."""


_known_key = pytest.StashKey[_Known]()


def folder(config: pytest.Config) -> str:
    """Return the real path of the folder of the results, or nothing."""
    given = config.getoption("allure_report_dir", None)
    return os.path.realpath(os.path.join(config.invocation_params.dir, given)) if given else ""


def judged(
    path: str, data: bytes, items: Collection[pytest.Item], failed: Collection[pytest.Item]
) -> bytes | None:
    """Return a file from the sandbox in which these tests began as it may land; None if it stays
    inside.

    A result is of one of these tests. No other file is read as results, and none names a file
    elsewhere: Allure would put that into the report.
    """
    stem, suffix = os.path.splitext(name := os.path.basename(path).lower())
    known = stem.endswith("-attachment") or name in _OF_THE_RUN
    try:
        if name.endswith("-result.json"):
            return _result(data, frozenset(items), failed) if items else None
        if name.endswith(_OF_FIXTURES):
            known = bool(_parsed(data))
        elif suffix == ".xml":
            large = b"<!ENTITY" in data.replace(b"\0", b"")  # a parser may make gigabytes of it
            known = known and not large and _root(data) not in _SUITES
    except (ValueError, AttributeError):
        return None
    return data if known else None


def _parsed(data: bytes) -> Any:
    """Return the value of a result or container, whose attachments are files beside it.

    Raises `ValueError` for another one.
    """
    if has_more_values(data, _MOST_VALUES):
        raise ValueError("more values than a result has")
    parsed = loads(data, pairs=_members)
    values = [parsed]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            source = value.get("source", "")
            if not isinstance(source, str) or "/" in source or "\\" in source:
                raise ValueError("an attachment that is no file beside its result")
            values += value.values()
        elif isinstance(value, list):
            values += value
    return parsed


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises `ValueError` for a name in another case, which Allure takes too."""
    found = unique(pairs)
    if any(_EXACT.get(name.lower(), name) != name for name in found):
        raise ValueError("a name in another case")
    return found


def _root(data: bytes) -> str:
    """Return the name of the root element of XML. Raises `ValueError` if there is none."""
    try:
        _event, element = next(iter(ET.iterparse(io.BytesIO(data), ["start"])))
    except (ET.ParseError, LookupError, StopIteration) as error:
        raise ValueError("no XML") from error
    return str(element.tag).rpartition("}")[2]


def _result(
    data: bytes, items: frozenset[pytest.Item], failed: Collection[pytest.Item]
) -> bytes | None:
    """Return a result as it may land; None if it is of no test of these.

    Allure knows a test by its full name, and shows one result for each id of a history. Of a test
    that the host has seen fail, each result says so, whatever was known inside.
    """
    utils: Any = importlib.import_module("allure_pytest.utils")
    result = _parsed(data)
    name, case, history = map(result.get, ("fullName", "testCaseId", "historyId"))
    known = _known(utils, next(iter(items)).session)
    named = known.names.get(str(name), set()) & items
    if not named or case != utils.md5(name):
        return None
    owners = known.owners.get(str(history))
    if owners is not None and owners.isdisjoint(items):
        return None
    # Of an id with a dynamic parameter, or with the address of an object, any test of that name may
    # be the owner.
    has_failed = not owners.isdisjoint(failed) if owners else named.issubset(failed)
    if has_failed and result.get("status") not in _FAILURES:
        told = {"message": "the host has seen this test fail: see pytest's own report"}
        return json.dumps(result | {"status": "broken", "statusDetails": told}).encode()
    return data


def _known(utils: Any, session: pytest.Session) -> _Known:
    """Return the tests of a session by what Allure knows of them."""
    if _known_key not in session.stash:
        known = session.stash[_known_key] = _Known(defaultdict(set), defaultdict(set))
        for item in session.items:
            name = utils.allure_full_name(item)
            known.names[name].add(item)
            given = params_of(item)
            values = [given[name] for name in sorted(given) if not name.startswith("gvisor_")]
            with contextlib.suppress(Exception):  # a repr may raise; one with an address fits none
                known.owners[utils.md5(name, *values)].add(item)
    return session.stash[_known_key]


def settle(
    listener: Any, item: pytest.Item, *, ended: bool, lost: pytest.TestReport | None
) -> None:
    """Drop or complete the host's result of a test, before its plugin, ``listener``, writes it.

    ``ended`` tells that the test came to its end inside. ``lost`` is the report of a test whose
    sandbox was lost. A plugin of a form that this module does not know is left alone.
    """
    logger: Any = getattr(listener, "allure_logger", None)
    uuid = getattr(listener, "_cache", {}).get(item.nodeid)
    if uuid is None or not hasattr(logger, "drop_test"):
        return
    if ended:
        listener._cache.pop(item.nodeid)
        logger.drop_test(uuid)
        return
    if lost is not None:
        details = importlib.import_module("allure_commons.model2").StatusDetails
        text = safe(lost.longreprtext)
        result = logger.get_test(uuid)
        result.status = "broken"  # its word for a test that an error ended, and no assertion
        result.statusDetails = details(message=text.partition("\n")[0], trace=text)
    # They take all that they know of the item, and look at no outcome: wrappers of the old style.
    for hook in (listener.pytest_runtest_setup, listener.pytest_runtest_teardown):
        for _step in hook(item):
            pass
