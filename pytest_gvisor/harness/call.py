"""The arguments of a call: those of the workload, the settings, and the errors of both."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pytest_gvisor.base import removed
from pytest_gvisor.base import settings as words
from pytest_gvisor.base.errors import InvalidBundle, UsageError
from pytest_gvisor.base.setting_table import BY_NAME, names_from, nearest
from pytest_gvisor.base.settings import Network, Settings
from pytest_gvisor.oci.bundle import Bundle
from pytest_gvisor.oci.project import Project
from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.oci.vocabulary import NamespaceType
from pytest_gvisor.programs.sources import ANY
from pytest_gvisor.run.host_sources import settled
from pytest_gvisor.run.request import Workspace
from pytest_gvisor.run.specification import check_netns, spec_of, way_of
from pytest_gvisor.run.workload import Args, Workload, make_workload

if TYPE_CHECKING:
    from pytest_gvisor.images.store import Images

_OPTIONS: Mapping[str, Any] = make_workload.__kwdefaults__ or {}
"""The options of a call that are the workload's, with their defaults."""


def workload_of(
    args: Args,
    chosen: Settings,
    project: Project,
    images: Callable[[], Images] | None,
    given: dict[str, Any],
) -> Workload:
    """Return the workload of a call, by default in the root file system that the settings name."""
    if chosen.image is not None and given.get("rootfs") is None:
        assert images is not None
        given = {**given, "rootfs": images().rootfs(chosen.image)}
    return make_workload(args, project if chosen.project else None, **given)


def unusual(options: Mapping[str, Any]) -> dict[str, object]:
    """Return the options of a call that differ from the defaults, for its repr."""
    return {k: v for k, v in options.items() if k not in _OPTIONS or v != _OPTIONS[k]}


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a call that are the workload's, and those that are settings."""
    given = {k: v for k, v in options.items() if k in _OPTIONS}
    return given, {k: v for k, v in options.items() if k not in _OPTIONS}


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


def write_bundle(
    folder: str | os.PathLike[str],
    args: Args,
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
    workload = workload_of(args, chosen, project, images, given)
    os.makedirs(path, 0o700, exist_ok=True)
    # A bundle that is only written gets no network namespace: the caller who runs it chooses one.
    workspace = Workspace(id=os.path.basename(path), folder=path, shared="", netns="")
    spec = spec_of(workload, workspace, chosen, way_of(chosen))
    bundle = Bundle.create(path, settled(spec, path))
    checked = {path: identity for path, identity in workspace.identities.items() if identity != ANY}
    return dataclasses.replace(bundle, identities=checked)


def chosen_settings(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Return ``settings`` with the changes of one call. Raises `UsageError`."""
    for name in changes:
        if name in removed.OF_OTHERS:
            raise UsageError(f"{name}= is no argument here", next_step=removed.OF_OTHERS[name])
        words.refuse_removed(name)
        if name not in BY_NAME:
            raise _no_argument(name)
        if "call" not in BY_NAME[name].sources:
            raise UsageError(
                f"{name} is decided for a whole test",
                next_step=f"Use @pytest.mark.gvisor({name}=…) or the command line.",
            )
    chosen = words.replaced(settings, changes)
    chosen.check_allow()
    if chosen.netns is not None:
        if chosen.network is not Network.SANDBOX:
            raise UsageError("netns needs network='sandbox'")
        check_netns(chosen.netns)
    return chosen


def _no_argument(name: str) -> UsageError:
    """Return the error for an argument that no call takes, with the nearest name."""
    own = ["mounts", *(other for other in _OPTIONS if other != "mounts"), "input", "timeout"]
    settings = [setting for setting in names_from("call") if setting not in own]
    return UsageError(
        f"{name!r} is not a setting, nor another argument of this call"
        f"{nearest(name, [*own, *settings])}",
        next_step=f"There are {', '.join(own)}; and settings: {', '.join(settings)}.",
    )
