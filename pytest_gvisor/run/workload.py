"""The workload of a call of `Gvisor.run`, with the defaults of its image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_gvisor.base.errors import ImageError, UsageError
from pytest_gvisor.oci.defaults import HOSTNAME
from pytest_gvisor.oci.mounts import Mounts, mounts_of
from pytest_gvisor.oci.project import Project
from pytest_gvisor.oci.rootfs import ProgramDefaults, Rootfs, host
from pytest_gvisor.oci.spec import Mount, User, UserSpec


class Args(Protocol):
    """A sequence of strings and paths. A lone string is none, for type checkers too."""

    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: int, /) -> str | os.PathLike[str]: ...
    def __iter__(self) -> Iterator[str | os.PathLike[str]]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One workload, and its root file system."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    user: UserSpec | User
    rootfs: Rootfs
    mounts: tuple[Mount, ...]
    hostname: str
    readonly: bool
    home: str | None = None
    """HOME, if the root file system is an image."""

    project: Project | None = None
    """The project that is shown, if it is."""

    entry: UserSpec | User | None = None
    """The user who gets an entry in the passwd file of a root that is made, if not ``user``."""


def make_workload(
    args: Args,
    project: Project | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    user: UserSpec | None = None,
    rootfs: Rootfs | None = None,
    entrypoint: str | Sequence[str] | None = None,
    mounts: Mounts = (),
    hostname: str = HOSTNAME,
    readonly: bool = False,
) -> Workload:
    """Return the workload of a call. Raises `UsageError` or `ImageError`.

    Its root file system is `host()` unless ``rootfs`` is given. A ``project`` is shown, and is
    where the workload starts.
    """
    rootfs = rootfs or host()
    defaults = rootfs.defaults or ProgramDefaults()
    words = argv(args)
    if rootfs.defaults is not None:
        words = with_entrypoint(words, entrypoint, defaults)
    elif entrypoint is not None:
        raise UsageError("entrypoint is for images", next_step="Put it in front of args.")
    who, home = rootfs.find_user(user)
    start = os.path.abspath(project.root) if project else defaults.cwd
    return Workload(
        args=words,
        env={**defaults.env, **(env or {})},
        cwd=os.fspath(cwd) if cwd is not None else start,
        project=project,
        user=who,
        rootfs=rootfs,
        mounts=mounts_of(mounts),
        hostname=hostname,
        readonly=readonly,
        home=home,
    )


def with_entrypoint(
    args: tuple[str, ...], entrypoint: object, defaults: ProgramDefaults
) -> tuple[str, ...]:
    """Return the argv: the image's entrypoint and command, unless the call replaces them."""
    if entrypoint is None:
        whole = (*defaults.entrypoint, *(args or defaults.cmd))
    else:
        first = (entrypoint,) if isinstance(entrypoint, str) else entrypoint
        whole = (*(argv(first) if first != ("",) else ()), *args)
    if not whole:
        raise ImageError("it names no program", next_step="Say which: gvisor.run([…], image=…).")
    return whole


def argv(args: object) -> tuple[str, ...]:
    """Return ``args`` as strings. Raises `UsageError` for a lone string, bytes, or nothing."""
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise UsageError(
            f"args={args!r} is not a list",
            next_step='Write run(["sh", "-c", "…"]) to have a shell take a string apart.',
        )
    found = [os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in args]
    for arg in found:
        if not isinstance(arg, str):
            raise UsageError(f"args hold {arg!r}, which is neither a string nor a path")
    return tuple(found)
