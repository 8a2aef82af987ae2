"""The header line at a session's start: runsc, platforms and network of the tests.

Finding and asking the binary takes time, which a session that uses no gVisor must not pay. So the
line comes early where something is configured. Otherwise it comes after the collection, if a test
uses a sandbox.
"""

from __future__ import annotations

import pytest

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_values import NATIVE
from pytest_gvisor.base.settings import on_release as settings_on
from pytest_gvisor.harness.engine import ALREADY_INSIDE, NO_NESTING
from pytest_gvisor.plugin.placement import already_inside
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.plugin.stash import engine_of
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.locate import Origin
from pytest_gvisor.sessions import session_folder


def line(config: pytest.Config) -> str:
    """Return ``gvisor: runsc 20240729.0 (/usr/bin/runsc), systrap, network none``."""
    settings = run_settings(config)
    engine = engine_of(config)
    native = [NATIVE] if settings.native else []
    names = ", ".join([*native, *engine.platforms_of(settings)])
    strict = ", strict" if settings.strict else ""
    # xdist's option for each worker; those of -n are on this machine.
    if any("popen" not in spec for spec in config.getoption("tx", None) or []):
        return f"gvisor: {names}, network {settings.network}{strict}, runsc of each machine"
    if where := already_inside():
        return f"gvisor: {ALREADY_INSIDE} {where}, {NO_NESTING}"
    each = [settings_on(settings, release.label) for release in settings.releases] or [settings]
    try:
        found = ", ".join(_binary(engine.runsc(one.runsc), one.label) for one in each)
        path, passed = session_folder.choose_base()
    except GvisorError as error:
        return f"gvisor: {escape(error.message.splitlines()[0])}"
    # The place of the sessions, unless it is the usual one.
    where = escape(f"; sessions are in {path}, because of {'; '.join(passed)}") if passed else ""
    return f"gvisor: {found}, {names}, network {settings.network}{strict}{where}"


def _binary(runsc: Runsc, label: str) -> str:
    """Return ``runsc 20240729.0 (/usr/bin/runsc)``, with its label, or why it was taken."""
    path = escape(runsc.path)
    if not label and runsc.origin is not Origin.SEARCH:
        path += f", {runsc.origin}"
    shown = f"runsc {escape(runsc.version)} ({path})"
    passed = f" ({escape(runsc.passed)})" if runsc.passed else ""
    return f"{label}: {shown}" if label else f"{shown}{passed}"
