"""The relay of an allow-list in a container of its own, in the sandbox of a run.

The sandbox's first container has the relay, with the host's Python. The workload is in the second
one. Its processes have numbers of their own, so it sees no process of the relay, and its root file
system has nothing of it. Both share the sandbox's loopback.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from pytest_gvisor.base.egress import Egress
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.spec import Namespace, Spec
from pytest_gvisor.oci.vocabulary import NamespaceType
from pytest_gvisor.programs.settling import SETTLED
from pytest_gvisor.run.host_sources import placed
from pytest_gvisor.run.outer_relay import OuterRelay
from pytest_gvisor.run.request import Request, Workspace
from pytest_gvisor.run.specification import spec_of
from pytest_gvisor.runsc.command import run_argv

FIRST_PROCESS = 2
"""The number of the workload's first process in the whole sandbox: the relay is process 1."""

_PAUSE = 0.005
_BUNDLE = "relay/bundle"
_KIND = "io.kubernetes.cri.container-type"


def _id(name: str) -> str:
    """Return the id of the relay's container, and so of the sandbox, for the run ``name``."""
    return "r" + name[1:]


def argv(
    request: Request, name: str, folder: str, flags: Sequence[str], link: int
) -> tuple[str, ...]:
    """Return the argv of ``runsc run`` for the relay of the run ``name``, as `run_argv` does."""
    network = request.settings.network
    return run_argv(_id(name), folder, request.platform, network, *flags, link=link, bundle=_BUNDLE)


def make(request: Request, workspace: Workspace) -> None:
    """Make the relay's bundle, and add its sources to those of the run. Raises `LaunchError`."""
    assert request.relay is not None
    own = dataclasses.replace(workspace, folder=workspace.path("relay"), shared="")
    spec = spec_of(request.relay, own, request.settings, request.way)
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


def last_egress(relay: OuterRelay) -> Egress:
    """Return the traffic of a workload that has ended, when all that it has sent is passed on.

    Its end has ended each connection, so there is an end to wait for. A host that reads nothing is
    waited for until the bound. Raises `LaunchError` if the relay does not answer.
    """
    until = time.monotonic() + SETTLED
    now = relay.egress(settled=True)
    while relay.sending and time.monotonic() < until:
        time.sleep(_PAUSE)
        now = relay.egress(settled=True)
    return now
