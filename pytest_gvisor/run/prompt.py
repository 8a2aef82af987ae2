"""A run that goes on with a ``runsc`` that waits for it, if there is one for such a run.

How a runsc waits, and which one, is `run.waiting`'s.
"""

from __future__ import annotations

import contextlib
import os

from pytest_gvisor.completed import Completed
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.oci.rootfs import host_system
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.request import Workspace
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.sentry import EVENTS
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.run.verdict import Verdict
from pytest_gvisor.run.waiting import Lobby, Waiting
from pytest_gvisor.sessions.launcher import Keeper
from pytest_gvisor.sessions.session_folder import SessionDir


class _Differs(Exception):
    """Raised where the runsc that waits is not the one that the run needs."""


class PromptRunner(Runner):
    """A runner that goes on with a runsc that waits, if there is one for such a run."""

    _ahead: Waiting | None = None
    _adopted: Waiting | None = None
    _next: Waiting | None = None

    def _run(self) -> Completed:
        ahead = None
        if self._is_plain():
            ahead = self._lobby.take(self.request, self.launcher)
        if ahead is not None:
            self._ahead = ahead
            try:
                return super()._run()
            except _Differs:
                self._ahead = self._listener = None
            finally:
                if self._adopted is None:
                    ahead.close()
                else:
                    ahead.let_go()
        return super()._run()

    @property
    def _lobby(self) -> Lobby:
        return Lobby.of(self.launcher)

    def _is_plain(self) -> bool:
        """Whether the run has no parts that a runsc cannot be given before."""
        request = self.request
        return not (request.restores or request.terminal or self._wants_logs())

    def _make_workspace(self, session: SessionDir) -> Workspace:
        ahead = self._ahead
        if ahead is None:
            return super()._make_workspace(session)
        if os.path.dirname(ahead.folder) != session.path:
            raise _Differs
        netns = os.path.join(ahead.folder, "netns")
        return Workspace(id=ahead.id, folder=ahead.folder, shared=session.path, netns=netns)

    def _listen(self, workspace: Workspace) -> str:
        if self._ahead is None:
            return super()._listen(workspace)
        self._listener, self._ahead.listener = self._ahead.listener, None
        return workspace.path(EVENTS)

    def _make_pipes(self) -> Pipes:
        if self._ahead is None:
            return super()._make_pipes()
        pipes, self._ahead.pipes = self._ahead.pipes, None
        if pipes is None:
            raise _Differs
        pipes.give(self.request.input)
        return pipes

    def _launch(self, supervisor: Supervisor, keeper: Keeper) -> None:
        ahead = self._ahead
        if ahead is None:
            super()._launch(supervisor, keeper)
            return
        self.request.runsc.check_unchanged()
        control = ahead.control
        if control is None or ahead.keeper is not keeper or not ahead.suits(supervisor.order):
            raise _Differs
        self._adopted, ahead.control = ahead, None
        supervisor.pid = ahead.pid
        supervisor.adopt(keeper, control)
        ahead.go_on()

    def _watch(self, supervisor: Supervisor) -> None:
        """Make what the next run needs while the workload of this one runs."""
        if self._is_plain() and may_wait(supervisor.order):
            supervisor.watch(until_start=True)
            with contextlib.suppress(GvisorError, OSError, ValueError):
                if supervisor.start is not None and self._lobby.wants(supervisor.order):
                    self._next = Waiting(self.launcher.keeper(), supervisor.order, self.request)
        super()._watch(supervisor)

    def _judge(self, workspace: Workspace, supervisor: Supervisor) -> Verdict:
        if self._adopted is not None:
            self._adopted.end_log()
        return super()._judge(workspace, supervisor)

    def _clean(self, supervisor: Supervisor) -> tuple[str, ...]:
        following, self._next = self._next, None
        waits = False
        try:
            leaks = super()._clean(supervisor)
            # Not before: the keeper does one thing after the other.
            if following is not None and supervisor.status is not None:
                with contextlib.suppress(GvisorError):
                    waits = self._lobby.put(following)
        finally:
            if following is not None and not waits:
                following.close()
        return leaks


def may_wait(order: Order) -> bool:
    """Whether a runsc can wait with this order.

    Limits, namespaces and mounts are made for one run. So are read-only binds of a user's folders:
    another folder may have the name of such a source by then. The host's own folders are always
    the same.
    """
    system = {source for _target, source in host_system().binds}
    alone = order.cgroups or order.netns or order.binds or order.writable
    hides = order.hide_net_sysctls or order.terminal
    return not (alone or hides) and system.issuperset(order.readonly)
