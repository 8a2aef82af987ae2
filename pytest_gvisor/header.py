"""The line at a session's start that says which runsc, platforms and network the tests get.

Finding and asking the binary takes time, which a session that uses no gVisor must not pay: so the
line comes early where something is configured, and otherwise after the collection, if a test
uses a sandbox.
"""

from __future__ import annotations

import pytest

from pytest_gvisor.configured import run_settings
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.escape import escape
from pytest_gvisor.settings import NATIVE
from pytest_gvisor.state import engine_of


def line(config: pytest.Config) -> str:
    """``gvisor: runsc 20240729.0 (/usr/bin/runsc), systrap, network none``."""
    settings = run_settings(config)
    engine = engine_of(config)
    try:
        runsc = engine.runsc(settings.runsc)
        native = [NATIVE] if settings.native else []
        names = ", ".join([*native, *engine.platforms_of(settings)])
    except GvisorError as error:
        return f"gvisor: {escape(error.message.splitlines()[0])}"
    broken = ""
    if any(engine.known_broken(runsc, one) for one in engine.platforms_of(settings)):
        broken = "; this build of runsc is broken, see pytest-gvisor doctor"
    strict = ", strict" if settings.strict else ""
    return (
        f"gvisor: runsc {escape(runsc.version)} ({escape(runsc.path)}), {names}, "
        f"network {settings.network}{strict}{broken}"
    )
