"""The start of a pytest inside: its root file system, its sandbox, the first command."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_gvisor import guest
from pytest_gvisor.base.egress import hosts_lines, places, proxied
from pytest_gvisor.base.errors import UsageError, on_error, stage
from pytest_gvisor.base.setting_table import DEFAULT_MAX_OUTPUT
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.inside.view import configuration, host_files, users, visible, writable
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.wire import byte_code
from pytest_gvisor.inside.wire.link import Died, Link
from pytest_gvisor.oci import root_paths, skeleton
from pytest_gvisor.oci.defaults import CAPABILITIES, default_spec
from pytest_gvisor.oci.mounts import covers
from pytest_gvisor.oci.spec import Capabilities, Mount, Spec
from pytest_gvisor.plugin.stash import engine_of
from pytest_gvisor.programs.paths import within
from pytest_gvisor.programs.sources import Source
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.run.pipes import SharedStreams, Streams
from pytest_gvisor.run.request import Record, Request, Workspace, workspace_of
from pytest_gvisor.run.runner import Runner
from pytest_gvisor.run.specification import arguments, way_of
from pytest_gvisor.runsc.rootless import Way

if TYPE_CHECKING:
    from pytest_gvisor.inside.back.returned import Taker
    from pytest_gvisor.oci.rootfs import Prepared
    from pytest_gvisor.runsc.binary import Runsc

_PYTHON_PATH = "PYTHONPATH"
_HASH_SEED = "PYTHONHASHSEED"
_SEED = str(secrets.randbelow(2**32))
"""The seed of `hash` in each sandbox of this process: parameters that come from a set keep their
order, so that no sandbox runs one again in place of another."""

_PROGRAM = os.path.join(os.path.abspath(guest.__path__[0]), "tests", "begin.py")


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

    def changed(self, other: Plan) -> bool:
        """Whether two sandboxes differ up to the gate.

        The gate decides on files and folders.
        """
        ours, theirs = (
            dataclasses.replace(plan, command={**plan.command, "args": None})
            for plan in (self, other)
        )
        return ours != theirs


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
    way = way_of(settings)
    shown = visible.shown(config, items or (), inside.readable)
    settings.check_allow()
    if settings.allow and any(within("/etc/hosts", path) for path in shown.paths):
        raise UsageError("/etc/hosts is made for allow=[…], so the host's cannot be shown")
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
            "pickled": configuration.pickled(config),
            "args": configuration.arguments(config, items),
            "read_as": configuration.read_as(config),
            "held_back": inside.held_back,
            "worker": _worker(config),
            "cwd": str(config.invocation_params.dir),
            "umask": configuration.umask(),
            "coverage": configuration.coverage(config),
            "families": configuration.families(settings),
            "program": configuration.program(),
            "environ": {name: inside.env.get(name) for name in (_PYTHON_PATH, _HASH_SEED)},
        },
    )


class Started(NamedTuple):
    """A sandbox on the way to its gate, how it was started, and the host's files at that time."""

    link: Link
    plan: Plan
    state: host_files.State


def fresh(config: pytest.Config, plan: Plan) -> Started:
    """Start the sandbox of a plan as `launch` does. Raises `GvisorError`."""
    state = host_files.now(config, host_files.folders(config, plan.shown))
    return Started(link=launch(config, plan), plan=plan, state=state)


@stage("sandbox", "what its start needs was refused")
def launch(config: pytest.Config, plan: Plan, saved: str = "") -> Link:
    """Start the sandbox of a plan, whose pytest imports its plugins. Raises `GvisorError`.

    ``saved`` is the folder of a sandbox of the same plan that was saved at its gate. With it, the
    pytest goes on from there.
    """
    logs = config.getoption("gvisor_strace", None)  # see plugin/explain.py
    request = Request(
        runsc=plan.runsc,
        platform=plan.platform,
        # The limit on output is that of a workload, and not of what a pytest inside shows.
        settings=dataclasses.replace(plan.settings, max_output=DEFAULT_MAX_OUTPUT),
        # With folders to bind, the child makes the user namespace itself: see programs/child.py.
        way=Way.OWN if plan.way is Way.FLAG else plan.way,
        # A file of the host's that is mapped there has not been tried on kvm's page tables.
        streams=Streams if plan.platform is Platform.KVM else SharedStreams,
        restores=saved,
        extra_flags=("--strace", "--debug-log", f"{logs}/%COMMAND%") if logs else (),
    )
    launcher, record = engine_of(config).launcher, Record()
    with contextlib.ExitStack() as undo:
        workspace = undo.enter_context(workspace_of(request, launcher, record))
        runner = Runner(request, _spec(workspace, plan), workspace, launcher, record)
        link = Link(Driven(runner, undo), copy=bool(saved), forbid=plan.settings.forbid)
    if not saved:
        _command(link, "start", **plan.command, sys_path=configuration.search_path())
        if (memory := link.supervisor.pipes.memory) >= 0:
            with on_error(link.close):
                byte_code.store(memory, plan.shown.holds)
    return link


