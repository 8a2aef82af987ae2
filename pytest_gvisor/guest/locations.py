"""The locations of tests in the pytest inside, without a look at the file system for each.

pytest asks for each test whether the file of its function exists, which is slow in a sandbox. The
location is the same for both answers. Used by worker.py alone; imports pytest only after
``sys.path`` is the host's.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


class Locations:
    """A plugin that gives a test its location, before pytest takes one for a report."""

    def __init__(self) -> None:
        from _pytest.compat import get_real_func  # noqa: PLC0415 -- sys.path is the host's only now
        from _pytest.nodes import Item  # noqa: PLC0415
        from _pytest.pathlib import absolutepath  # noqa: PLC0415
        from _pytest.python import PyobjMixin  # noqa: PLC0415

        self._real, self._absolute = get_real_func, absolutepath
        self._usual = PyobjMixin.reportinfo, Item.location

    def pytest_runtest_protocol(self, item: Any) -> None:
        """Leave a test to pytest that is no usual function."""
        with suppress(Exception):  # pytest comes upon it again
            self.settle(item)

    def settle(self, item: Any) -> None:
        """Store the location of a test that is a function, where `Item.location` stores it."""
        kind = type(item)
        if (kind.reportinfo, kind.location) != self._usual:
            return
        function = self._real(item.obj)  # type: ignore[no-untyped-call]
        code = getattr(function, "__code__", None)
        if type(code) is not CodeType or hasattr(function, "place_as"):
            return
        if os.path.isabs(code.co_filename):
            path = item.session._node_location_to_relpath(self._absolute(code.co_filename))
            vars(item).setdefault("location", (path, code.co_firstlineno - 1, item.getmodpath()))


def register(config: pytest.Config) -> None:
    """Give each test its location when it begins."""
    import pytest  # noqa: PLC0415 -- sys.path is the host's only now

    pytest.hookimpl(tryfirst=True)(Locations.pytest_runtest_protocol)
    config.pluginmanager.register(Locations(), "gvisor-locations")
