"""A session without pytest, for scripts, notebooks and other test runners."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Unpack

from pytest_gvisor.errors import UsageError
from pytest_gvisor.harness.engine import Engine
from pytest_gvisor.harness.gvisor import Gvisor
from pytest_gvisor.run.request import Hooks
from pytest_gvisor.settings import SessionSettings, Settings, replaced


@contextlib.contextmanager
def session(**settings: Unpack[SessionSettings]) -> Iterator[Gvisor]:
    """Yield a `Gvisor` on one platform; at the end, nothing that it has started is left.

    ``settings`` are those of the ``gvisor`` marker. Raises `UsageError`, `RunscNotFound`,
    `InsecureRunsc`, `RunscFailed`, `LaunchError`, or `PlatformUnavailable` where the platform does
    not work here.
    """
    chosen = replaced(Settings(), settings)
    if len(chosen.platforms) > 1 or chosen.native:
        raise UsageError("a session runs on one platform", next_step="Make one for each.")
    engine = Engine()
    with contextlib.ExitStack() as undo:
        undo.callback(engine.close)
        platform = engine.platforms_of(chosen)[0]
        engine.availability(platform, chosen).check()
        gvisor = engine.gvisor(platform, chosen, Hooks())
        undo.callback(gvisor.close)
        yield gvisor
