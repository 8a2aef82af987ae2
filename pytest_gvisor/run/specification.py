"""The specification of a run, from settings, the way to start runsc, input and id mappings."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_gvisor import settings as words
from pytest_gvisor.errors import InvalidBundle, PytestGvisorWarning, UsageError
from pytest_gvisor.oci import validate
from pytest_gvisor.oci.accounts import account_of
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.defaults import default_spec, parse_user
from pytest_gvisor.oci.mounts import covers
from pytest_gvisor.oci.reader import nearest
from pytest_gvisor.oci.rootfs import Rootfs, host
from pytest_gvisor.oci.spec import IdMapping, Linux, Namespace, Spec
from pytest_gvisor.oci.vocabulary import NamespaceType
from pytest_gvisor.programs.sources import ANY
from pytest_gvisor.run import limits
from pytest_gvisor.run.project import Project
from pytest_gvisor.run.request import Hooks, Request, Workspace
from pytest_gvisor.run.workload import OPTIONS, Workload, make_workload, split
from pytest_gvisor.runsc import rootless
from pytest_gvisor.runsc.rootless import Caller, Way
from pytest_gvisor.setting_table import BY_NAME, names_from
from pytest_gvisor.settings import Network, Settings

if TYPE_CHECKING:
    from pytest_gvisor.images.store import Images


def chosen_settings(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Return ``settings`` with the changes of one call. Raises `UsageError`."""
    for name in changes:
        words.refuse_removed(name)
        if name not in BY_NAME:
            raise _no_argument(name)
        if "call" not in BY_NAME[name].sources:
            raise UsageError(
                f"{name} is decided for a whole test",
                next_step=f"Use @pytest.mark.gvisor({name}=…) or the command line.",
            )
    chosen = words.replaced(settings, changes)
    if chosen.netns is not None:
        if chosen.network is not Network.SANDBOX:
            raise UsageError("netns needs network='sandbox'")
        check_netns(chosen.netns)
    return chosen


def _no_argument(name: str) -> UsageError:
    """Return the error for an argument that no call takes, with the nearest name."""
    own = ["mounts", *(other for other in OPTIONS if other != "mounts"), "input", "timeout"]
    settings = [setting for setting in names_from("call") if setting not in own]
    return UsageError(
        f"{name!r} is not a setting, nor another argument of this call"
        f"{nearest(name, [*own, *settings])}",
        next_step=f"There are {', '.join(own)}; and settings: {', '.join(settings)}.",
    )


def way_of(chosen: Settings) -> Way:
    """Return the way for this process to start runsc. Raises `UsageError`."""
    return rootless.decide(chosen.rootless, Caller.read(os.geteuid()), chosen.network)


def make_spec(request: Request, workspace: Workspace, hooks: Hooks) -> Spec:
    """Make the root file system of a request's workload, and return the specification for it.

    A change by a plugin's hook is validated. Raises `InvalidBundle`, `UsageError` or `LaunchError`.
    """
    workload, chosen = request.workload, request.settings
    if isinstance(workload, Bundle):
        workspace.identities.update(workload.identities)
        netns = chosen.netns or workspace.netns
        spec = adapted(workload.spec, chosen.network, netns, request.way)
    else:
        assert workload is not None
        if hooks.modify_spec is not None:
            # A hook may write to the root's folder: no other run uses that.
            workspace = dataclasses.replace(workspace, shared="")
        spec = _spec_of(workload, workspace, chosen, request.way)
    if hooks.modify_spec is None:
        return spec
    config = spec.to_json()
    hooks.modify_spec(config)
    if config == spec.to_json():
        return spec
    changed = validate.read(config)
    mounts = (
        dataclasses.replace(mount, source=os.path.realpath(mount.source))
        if mount.is_bind
        else mount
        for mount in changed.mounts
    )
    return dataclasses.replace(changed, mounts=tuple(mounts))


def _spec_of(workload: Workload, workspace: Workspace, chosen: Settings, way: Way) -> Spec:
    """Make the workload's root file system, and the specification for it."""
    named = parse_user(workload.user if workload.entry is None else workload.entry)
    project = workload.project
    asked = {mount.destination for mount in workload.mounts}
    shows = [one for one in project.mounts() if one.destination not in asked] if project else []
    prepared = workload.rootfs.prepare(
        workspace.folder,
        mounts=(*shows, *workload.mounts),
        shared=workspace.shared or None,
        account=account_of(named.uid, named.gid),
    )
    workspace.identities[prepared.root_path] = prepared.identity
    hidden = project.covers(shows, prepared.mounts, workspace.folder) if project else []
    for note in prepared.notes:
        warnings.warn(PytestGvisorWarning(note), stacklevel=2)
    return default_spec(
        workload.args,
        root_path=prepared.root_path,
        env=workload.env,
        cwd=workload.cwd,
        user=workload.user,
        home=workload.home,
        mounts=[*prepared.mounts, *covers(prepared.root_path, prepared.mounts), *hidden],
        path=prepared.path,
        network=chosen.network,
        netns=chosen.netns or (workspace.netns if chosen.network is Network.SANDBOX else None),
        hostname=workload.hostname,
        readonly_root=workload.readonly,
        memory=chosen.memory,
        pids=chosen.pids,
        cpus=chosen.cpus,
        shm=limits.shm(chosen),
        nofile=limits.nofile(chosen),
        id_mappings=id_mappings(way),
    )


