"""Results of allure-pytest for tests inside: one of each test.

The plugin inside writes those with titles, steps and attachments, and they come back as files. The
plugin on the host begins one too, of which it would know a name alone. It is kept for a test that
did not come to its end inside.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from pytest_gvisor.escape import safe


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
