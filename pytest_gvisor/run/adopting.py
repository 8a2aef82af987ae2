"""A driven run that was handed over before it was planned: it is used if it is the planned one."""

from __future__ import annotations

import contextlib
import os

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run.connected import Driven, DrivenSupervisor
from pytest_gvisor.run.pipes import Streams
from pytest_gvisor.run.recorded import CONFIG, Launched, Recorded
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.run.sentry import EVENTS, pod_init_config
from pytest_gvisor.run.supervisor import Supervisor
from pytest_gvisor.runsc.locate import Identity
from pytest_gvisor.sessions.launcher import Keeper, Launcher
from pytest_gvisor.sessions.session_folder import SessionDir


class _Differs(Exception):
    """Raised where the run that was handed over is not the planned one."""


class Adopting(Driven):
    """A driven run that takes over ``ahead`` if both are equal; else it begins by itself."""

    def __init__(
        self, request: Request, launcher: Launcher, record: Record, ahead: Launched
    ) -> None:
        super().__init__(request, launcher, record)
        self._ahead: Launched | None = ahead

    @property
    def adopted(self) -> bool:
        """Whether this run, which has started, is the one that was handed over."""
        return self._ahead is not None

    def start(self) -> DrivenSupervisor:
        """See `Driven.start`."""
        ahead = self._ahead
        try:
            return super().start()
        except (_Differs, GvisorError):
            # Whatever is wrong with it: the usual way comes upon it again.
            self._ahead = self._listener = None
            self.record.error = None
        except BaseException:  # Ctrl-C
            self._ahead = None
            raise
        finally:
            if ahead is not None and not self.adopted:
                ahead.close()
        return super().start()

    def _equal(self, *, same: bool) -> None:
        if not same:
            raise _Differs

    def _make_workspace(self, session: SessionDir) -> Workspace:
        ahead = self._ahead
        if ahead is None:
            return super()._make_workspace(session)
        ahead.end()
        self._equal(same=os.path.dirname(ahead.folder) == session.path and not self._wants_logs())
        netns = os.path.join(ahead.folder, "netns")
        return Workspace(id=ahead.id, folder=ahead.folder, shared=session.path, netns=netns)

    def _make_bundle(self, workspace: Workspace, spec: Spec) -> None:
        if self._ahead is None:
            super()._make_bundle(workspace, spec)
            return
        folder = workspace.path("bundle")
        data = Bundle.encode(folder, spec, terminal=self.request.terminal)
        self._equal(same=data == self._ahead.config)

    def _listen(self, workspace: Workspace) -> str:
        ahead = self._ahead
        if ahead is None:
            return super()._listen(workspace)
        listener, ahead.listener = ahead.listener, None
        self._listener = listener
        listens = listener is not None and self.request.runsc.has_flag("pod-init-config")
        self._equal(same=listens and ahead.events == pod_init_config(ahead.endpoint))
        return workspace.path(EVENTS)

    def _make_streams(self) -> Streams:
        ahead = self._ahead
        if ahead is None:
            return super()._make_streams()
        pipes, ahead.pipes = ahead.pipes, None
        if pipes is None:
            raise _Differs
        if not self.request.shared or ahead.max_output != self.request.settings.max_output:
            pipes.close()
            raise _Differs
        return pipes

    def _launch(self, supervisor: Supervisor, keeper: Keeper) -> None:
        ahead, runsc = self._ahead, self.request.runsc
        if ahead is None:
            super()._launch(supervisor, keeper)
            return
        runsc.check_unchanged()
        control, found = ahead.control, ahead.runsc
        if control is None or found is None or ahead.keeper is not keeper:
            raise _Differs
        self._equal(same=ahead.order == supervisor.order and Identity.of(found) == runsc.identity)
        ahead.control = None
        supervisor.adopt(keeper, control)


class Rehearsal(Driven):
    """A driven run that is not handed over."""

    def recorded(self) -> Recorded:
        """Return what it would be started with. Raises `GvisorError`, and as `recorded`."""
        with contextlib.ExitStack() as undo:
            _keeper, self.workspace, order = self._prepare(undo)
            return _recorded(self, order)


def recorded(driven: Driven) -> Recorded:
    """Return what a run was started with, for a later session.

    Raises `OSError`, or `ValueError` for a run that cannot be handed over before it is planned.
    """
    return _recorded(driven, driven.supervisor.order)


def _recorded(driven: Driven, order: Order) -> Recorded:
    request, workspace = driven.request, driven.workspace
    if not request.shared:
        raise ValueError("its streams are others")
    return Recorded.of(
        order,
        config=_text(os.path.join(workspace.path("bundle"), CONFIG)),
        events=_text(workspace.path(EVENTS)),
        runsc=request.runsc.path,
        max_output=request.settings.max_output,
    )


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
