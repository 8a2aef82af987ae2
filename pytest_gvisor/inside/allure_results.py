"""Results of allure-pytest for tests inside: one of each test.

The plugin inside writes those with titles, steps and attachments, and they come back as files. The
plugin on the host begins one too, of which it would know a name alone. It is kept for a test that
did not come to its end inside.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_gvisor.escape import safe

_LISTENER = "allure_listener"
_BROKEN = "broken"  # its word for a test that an error ended, and no assertion


def is_known(listener: Any) -> bool:
    """Whether the plugin has the form that this module knows."""
    return hasattr(listener, "_cache") and hasattr(
        getattr(listener, "allure_logger", None), "drop_test"
    )


def settle(item: pytest.Item, *, ended: bool, lost: pytest.TestReport | None) -> None:
    """Drop or complete the host's result of a test, before its plugin writes it.

    ``ended`` tells that the test came to its end inside. ``lost`` is the report of a test whose
    sandbox was lost.
    """
    listener: Any = item.config.pluginmanager.get_plugin(_LISTENER)
    if not is_known(listener):
        return
    uuid = listener._cache.get(item.nodeid)
    if uuid is None:
        return
    result = listener.allure_logger.get_test(uuid)
    if ended:
        listener._cache.pop(item.nodeid)
        listener.allure_logger.drop_test(uuid)
        return
    if lost is not None:
        details = importlib.import_module("allure_commons.model2").StatusDetails
        text = safe(lost.longreprtext)
        result.status = _BROKEN
        result.statusDetails = details(message=text.partition("\n")[0], trace=text)
    # They take all that they know of the item, and look at no outcome.
    for hook in (listener.pytest_runtest_setup, listener.pytest_runtest_teardown):
        _run_wrapper(hook(item))


def _run_wrapper(steps: Iterator[None]) -> None:
    """Run an old-style wrapper of pytest's hooks around nothing."""
    for _ in steps:
        pass
