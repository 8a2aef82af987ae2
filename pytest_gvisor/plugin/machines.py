"""The machines of xdist's workers: which they are, and what follows if one of them is lost.

A worker on another machine is a session of its own there. The controller knows the machine's facts
before the worker begins, so that it can name one that is lost in its first test.
"""

from __future__ import annotations

import _thread
import contextlib
import copy
import functools
import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.plugin import machine_facts, options, placement

ELSEWHERE = "gvisor_elsewhere"
"""The key by which a worker is told that it runs on another machine than its controller."""

_PATIENCE = 20.0
_last_key: pytest.StashKey[str] = pytest.StashKey()
_nodes_key: pytest.StashKey[dict[str, tuple[Any, Machine]]] = pytest.StashKey()
"""The workers of a session by their ids, and those that have ended."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The facts of one machine."""

    uname: os.uname_result
    identity: str
    python: str
    plugin: str

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Machine:
        """Return the machine of these facts, in the form of `machine_facts`."""
        return cls(**{**facts, "uname": os.uname_result(facts["uname"])})

    @property
    def host(self) -> str:
        """Its name in its network."""
        return self.uname.nodename


@functools.cache
def here() -> Machine:
    """Return this machine."""
    return Machine.of(machine_facts.facts())


def of_workers(config: pytest.Config) -> dict[str, Machine]:
    """Return the machine of each worker that this session has had, by the worker's id."""
    return {name: found for name, (_node, found) in config.stash.get(_nodes_key, {}).items()}


def meet(node: Any) -> None:
    """Note the machine of a worker that xdist is about to start; tell it that, and the settings."""
    spec, found = node.gateway.spec, here()
    if not spec.popen or spec.python or spec.via:  # else it is a child of this very process
        channel = node.gateway.remote_exec(machine_facts)
        found = Machine.of(channel.receive(_PATIENCE))
        channel.waitclose(_PATIENCE)
    node.workerinput[ELSEWHERE] = found.identity != here().identity
    given = {name: value for name, (value, _source) in options.written(node.config).items()}
    given["in_gvisor"] = placement.is_asked_for(node.config)
    node.workerinput[placement.GIVEN] = given
    node.config.stash.setdefault(_nodes_key, {})[node.gateway.id] = node, found


def refuse_without_plugin(node: Any, *, ran: bool) -> None:
    """Raise `pytest.UsageError` for a worker without this plugin, if that makes a difference.

    It does if gVisor is configured, or if tests ``ran`` there that were to run inside.
    """
    if ran or options.written(node.config) or placement.is_asked_for(node.config):
        where = host_of(node.config, node.gateway.id) or "this machine"
        raise pytest.UsageError(
            f"pytest-gvisor: worker {node.gateway.id} on {where} has not loaded this plugin, so "
            "nothing ran under gVisor there. Install pytest-gvisor for its Python, without "
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD and -p no:gvisor"
        )


def host_of(config: pytest.Config, worker: str) -> str:
    """Return the name of a worker's machine; empty for this one."""
    found = of_workers(config).get(worker, here())
    return "" if found.identity == here().identity else found.host


def name_lost(config: pytest.Config, report: pytest.TestReport) -> None:
    """Add the machine to the report of a test that was lost there, unless it is this one."""
    node: Any = getattr(report, "node", None)  # pytest-forked reports a lost child so, too
    if node is not None and (host := host_of(config, node.gateway.id)):
        report.longrepr = f"{report.longrepr} on {host}"


def replace_lost(node: Any) -> None:
    """Let xdist start the worker for a lost one on a machine that answers.

    xdist starts it where the lost one was. If nobody answers there, that would end the session.
    """
    nodes = node.config.stash.get(_nodes_key, {})
    if not node.workerinput.get(ELSEWHERE) or _answers(node):
        return
    lost = nodes[node.gateway.id][1]
    others = [other for other, machine in nodes.values() if machine != lost]
    # A closed channel is that of a lost worker, or of one that xdist had no more tests for.
    for other in sorted(others, key=lambda other: other.channel.isclosed()):
        if not other.channel.isclosed() or _answers(other):
            node.gateway.spec = copy.copy(other.gateway.spec)
            return
    node.config.stash[_last_key] = lost.host


def exit_without_machines(config: pytest.Config) -> None:
    """End the session with the reason, if it has lost its last machine: xdist could not go on."""
    if host := config.stash.get(_last_key, ""):
        pytest.exit(f"no machine is left for xdist's workers: {host} does not answer any more")


def _answers(node: Any) -> bool:
    spec = node.gateway.spec
    if spec.via:  # by another gateway of the session's, which is lost with its machine
        return bool(node.nodemanager.group[spec.via].hasreceiver())
    execnet = sys.modules["execnet"]  # xdist has imported it
    group = execnet.Group()
    try:
        probe = group.makegateway(execnet.XSpec(str(spec)))
        probe.remote_exec(machine_facts).receive(_PATIENCE)
    except (execnet.HostNotFound, execnet.RemoteError, OSError, EOFError):
        return False
    else:
        return True
    finally:
        group.terminate(1.0)


def end_with_controller(config: pytest.Config) -> threading.Event:
    """Interrupt this worker as soon as its controller is gone, until the event is set.

    xdist itself does that after five seconds. A worker on the controller's own machine gets the
    signals of the terminal.
    """
    plugins = config.pluginmanager.get_plugins()
    (channel,) = (one.channel for one in plugins if type(one).__name__ == "WorkerInteractor")
    ended = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError, EOFError):
            channel.waitclose()
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    # A thread of threading's has the tracer of pytest-cov. It outlives the tracer, and Python 3.11
    # then aborts in its last garbage collection: "corrupted size vs. prev_size".
    _thread.start_new_thread(watch, ())
    return ended
