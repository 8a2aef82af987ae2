"""A plugin for `explain`: it marks each phase of each test in a log of system calls.

A mark is a call of access(2) on a path that is nowhere. The host's pytest and the one inside load
this plugin by its name (``-p``), so the phases of a test are marked alike on both sides.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

FOLDER = "/pytest-gvisor-explain"
"""A mark is below it: the test's number, then ``begin``, ``end`` or the raised exception's name."""


def number(nodeid: str) -> str:
    """Return the number by which a mark names a test: its node id in hexadecimal digits."""
    return nodeid.encode("utf-8", "surrogateescape").hex()[-200:]


@pytest.hookimpl
def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option that only `explain` gives: see `inside.boot.start`."""
    parser.addoption("--gvisor-strace", help="a folder for runsc's logs, with an strace")


def _marked(item: pytest.Item) -> Iterator[None]:
    """Mark the begin and the end of a phase, as close to the test's own code as a hook can be."""
    folder = f"{FOLDER}/{number(item.nodeid)}"
    os.access(f"{folder}/begin", os.F_OK)
    try:
        return (yield)
    finally:
        error = sys.exception()
        os.access(f"{folder}/{'end' if error is None else type(error).__name__}", os.F_OK)


for _name in ("setup", "call", "teardown"):
    globals()[f"pytest_runtest_{_name}"] = pytest.hookimpl(wrapper=True, trylast=True)(_marked)
