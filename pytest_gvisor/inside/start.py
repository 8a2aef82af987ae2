"""The start of a pytest inside: its root file system, its sandbox, the first command."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor import guest
from pytest_gvisor.inside import (
    configuration,
    families,
    host_files,
    program,
    root_ahead,
    unwanted,
    users,
    visible,
    writable,
)
from pytest_gvisor.inside.link import Died, Link
from pytest_gvisor.oci.defaults import CAPABILITIES, default_spec
from pytest_gvisor.oci.mounts import bind, covers
from pytest_gvisor.oci.rootfs import host
from pytest_gvisor.oci.spec import Capabilities
from pytest_gvisor.plugin.stash import engine_of
from pytest_gvisor.run import following
from pytest_gvisor.run.adopting import Adopting, Rehearsal
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.request import Record, Request, Workspace
from pytest_gvisor.run.specification import id_mappings
from pytest_gvisor.runsc import rootless
from pytest_gvisor.runsc.rootless import Caller, Way
from pytest_gvisor.setting_table import DEFAULT_MAX_OUTPUT
from pytest_gvisor.settings import Platform

if TYPE_CHECKING:
    from pytest_gvisor.inside.returned import Taker
    from pytest_gvisor.inside.root_ahead import RootAhead
    from pytest_gvisor.oci.spec import Mount, Spec
    from pytest_gvisor.run.recorded import Launched, Recorded
    from pytest_gvisor.runsc.binary import Runsc
    from pytest_gvisor.settings import Settings

_PYTHON_PATH = "PYTHONPATH"
_TMP = "/tmp"
_EACH_RUN_ENV = ("PYTEST_XDIST_TESTRUNUID",)
_EACH_RUN_OPTIONS = ("randomly_seed",)
"""The option of pytest-randomly, which draws one where none is given."""
_PROGRAM = os.path.join(os.path.abspath(guest.__path__[0]), "begin.py")


@dataclass(frozen=True, kw_only=True)
class Inside:
    """The settings of a pytest inside, apart from those of any sandbox."""

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The environment variables."""

    held_back: tuple[str, ...] = ()
    """Names of the host's variables that tests inside may miss."""

    readable: tuple[str, ...] = ()
    """Files and folders of the host that are shown beside the project."""

    writable: tuple[str, ...] = ()
    """Folders of the host that writes go through to."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a sandbox is started with, up to its tests: equal plans start equal sandboxes."""

    runsc: Runsc
    platform: Platform
    settings: Settings
    way: Way
    shown: visible.Shown
    inside: Inside
    inhabitant: users.Inhabitant | None
    command: Mapping[str, Any]
    """The first command to the pytest, apart from ``sys.path``."""

    def of_this_run(self) -> dict[str, Any]:
        """Return the values that differ in each run: the pytest gets them with its tests."""
        env, options = self.inside.env, self.command["options"]
        return {
            "env": {name: env[name] for name in _EACH_RUN_ENV if name in env},
            "options": {name: options[name] for name in _EACH_RUN_OPTIONS if name in options},
            "worker": self.command["worker"],
            "lines": {name: self.command["program"][name] for name in ("argv", "orig_argv")},
        }

    def of_each_run(self) -> Plan:
        """Return the plan without the values of `of_this_run`."""
        values = self.of_this_run()
        env = {name: v for name, v in self.inside.env.items() if name not in values["env"]}
        options = self.command["options"].items()
        command = {
            **self.command,
            "options": {name: v for name, v in options if name not in values["options"]},
            "worker": values["worker"] and values["worker"]["worker_id"],
        }
        inside = dataclasses.replace(self.inside, env=env)
        return dataclasses.replace(self, inside=inside, command=command)

    def changed(self, other: Plan) -> list[str]:
        """Return the names of fields by which two sandboxes differ up to the gate.

        The gate decides on files and folders.
        """
        ours, theirs = (
            dataclasses.replace(plan, command={**plan.command, "args": None})
            for plan in (self, other)
        )
        names = (field.name for field in dataclasses.fields(self))
        return [name for name in names if getattr(ours, name) != getattr(theirs, name)]

    def starts_like(self, other: Plan) -> bool:
        """Whether both start equal sandboxes up to the gate."""
        return not self.changed(other)


