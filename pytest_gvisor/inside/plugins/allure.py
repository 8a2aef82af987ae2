"""Results of allure-pytest for tests inside: one of each test.

The plugin inside writes those with titles, steps and attachments, and they come back as files. The
plugin on the host begins one too, of which it would know a name alone. It is kept for a test that
did not come to its end inside.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from pytest_gvisor.base.escape import safe
from pytest_gvisor.guest.wire.checked_json import has_more_values, loads, unique
from pytest_gvisor.plugin.placement import params_of

RESULT, CONTAINER = "-result.json", "-container.json"
OLD = ("-testsuite.json", "-testsuite.xml")
"""The ends of the names of results, of their fixtures, and of results of Allure 1."""

MOST_OF_RESULT = 16 * 1024 * 1024
_MOST_VALUES = 1_000_000
_FAILURES = ("failed", "broken")
_PLAIN = (str, bytes, int, float, type(None))
_owners_key = pytest.StashKey[dict[str, set[pytest.Item]]]()


def folder(config: pytest.Config) -> str:
    """Return the real path of the folder of the results, or nothing."""
    given = config.getoption("allure_report_dir", None)
    return os.path.realpath(os.path.join(config.invocation_params.dir, given)) if given else ""


def names_others(data: bytes) -> bool:
    """Whether a result or container is none, or has an attachment in another folder.

    Allure would put any file that it names into the report.
    """
    if has_more_values(data, _MOST_VALUES):
        return True
    try:
        values = [loads(data, pairs=unique)]
    except ValueError:
        return True
    while values:
        value = values.pop()
        if isinstance(value, dict):
            source = value.get("source", "")
            if not isinstance(source, str) or "/" in source or "\\" in source:
                return True
            values += value.values()
        elif isinstance(value, list):
            values += value
    return False


def judged(
    data: bytes, items: Sequence[pytest.Item], failed: Collection[pytest.Item]
) -> bytes | None:
    """Return a result from the sandbox of these tests as it may land; None if it is none of theirs.

    Allure knows a test by its full name, and shows one result for each id of a history. Of a test
    that the host has seen fail, each result says so, whatever was known inside.
    """
    utils: Any = importlib.import_module("allure_pytest.utils")
    if names_others(data):
        return None
    try:
        result = loads(data, pairs=unique)
        name, case, history = map(result.get, ("fullName", "testCaseId", "historyId"))
    except (ValueError, AttributeError):
        return None
    if name not in map(utils.allure_full_name, items) or case != utils.md5(name):
        return None
    owners = _owners(utils, items[0].session).get(str(history))
    if owners is not None and owners.isdisjoint(items):
        return None
    if owners and not owners.isdisjoint(failed) and result.get("status") not in _FAILURES:
        told = {"message": "the host has seen this test fail: see pytest's own report"}
        return json.dumps(result | {"status": "broken", "statusDetails": told}).encode()
    return data


def _owners(utils: Any, session: pytest.Session) -> dict[str, set[pytest.Item]]:
    """Return the tests of each id of a history, as allure-pytest makes it of their parameters."""
    if _owners_key not in session.stash:
        session.stash[_owners_key] = found = defaultdict[str, set[pytest.Item]](set)
        for item in session.items:
            given = params_of(item)
            values = [given[name] for name in sorted(given) if not name.startswith("gvisor_")]
            if all(isinstance(value, _PLAIN) for value in values):  # others differ by their place
                found[utils.md5(utils.allure_full_name(item), *values)].add(item)
    return session.stash[_owners_key]


def settle(item: pytest.Item, *, ended: bool, lost: pytest.TestReport | None) -> None:
    """Drop or complete the host's result of a test, before its plugin writes it.

    ``ended`` tells that the test came to its end inside. ``lost`` is the report of a test whose
    sandbox was lost. A plugin of a form that this module does not know is left alone.
    """
    listener: Any = item.config.pluginmanager.get_plugin("allure_listener")
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
