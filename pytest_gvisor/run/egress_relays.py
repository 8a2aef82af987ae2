"""The two relays of an allow-list: one beside pytest, and one in the sandbox of a run.

The one in the sandbox has a container of its own, the first, with the host's Python. The workload
is in the second one. Its processes have numbers of their own, so it sees no process of the relay,
and its root file system has nothing of it. Both share the sandbox's loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from pytest_gvisor.base.egress import Egress, Traffic
from pytest_gvisor.base.errors import LaunchError, on_error, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.spec import Namespace, Spec
from pytest_gvisor.oci.vocabulary import NamespaceType
from pytest_gvisor.programs import clock, relay
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import ENVIRONMENT, command
from pytest_gvisor.programs.settling import SETTLE, SETTLED
from pytest_gvisor.run.host_sources import placed
from pytest_gvisor.run.request import Request, Workspace
from pytest_gvisor.run.specification import spec_of
from pytest_gvisor.run.workload import Workload
from pytest_gvisor.runsc.command import run_argv

FIRST_PROCESS = 2
"""The number of the workload's first process in the whole sandbox: the relay is process 1."""

_PAUSE = 0.005
_BUNDLE = "relay/bundle"
_KIND = "io.kubernetes.cri.container-type"
_PATIENCE = 10.0
_MAX_MESSAGE = 1024 * 1024


class OuterRelay(contextlib.AbstractContextManager["OuterRelay"]):
    """The process of `programs.relay`, which ends at the latest when this process does."""

    def __init__(
        self, allow: Sequence[str], ports: Sequence[tuple[str, str]], found: Sequence[str]
    ) -> None:
        """Start it. ``ports`` are the entries with a unix socket of another sandbox.

        ``found`` are the places of the entries. Raises `LaunchError`.
        """
        self.allow, self.places, self._guard = allow, found, threading.Lock()
        self._last = Egress(entries=tuple(Traffic(entry=entry) for entry in allow))
        self._owner, self._asked = os.getpid(), 0
        self.sending = 0
        """How many connections the sandbox had not ended, by the last figures."""

        self.failure: LaunchError | None = None
        """Why the last figures are not whole, if the relay has not told them."""

        with stage("relay", "its sockets cannot be made"):
            self.link, link = socket.socketpair()
            self._control, control = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE)
        led = {entry: f"{entry}={path}" for entry, path in ports}
        words = [led.get(entry, entry) for entry in allow]
        nothing, closes = subprocess.DEVNULL, on_error(self._control.close)
        starts = stage("relay", "its program cannot be started")
        with link, control, closes, starts, closing(os.pidfd_open(self._owner)) as pidfd:
            fds = link.fileno(), control.fileno(), pidfd
            self._process = subprocess.Popen(
                command(relay.__file__, *fds, *words), pass_fds=fds, env=ENVIRONMENT, cwd="/",
                stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True,
            )  # fmt: skip

    @property
    def is_open(self) -> bool:
        """Whether it has not been ended. In a fork it is not: it is the parent's."""
        return self._control.fileno() >= 0 and self._owner == os.getpid()

    def egress(self, *, settled: bool = False) -> Egress:
        """Return the traffic so far; ``settled`` waits for what the sandbox has sent and is not
        counted yet.

        If the relay does not answer, it is the traffic by the last answer, with that error.
        """
        with self._guard:
            if self.is_open:
                self._ask(SETTLE if settled else b"now")
            return self._last

    def _ask(self, question: bytes) -> None:
        """Have it tell its figures; a ``question`` of none is the last one, and ends it."""
        self.failure, found = None, dict[str, Any]()
        self._asked += 1
        try:
            with stage("relay", "it does not answer"):
                if question:
                    self._control.send(b"%b %d" % (question, self._asked))
                else:
                    # A fork of this process may hold the socket too: a close would not end it.
                    self._control.shutdown(socket.SHUT_WR)
                # The wait for an earlier answer may have ended by a Ctrl-C, or too soon.
                while found.get("to") != (str(self._asked) if question else "the end"):
                    if not (answer := self._control.recv(_MAX_MESSAGE)):
                        raise ConnectionResetError(errno.ECONNRESET, "it has ended")
                    found = self._take(answer)
        except LaunchError as error:
            self.failure = error
            self._last = self._last._replace(error="not all is counted: the relay does not answer")

    def _take(self, answer: bytes) -> dict[str, Any]:
        """Note the figures in an answer, and return it."""
        found: dict[str, Any] = loads(answer)
        pairs = zip(self.allow, found["entries"], strict=True)
        entries = tuple(Traffic(entry=entry, **counts) for entry, counts in pairs)
        names = tuple(Traffic(**{**one, "entry": escape(one["entry"])}) for one in found["names"])
        self.sending = found["sending"]
        self._last = Egress(entries=entries, error=escape(found["error"]), names=names)
        return found

    def __exit__(self, *_: object) -> None:
        """End it: nothing is connected any more. The last figures stay."""
        if not self.is_open:
            return
        try:
            with self._guard:
                self._ask(b"")
        finally:
            with self._guard:
                self._control.close()
            self.link.close()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _id(name: str) -> str:
    """Return the id of the relay's container, and so of the sandbox, for the run ``name``."""
    return "r" + name[1:]


def argv(
    request: Request, name: str, folder: str, flags: Sequence[str], link: int
) -> tuple[str, ...]:
    """Return the argv of ``runsc run`` for the relay of the run ``name``, as `run_argv` does."""
    network = request.settings.network
    return run_argv(_id(name), folder, request.platform, network, *flags, link=link, bundle=_BUNDLE)


def make(workload: Workload, request: Request, workspace: Workspace) -> None:
    """Make the bundle of the relay, and add its sources to those of the run.

    ``workload`` is the relay. Raises `LaunchError`.
    """
    own = dataclasses.replace(workspace, folder=workspace.path("relay"), shared="")
    spec = spec_of(workload, own, request.settings, request.way)
    told, sources = placed(spec, own)
    workspace.sources.extend(sources)
    Bundle.create(own.path("bundle"), told, annotations={_KIND: "sandbox"})


def beside(spec: Spec, name: str) -> tuple[Spec, dict[str, str]]:
    """Return the specification of the second container of the run ``name``, and its annotations.

    Without process ids of its own, it would see the relay.
    """
    others = [one for one in spec.linux.namespaces if one.type is not NamespaceType.PID]
    spaces = (Namespace(type=NamespaceType.PID), *others)
    linux = dataclasses.replace(spec.linux, namespaces=spaces)
    annotations = {_KIND: "container", "io.kubernetes.cri.sandbox-id": _id(name)}
    return dataclasses.replace(spec, linux=linux), annotations


def last_egress(outer: OuterRelay) -> Egress:
    """Return the traffic of a workload that has ended, when all that it has sent is passed on.

    Its end has ended each connection, so there is an end to wait for. A host that reads nothing is
    waited for until the bound, and the figures say so.
    """
    until = clock.monotonic() + SETTLED
    now = outer.egress(settled=True)
    while outer.sending and not now.error and clock.monotonic() < until:
        time.sleep(_PAUSE)
        now = outer.egress(settled=True)
    late = f"not all is counted: after {SETTLED:g} s, a connection has not ended"
    return now._replace(error=late) if outer.sending and not now.error else now
