"""The ends of bridges in the sandbox: data that a plugin keeps in the tests' process.

For worker.py, which loads this file by its path. An end is a plugin of pytest's that sends such
data to the host, where inside/bridges.py checks it. Imports nothing of pytest_gvisor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from _pytest.junitxml import _check_record_param_type, xml_key

Send = Callable[..., None]


def register(config: pytest.Config, names: Iterable[str], send: Callable[..., None]) -> None:
    """Register the ends of the bridges that the host has."""
    for name in names:
        end = _ENDS[name](config, _sender(send, name))
        config.pluginmanager.register(end, f"gvisor-bridge-{name}")


def _sender(send: Callable[..., None], name: str) -> Send:
    """Return a function that sends the data of one bridge."""
    return lambda **data: send("bridge", bridge=name, data=data)


class Junit:
    """A stand-in for pytest's JUnit report, for the fixtures that write to it while a test runs."""

    def __init__(self, config: pytest.Config, send: Send) -> None:
        self._send = send
        self.family = config.getini("junit_family")
        stash: Any = config.stash
        stash[xml_key] = self

    def add_global_property(self, name: str, value: object) -> None:
        """Send a property of the whole suite, for ``record_testsuite_property``."""
        _check_record_param_type("name", name)
        self._send(name=name, value=str(value))

    def node_reporter(self, nodeid: object) -> Element:
        """Return the element of a test, for ``record_xml_attribute``.

        The id is a text, or an object of pytest's whose text it is since 9.2.
        """
        return Element(str(nodeid), self._send)


class Element:
    """A stand-in for a test's element in the JUnit report."""

    def __init__(self, nodeid: str, send: Send) -> None:
        self._id = nodeid
        self._send = send

    def add_attribute(self, name: str, value: object) -> None:
        """Send an attribute."""
        self._send(id=self._id, name=name, value=str(value))


_ENDS: dict[str, Callable[[pytest.Config, Send], object]] = {"junit": Junit}