def write_bundle(
    folder: str | os.PathLike[str],
    args: Sequence[str | os.PathLike[str]],
    settings: Settings,
    project: Project,
    /,
    *,
    images: Callable[[], Images],
    **options: Any,
) -> Bundle:
    """Write a bundle for ``args`` to ``folder``; ``options`` are those of `Gvisor.run`.

    The bundle of an image can be used as long as ``images`` are open. Raises
    `InvalidBundle`, `UsageError`, `ImageError` or `LaunchError`.
    """
    path = os.path.abspath(os.fspath(folder))
    given, changes = split(options)
    chosen = chosen_settings(settings, changes)

    def image() -> Rootfs:
        return host() if chosen.image is None else images().rootfs(chosen.image)

    workload = make_workload(args, image, project if chosen.project else None, **given)
    os.makedirs(path, 0o700, exist_ok=True)
    # No namespace is made for a bundle that is only written: whoever runs it decides on one.
    workspace = Workspace(id=os.path.basename(path), folder=path, shared="", netns="")
    bundle = Bundle.create(path, _spec_of(workload, workspace, chosen, way_of(chosen)))
    judged = {path: identity for path, identity in workspace.identities.items() if identity != ANY}
    return dataclasses.replace(bundle, identities=judged)


def input_of(given: object) -> bytes | Iterable[bytes] | None:
    """Return the workload's input. Raises `UsageError` for neither text nor bytes.

    The pieces of an iterable are judged as they are taken, when the workload runs already.
    """
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, bytearray | memoryview):
        return bytes(given)
    if isinstance(given, str):
        try:
            return given.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"input is text that UTF-8 cannot hold: {error}") from error
    if not isinstance(given, Iterable):
        raise UsageError(f"input={given!r} is neither text, nor bytes, nor an iterable of bytes")
    return _pieces(given)


def _pieces(given: Iterable[object]) -> Iterator[bytes]:
    for piece in given:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise UsageError(f"a piece of input is not bytes: {piece!r}; the workload was ended")
        yield bytes(piece)


def id_mappings(way: Way) -> tuple[Sequence[IdMapping], Sequence[IdMapping]] | None:
    """Return the mappings of rootless OCI mode, for that way only."""
    if way is not Way.MAPPED:
        return None
    uids, gids = (
        [IdMapping(container_id=ids.inside, host_id=ids.outside, size=ids.size) for ids in ranges]
        for ranges in rootless.mappings(Caller.read(os.geteuid()))
    )
    return uids, gids


def netns_of(spec: Spec, chosen: Settings) -> str | None:
    """Return the network namespace in a bundle, or in this run's settings.

    Raises `InvalidBundle` where the two name different ones, `UsageError` for one that may not be
    joined.
    """
    paths = [space.path for space in spec.linux.namespaces if space.type is NamespaceType.NETWORK]
    named = next(filter(None, paths), None)
    if chosen.network is not Network.SANDBOX or named is None:
        return chosen.netns
    if chosen.netns not in (None, named):
        raise InvalidBundle([f"linux.namespaces joins {named}, and netns is {chosen.netns}"])
    check_netns(named)
    return named


def adapted(spec: Spec, network: Network, netns: str, way: Way) -> Spec:
    """Return a bundle's specification with this run's network and mappings.

    ``netns`` is the path of the network namespace that a sandbox with its own stack joins.
    """
    kinds = {namespace.type: namespace for namespace in spec.linux.namespaces}
    kinds.pop(NamespaceType.NETWORK, None)
    if network is not Network.HOST:
        path = netns if network is Network.SANDBOX else ""
        kinds[NamespaceType.NETWORK] = Namespace(type=NamespaceType.NETWORK, path=path)
    mapped = id_mappings(way)
    uids, gids = mapped or ((), ())
    kinds.pop(NamespaceType.USER, None)
    if mapped:
        kinds[NamespaceType.USER] = Namespace(type=NamespaceType.USER)
    linux: Linux = dataclasses.replace(
        spec.linux,
        namespaces=tuple(kinds.values()),
        uid_mappings=tuple(uids),
        gid_mappings=tuple(gids),
    )
    return dataclasses.replace(spec, linux=linux)


def check_netns(path: str) -> None:
    """Raise `UsageError` if ``path`` is no network namespace, or is the host's or our own.

    With ``--network sandbox`` runsc takes the addresses away from the interfaces of the namespace
    that it is given. In the host's own namespace that would cut the host off.
    """
    if not os.path.isabs(path):
        raise UsageError(f"netns={path!r} is not an absolute path")
    try:
        found = os.stat(path)
        # A namespace file's inode is the namespace (namespaces(7)); nsfs has one device number.
        hosts = [os.stat("/proc/self/ns/net"), _initial_netns()]
    except OSError as error:
        raise UsageError(
            f"netns={path!r}: {error.strerror}", next_step="Make one with: ip netns add NAME"
        ) from error
    if found.st_dev != hosts[0].st_dev:
        raise UsageError(f"netns={path!r} is not a network namespace")
    if found.st_ino in {host.st_ino for host in hosts}:
        raise UsageError(
            f"netns={path!r} is the host's own network namespace",
            next_step='Use network="host" to share the host\'s network.',
        )


def _initial_netns() -> os.stat_result:
    """Return init's namespace, or that of kthreadd if init hides its own, even from root."""
    try:
        return os.stat("/proc/1/ns/net")
    except PermissionError:
        return os.stat("/proc/2/ns/net")
