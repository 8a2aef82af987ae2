"""The specification of a run, from settings, the way to start runsc, input and id mappings."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pytest_gvisor.base.egress import hosts_file, places, proxied
from pytest_gvisor.base.errors import PytestGvisorWarning, UsageError
from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.oci import skeleton, validate
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.defaults import default_spec, parse_user, resources
from pytest_gvisor.oci.mounts import covers, examine, parse_size, shown_at
from pytest_gvisor.oci.rootfs import check_points
from pytest_gvisor.oci.spec import IdMapping, Mount, Namespace, Spec
from pytest_gvisor.oci.vocabulary import NamespaceType, normal
from pytest_gvisor.run import limits
from pytest_gvisor.run.cgroup import limits_of
from pytest_gvisor.run.not_started import no_cwd
from pytest_gvisor.run.request import Hooks, Request, Workspace
from pytest_gvisor.run.workload import Workload
from pytest_gvisor.runsc import rootless
from pytest_gvisor.runsc.rootless import Caller, Way


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
        spec = _covered(_limited(spec, chosen))
        if request.relay is not None:
            hosts = hosts_mount(chosen.allow, spec.hostname, spec.mounts, workspace.folder)
            env = dict(pair.split("=", 1) for pair in spec.process.env)
            env = proxied(places(chosen.allow), env)
            pairs = tuple(f"{name}={value}" for name, value in env.items())
            process = dataclasses.replace(spec.process, env=pairs)
            spec = dataclasses.replace(spec, mounts=(*spec.mounts, hosts), process=process)
            check_points(spec.root.path, spec.mounts)
    else:
        assert workload is not None
        if request.relay is not None:
            name, shown = workload.hostname, workload.mounts
            hosts = hosts_mount(chosen.allow, name, shown, workspace.folder)
            env = proxied(places(chosen.allow), workload.env)
            workload = dataclasses.replace(workload, mounts=(*shown, hosts), env=env)
        if hooks.modify_spec is not None:
            # A hook may write to the root's folder: no other run uses that.
            workspace = dataclasses.replace(workspace, shared="")
        spec = spec_of(workload, workspace, chosen, request.way)
        if workload.cwd != "/" and (note := no_cwd(workload.cwd, spec, request.asker)):
            warnings.warn(PytestGvisorWarning(note), stacklevel=2)
    if hooks.modify_spec is None:
        return spec
    config = spec.to_json()
    hooks.modify_spec(config)
    if config == spec.to_json():
        return spec
    changed = validate.read(config)
    mounts = (
        dataclasses.replace(mount, source=_source(mount)) if mount.is_bind else mount
        for mount in changed.mounts
    )
    return _covered(dataclasses.replace(changed, mounts=tuple(mounts)))


def _source(mount: Mount) -> str:
    """Return a source of a hook's by its real path, by the rules of `bind` for links."""
    return os.path.abspath(examine(mount.source, writable=False, follow=False)[0])


def _covered(spec: Spec) -> Spec:
    """Return a specification in which session folders are hidden."""
    return dataclasses.replace(spec, mounts=(*spec.mounts, *covers(spec.root.path, spec.mounts)))


def _limited(spec: Spec, chosen: Settings) -> Spec:
    """Return a bundle's specification with the limits of settings that are lower than its own."""
    memory = None if chosen.memory is None else parse_size(chosen.memory)
    asked, own = resources(memory, chosen.pids, chosen.cpus), spec.linux.resources
    theirs = limits_of(own)
    lower = {
        name: getattr(asked, name)
        for name, limit in limits_of(asked).items()
        if limit < theirs.get(name, math.inf)
    }
    linux = dataclasses.replace(spec.linux, resources=dataclasses.replace(own, **lower))
    return dataclasses.replace(spec, linux=linux)


def spec_of(workload: Workload, workspace: Workspace, chosen: Settings, way: Way) -> Spec:
    """Make the workload's root file system, and the specification for it."""
    named = parse_user(workload.user if workload.entry is None else workload.entry)
    project = workload.project
    asked = {mount.destination for mount in workload.mounts}
    shows = [one for one in project.mounts() if one.destination not in asked] if project else []
    prepared = workload.rootfs.prepare(
        workspace.folder,
        mounts=(*shows, *workload.mounts),
        shared=workspace.shared or None,
        account=skeleton.account_of(named.uid, named.gid),
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
        hostname=workload.hostname,
        readonly_root=workload.readonly,
        **arguments(chosen, workspace, way),
    )


def hosts_mount(allow: Sequence[str], hostname: str, mounts: Sequence[Mount], folder: str) -> Mount:
    """Return a mount of an /etc/hosts with the names of an allow-list, made in a run's folder.

    Raises `UsageError` for a mount that is there already.
    """
    if any(normal(mount.destination) == "/etc/hosts" for mount in mounts):
        raise UsageError("/etc/hosts is made for allow=[…], so no mount can be there")
    path = os.path.realpath(os.path.join(folder, "hosts"))
    skeleton.write(path, hosts_file(allow, hostname).encode())
    return shown_at("/etc/hosts", path)


def input_of(given: object) -> bytes | Iterable[bytes] | None:
    """Return the workload's input. Raises `UsageError` for neither text nor bytes.

    The pieces of an iterable are checked one by one, while the workload runs.
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


def arguments(chosen: Settings, workspace: Workspace, way: Way) -> dict[str, Any]:
    """Return the arguments of `default_spec` that settings decide. Raises `UsageError`."""
    made = workspace.netns if chosen.network is Network.SANDBOX else None
    return {
        "network": chosen.network,
        "netns": chosen.netns or made,
        "memory": chosen.memory,
        "pids": chosen.pids,
        "cpus": chosen.cpus,
        "shm": limits.shm(chosen),
        "nofile": limits.nofile(),
        "id_mappings": id_mappings(way),
    }


def id_mappings(way: Way) -> tuple[Sequence[IdMapping], Sequence[IdMapping]] | None:
    """Return the mappings of rootless OCI mode, for that way only."""
    return rootless.mappings(Caller.read(os.geteuid())) if way is Way.MAPPED else None


def adapted(spec: Spec, network: Network, netns: str, way: Way) -> Spec:
    """Return a bundle's specification with this run's network and mappings.

    ``netns`` is the path of the network namespace that a sandbox with its own stack joins.
    """
    ours = NamespaceType.NETWORK, NamespaceType.USER
    spaces = [one for one in spec.linux.namespaces if one.type not in ours]
    if network is not Network.HOST:
        path = netns if network is Network.SANDBOX else ""
        spaces.append(Namespace(type=NamespaceType.NETWORK, path=path))
    uids, gids = map(tuple, id_mappings(way) or ((), ()))
    if uids:
        spaces.append(Namespace(type=NamespaceType.USER))
    linux = dataclasses.replace(
        spec.linux, namespaces=tuple(spaces), uid_mappings=uids, gid_mappings=gids
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