def plan(
    config: pytest.Config,
    *,
    platform: Platform,
    settings: Settings,
    inside: Inside,
    user: str,
    items: Sequence[pytest.Item] | None,
) -> Plan:
    """Plan a sandbox on ``platform`` for ``items``; None where they are not known yet.

    ``user`` is the tests', as `users.read` returns it. Raises `GvisorError`.
    """
    engine = engine_of(config)
    way = rootless.decide(settings.rootless, Caller.read(os.geteuid()), settings.network)
    shown = visible.shown(config, items or (), inside.readable)
    return Plan(
        runsc=engine.binary(settings),
        platform=platform,
        settings=settings,
        way=way,
        shown=shown,
        inside=inside,
        inhabitant=users.inhabitant(user, way, shown.paths),
        command={
            "options": configuration.travelling(config),
            "args": configuration.arguments(config, items),
            "held_back": inside.held_back,
            "worker": _worker(config),
            "cwd": str(config.invocation_params.dir),
            "coverage": configuration.coverage(config),
            "families": families.missing(settings),
            "program": program.names(),
            "python_path": inside.env.get(_PYTHON_PATH),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Started:
    """A sandbox, how it was started, and the host's files at that time."""

    link: Link
    plan: Plan
    state: host_files.State


def begin(config: pytest.Config, plan: Plan, *, watched: bool = False) -> Started:
    """Start the sandbox of a plan as `launch` does."""
    state = host_files.of_start(config, plan.shown)
    return Started(link=launch(config, plan, watched=watched), plan=plan, state=state)


def launch(
    config: pytest.Config,
    plan: Plan,
    saved: str = "",
    roots: str = "",
    *,
    watched: bool = False,
    ahead: Launched | None = None,
) -> Link:
    """Start the sandbox of a plan, whose pytest imports its plugins. Raises `GvisorError`.

    ``saved`` is the folder of a sandbox of the same plan that was saved at its gate. With it, the
    pytest goes on from there. ``roots`` is a folder for skeletons of copies, if not the session's:
    one of the same plan may be there. With ``watched``, the pytest notes whether its command line
    is read up to the gate. ``ahead`` was handed over before, and is used if it is equal.
    """
    root = root_ahead.of(config)
    if root is not None:
        root.end()  # before a keeper that does not come up takes the session's folder with it
    request = _request(plan, saved, roots, root)
    launcher, record = engine_of(config).launcher, Record()
    if ahead is None:
        driven = Driven(request, launcher, record)
    else:
        driven = Adopting(request, launcher, record, ahead)
    link = Link(driven, copy=bool(saved))
    if not saved:
        path = configuration.search_path()
        _command(link, "start", **plan.command, sys_path=path, watched=watched)
        _supply(link, plan)
    return link


def foreseen(config: pytest.Config, plan: Plan, saved: str, roots: str) -> Recorded:
    """Return what `launch` will hand over with a saved sandbox; its root is made by that.

    Raises `GvisorError`, `OSError`, or `ValueError` if it cannot be known.
    """
    request = _request(plan, saved, roots, None)
    return Rehearsal(request, engine_of(config).launcher, Record()).recorded()


def _request(plan: Plan, saved: str, roots: str, ahead: RootAhead | None) -> Request:
    return Request(
        runsc=plan.runsc,
        platform=plan.platform,
        # The limit on output is that of a workload, and not of what a pytest inside shows.
        settings=dataclasses.replace(plan.settings, max_output=DEFAULT_MAX_OUTPUT),
        make_spec=lambda workspace: _spec(
            workspace, plan, shared=(roots or workspace.shared) if saved else None, ahead=ahead
        ),
        # With folders to bind, the child makes the user namespace itself: see programs/child.py.
        way=Way.OWN if plan.way is Way.FLAG else plan.way,
        # A file of the host's that is mapped there has not been tried on kvm's page tables.
        shared=plan.platform is not Platform.KVM,
        restores=saved,
    )


def collect(
    link: Link,
    *,
    items: Sequence[pytest.Item],
    named: Sequence[str],
    bridges: Sequence[str],
    taker: Taker | None = None,
    of_this_run: Mapping[str, Any],
) -> None:
    """Let the pytest of a sandbox configure itself, and collect ``items``.

    ``named`` are the files and folders of its command line.
    """
    _command(
        link,
        "collect",
        copy=link.copy,
        named=named,
        files=configuration.files(items),
        unwanted=unwanted.names(items),
        sys_path=configuration.search_path(),
        bridges=bridges,
        **of_this_run,
        returns=None if taker is None else taker.command(),
        basetemp=None if taker is None else taker.agreed.basetemp,
    )


def _supply(link: Link, plan: Plan) -> None:
    try:
        link.supply(plan.shown.holds)
    except BaseException:  # Ctrl-C
        link.close()
        raise


def _command(link: Link, op: str, **fields: Any) -> None:
    try:
        link.send(op, **fields)
    except Died:
        pass  # whoever receives hears of it too, and what the link then tells says why
    except BaseException:
        link.close()
        raise


def _worker(config: pytest.Config) -> dict[str, str] | None:
    """Return the values of xdist's fixtures in a worker; None in a run without workers."""
    given: dict[str, str] | None = getattr(config, "workerinput", None)
    return given and {"worker_id": given["workerid"], "testrun_uid": given["testrunuid"]}


def _spec(workspace: Workspace, plan: Plan, *, shared: str | None, ahead: RootAhead | None) -> Spec:
    """Make the root file system, and the specification for it.

    ``shared`` is a folder where sandboxes of the same plan have one skeleton, to which none can
    write. Without it, one is made for this sandbox alone, which is faster.
    """
    settings, shown, inside, inhabitant = plan.settings, plan.shown, plan.inside, plan.inhabitant
    mounts = [bind(path, path) for path in shown.paths]
    mounts += writable.mounts(inside.writable)
    account = inhabitant.account if inhabitant else None
    common = None if shown.adds else shared
    if ahead is not None and common is None:
        ahead.take(workspace.folder)
    prepared = host().prepare(workspace.folder, mounts=mounts, shared=common, account=account)
    if shown.adds:
        shown.complete(prepared.root_path)
    workspace.binds.extend(
        (mount.source, prepared.root_path + mount.destination)
        for mount in sorted(prepared.mounts, key=lambda mount: mount.destination.count("/"))
        if _is_shown(mount)
    )
    sessions = os.path.dirname(os.path.dirname(workspace.folder))
    hidden = covers(prepared.root_path, prepared.mounts, session=sessions)
    identity = [inhabitant.argument(prepared)] if inhabitant else []
    # The first Python starts without: it imports its own modules before sys.path is the host's.
    env = {name: value for name, value in inside.env.items() if name != _PYTHON_PATH}
    spec = default_spec(
        [*program.command(_PROGRAM), *identity],
        root_path=prepared.root_path,
        env={**({"HOME": account.home} if account else {}), **env},
        cwd=shown.start,
        mounts=[*hidden, *(mount for mount in prepared.mounts if not _is_shown(mount))],
        path=prepared.path,
        network=settings.network,
        netns=settings.netns or workspace.netns_if(settings.network),
        memory=settings.memory,
        pids=settings.pids,
        cpus=settings.cpus,
        shm=following.shm(settings),
        nofile=following.nofile(settings),
        id_mappings=id_mappings(plan.way),
    )
    # The root's overlay is memory too; a tmpfs would hide a project that lies in /tmp.
    kept = tuple(mount for mount in spec.mounts if mount.destination != _TMP)
    spec = dataclasses.replace(spec, mounts=kept)
    return _may_add_addresses(spec) if families.missing(settings) else spec


def _may_add_addresses(spec: Spec) -> Spec:
    """Give the first process the right that it gives up again: see `guest.loopback`."""
    held = (*CAPABILITIES, "CAP_NET_ADMIN")
    sets = Capabilities(bounding=held, effective=held, permitted=held)
    return dataclasses.replace(spec, process=dataclasses.replace(spec.process, capabilities=sets))


def _is_shown(mount: Mount) -> bool:
    """Whether a mount is a folder of the host whose changes stay inside."""
    return mount.is_bind and "ro" in mount.options
