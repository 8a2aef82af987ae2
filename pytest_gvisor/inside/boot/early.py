"""The sandbox that is started with the host's session, for the first tests inside.

It boots, and its pytest imports plugins, while the host imports what it needs and collects. No
thread waits for it: what it says stays in its sockets until the first test. It is used if the plan
that is made then is the same, and else removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.inside.boot import start
from pytest_gvisor.inside.view import host_files, run_options, users
from pytest_gvisor.plugin.placement import EARLY, variant_key
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.plugin.stash import engine_of


class Early:
    """The plugin that starts it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._owner = os.getpid()
        self._started: start.Started | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> Iterator[None]:
        """Remove the sandbox if no test runs inside."""
        result = yield
        if not any(variant_key in item.stash for item in session.items):
            self.discard()
        return result

    def begin(self) -> bool:
        """Start a sandbox for tests with the run's own settings, if it is clear which one.

        Return whether it was started. A problem is not reported here: the first test comes upon it
        again.
        """
        try:
            planned = self._plan()
            if planned is None:
                return False
            self._started = start.fresh(self._config, planned)
        except (GvisorError, pytest.UsageError, OSError, MemoryError):
            return False
        self._config.add_cleanup(self.discard)
        return True

    def greet(self) -> None:
        """Answer runsc, which waits for that before it boots the sandbox."""
        assert self._started is not None
        self._started.link.greet()

    def _plan(self) -> start.Plan | None:
        settings = run_settings(self._config)
        platforms = engine_of(self._config).platforms_of(settings)
        several = len(platforms) > 1 or len(settings.releases) > 1
        # kvm may hang for ever, and is tried first; so is a name that this version does not know.
        tried = platforms[0] is Platform.KVM or not platforms[0].is_known
        # With an image, no test can run inside.
        if several or tried or settings.image is not None:
            return None
        return start.plan(
            self._config,
            platform=platforms[0],
            settings=settings,
            inside=run_options.inside(self._config),
            user=users.of_run(self._config),
            items=None,
        )

    def take(self, plan: start.Plan) -> start.Started | None:
        """Return the sandbox for its first tests if one of ``plan`` starts like it.

        Else remove it. A second call returns nothing.
        """
        started = self._started
        if started is None:
            return None
        same = not started.plan.changed(plan) and self._owner == os.getpid()
        if not same or host_files.now(self._config, started.state) != started.state:
            self.discard()
            return None
        self._started = None
        return started

    def discard(self) -> None:
        """Remove the sandbox, if no test has taken it."""
        started, self._started = self._started, None
        if started is not None and self._owner == os.getpid():
            started.link.close()


def early(config: pytest.Config, plan: start.Plan) -> start.Started | None:
    """Return the sandbox that was started with the session, if it is one of this plan."""
    plugin: Early | None = config.pluginmanager.get_plugin(EARLY)
    return None if plugin is None else plugin.take(plan)