class Opening(NamedTuple):
    """The second command to the pytest of a sandbox, which opens its gate."""

    command: Mapping[str, Any]
    show: Callable[[bytes], None] | None
    """Gets the standard error of the pytest as it comes."""


def opening(
    items: Sequence[pytest.Item],
    *,
    bridges: Sequence[str],
    taker: Taker,
    show: Callable[[bytes], None] | None,
) -> Opening:
    """Return the command by which a pytest inside configures itself and collects ``items``."""
    command = {
        "named": configuration.named(items[0].config, items),
        "files": configuration.files(items),
        "unwanted": configuration.unwanted(items),
        "sys_path": configuration.search_path(),
        "bridges": bridges,
        "returns": taker.command(),
        "basetemp": taker.agreed.basetemp,
    }
    return Opening(command, show)


def open_gate(link: Link, opening: Opening) -> None:
    """Send the second command."""
    link.show = opening.show
    _command(link, "collect", copy=link.copy, **opening.command)


def _command(link: Link, op: str, **fields: Any) -> None:
    # Whoever receives hears of a pytest that died too, and what the link then tells says why.
    with on_error(link.close), contextlib.suppress(Died):
        link.send(op, **fields)


def _worker(config: pytest.Config) -> dict[str, str] | None:
    """Return the values of xdist's fixtures in a worker; None in a run without workers."""
    given: dict[str, str] | None = getattr(config, "workerinput", None)
    return given and {"worker_id": given["workerid"], "testrun_uid": given["testrunuid"]}


def _spec(workspace: Workspace, plan: Plan) -> Spec:
    """Make the root file system, and the specification for it."""
    settings, shown, inside, inhabitant = plan.settings, plan.shown, plan.inside, plan.inhabitant
    mounts = [shown.mount(path) for path in shown.paths]
    mounts += writable.mounts(inside.writable)
    account = inhabitant.account if inhabitant else None
    # With names of an allow-list in its /etc/hosts, it is no other sandbox's.
    shared = None if settings.allow else workspace.shared
    prepared = shown.root().prepare(workspace.folder, mounts=mounts, shared=shared, account=account)
    workspace.sources.extend(_placed(workspace.folder, prepared, shown))
    sessions = os.path.dirname(os.path.dirname(workspace.folder))
    hidden = covers(prepared.root_path, prepared.mounts, session=sessions)
    words = [*places(settings.allow), *([inhabitant.argument(prepared)] if inhabitant else [])]
    if settings.allow:
        with open(f"{prepared.root_path}/etc/hosts", "a", encoding="ascii") as hosts:
            hosts.write(hosts_lines(settings.allow))
    # The first Python starts without: it imports its own modules before sys.path is the host's.
    env = {name: value for name, value in inside.env.items() if name != _PYTHON_PATH}
    if env.get(_HASH_SEED, "") in ("", "random"):
        env[_HASH_SEED] = _SEED
    spec = default_spec(
        [*configuration.command(_PROGRAM), *words],
        root_path=prepared.root_path,
        env=proxied(places(settings.allow), {**({"HOME": account.home} if account else {}), **env}),
        cwd=shown.start,
        mounts=[*hidden, *(mount for mount in prepared.mounts if not _is_shown(mount))],
        path=prepared.path,
        **arguments(settings, workspace, plan.way),
    )
    # The root's overlay is memory too; a tmpfs would hide a project that lies in /tmp.
    others = tuple(mount for mount in spec.mounts if mount.destination != "/tmp")
    spec = dataclasses.replace(spec, mounts=others)
    return _may_add_addresses(spec) if configuration.families(settings) else spec


def _placed(folder: str, prepared: Prepared, shown: visible.Shown) -> Iterator[Source]:
    """Yield what the child binds in the root: what is shown, then empty covers of what is hidden.

    The child follows no link to a place. So links of a project are resolved here, as they are
    inside. The target of one has a place of its own, or is not there.
    """
    root, binds = prepared.root_path, dict[str, str]()
    for mount in root_paths.ordered(filter(_is_shown, prepared.mounts)):
        inside = root_paths.resolve(root, mount.destination, binds).inside
        if inside not in binds:
            binds[inside] = mount.source
            yield Source(mount.source, root + inside)
    for path in shown.hidden:
        place = root_paths.resolve(root, path, binds)
        if place.bound and not any(within(one, place.inside) for one in shown.paths):
            is_folder = os.path.isdir(place.host)
            empty = os.path.join(folder, "empty-folder" if is_folder else "empty-file")
            if not os.path.exists(empty):
                (os.mkdir(empty, 0o555) if is_folder else skeleton.write(empty, b"", 0o444))
            yield Source(empty, root + place.inside)


def _may_add_addresses(spec: Spec) -> Spec:
    """Give the first process the right that it gives up again: see `guest.tests.loopback`."""
    held = (*CAPABILITIES, "CAP_NET_ADMIN")
    sets = Capabilities(bounding=held, effective=held, permitted=held)
    return dataclasses.replace(spec, process=dataclasses.replace(spec.process, capabilities=sets))


def _is_shown(mount: Mount) -> bool:
    """Whether a mount is a folder of the host whose changes stay inside."""
    return mount.is_bind and "ro" in mount.options
