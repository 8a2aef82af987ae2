"""The line at a session's start that says which runsc, platforms and network the tests get.

Finding and asking the binary takes time, which a session that uses no gVisor must not pay: so the
line comes early where something is configured, and otherwise after the collection, if a test
uses a sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.escape import escape
from pytest_gvisor.options import written
from pytest_gvisor.state import engine_of, settings_key

_FIXTURES = frozenset({"runsc", "gvisor", "gvisor_platform", "gvisor_sandboxes"})
_MARKERS = ("gvisor", "requires_runsc", "requires_kvm", "requires_platform")


def early(config: pytest.Config) -> str | None:
    """The line where a setting is written anywhere, else None."""
    return line(config) if written(config) else None


def late(config: pytest.Config, items: Sequence[pytest.Item]) -> str | None:
    """The line where `early` gave none and a collected test uses gVisor, else None."""
    # As pytest does with its own header: the output of --collect-only -q is read by programs.
    if config.get_verbosity() < 0 or written(config) or not any(map(uses_gvisor, items)):
        return None
    return line(config)


def uses_gvisor(item: pytest.Item) -> bool:
    """Whether a test has one of our fixtures or markers."""
    names = getattr(item, "fixturenames", ())
    return not _FIXTURES.isdisjoint(names) or any(item.get_closest_marker(m) for m in _MARKERS)


def line(config: pytest.Config) -> str:
    """``gvisor: runsc 20240729.0 (/usr/bin/runsc), systrap, network none``."""
    settings = config.stash[settings_key]
    engine = engine_of(config)
    try:
        runsc = engine.runsc(settings.runsc)
        names = ", ".join(engine.platforms_of(settings))
    except GvisorError as error:
        return f"gvisor: {escape(error.message.splitlines()[0])}"
    strict = ", strict" if settings.strict else ""
    return (
        f"gvisor: runsc {escape(runsc.version)} ({escape(runsc.path)}), {names}, "
        f"network {settings.network}{strict}"
    )
