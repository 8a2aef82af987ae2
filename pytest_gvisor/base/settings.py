"""The settings of a run: enums, and the frozen `Settings`, made of what users write.

Nothing here touches the file system or starts anything.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from pytest_gvisor.base import egress, removed, setting_table, setting_values
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.platform_names import Platform as Platform  # noqa: PLC0414 -- exported

if TYPE_CHECKING:
    import os

    from pytest_gvisor.base.egress import SandboxPort


class Network(enum.StrEnum):
    """runsc's ``--network``: loopback only, gVisor's own stack, or the host's stack."""

    NONE = "none"
    SANDBOX = "sandbox"
    HOST = "host"


class Rootless(enum.StrEnum):
    """Whether runsc runs without real root: ``auto`` is ``on`` where the effective uid is not 0."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Keep(enum.StrEnum):
    """The tests whose bundles, logs and replay scripts stay under pytest's base temp."""

    NONE = "none"
    FAILED = "failed"
    ALL = "all"


class Isolation(enum.StrEnum):
    """The lifetime of a sandbox for tests inside."""

    SESSION = "session"
    MODULE = "module"
    TEST = "test"


class Release(NamedTuple):
    """One runsc of a matrix over releases: its label, which ids have, and its path."""

    label: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a sandbox's start, apart from the workload itself.

    Type checkers read the fields here; `setting_table` declares the same settings.
    """

    platforms: tuple[Platform, ...] = ()
    """The platforms to run on, in order; empty is ``auto``: systrap where the binary has it.

    Whether a binary lists a platform that is not known is found out when that is first used.
    """

    native: bool = False
    """Whether tests inside run on the host too, as the column to compare with."""

    network: Network = Network.NONE
    """The network of the sandbox; by default loopback alone."""

    netns: str | None = None
    """Path of a network namespace to join, for ``sandbox`` networking; None makes a fresh one."""

    runsc: str | None = None
    """Path of the one binary to use; None searches. Of several releases, that of the test."""

    releases: tuple[Release, ...] = ()
    """The binaries of a matrix over releases, in order: two or more, or none."""

    label: str = ""
    """Which of the releases ``runsc`` is."""

    release: str = ""
    """The releases of runsc that will do, such as ``>=20240729``; nothing is any."""

    strict: bool = False
    """Whether what would be skipped fails instead."""

    timeout: float = setting_table.DEFAULT_TIMEOUT
    """Deadline of one workload in seconds."""

    rootless: Rootless = Rootless.AUTO
    """Whether runsc runs without real root."""

    debug: bool = False
    """Whether reports of failed tests have runsc's logs and an strace of the workload."""

    trace: bool | str = False
    """Whether each run has a `Trace` of the files, commands and connections of its workload; a text
    of `setting_table.TRACES` says what more it has."""

    forbid: tuple[str, ...] = ()
    """Acts that fail a run or a test inside: kinds, each alone or with a pattern."""

    explain: bool = False
    """Whether tests that differ from the host run again, and a sentence says why they differ."""

    allow: tuple[str, ...] = ()
    """The hosts and ports, ``HOST:PORT``, that a sandbox with network none reaches by a relay."""

    ports: tuple[tuple[str, str], ...] = ()
    """The entries of ``allow`` that are another sandbox's port, each with the unix socket of it."""

    keep: Keep = Keep.NONE
    """The tests whose bundles, logs and replay scripts stay under pytest's base temp."""

    report: tuple[str, ...] = ()
    """Where the report is written; the suffix says in which form."""

    image: str | None = None
    """The image that is the root file system; None is the host's system folders."""

    project: bool = False
    """Whether workloads see the project, without its secrets, and start in its root folder."""

    memory: int | str | None = None
    """Limit on the memory of the whole sandbox, sentry and gofer included: bytes, or ``"256M"``."""

    pids: int | None = None
    """Limit on the number of host tasks of the whole sandbox, sentry and gofer included."""

    cpus: float | None = None
    """Limit in processors, for instance 0.5."""

    shm: int | str | None = None
    """Size of /dev/shm: bytes, or ``"256M"``; None is the host's."""

    max_output: int = setting_table.DEFAULT_MAX_OUTPUT
    """How many bytes of each output stream are kept, head and tail together."""

    @property
    def of_its_sandbox(self) -> tuple[str, ...]:
        """The settings that ask something of a sandbox, which only its start can give it."""
        names = (
            "platforms", "network", "netns", "releases", "release", "trace", "forbid", "allow",
            "image", "memory", "pids", "cpus", "shm",
        )  # fmt: skip
        return tuple(name for name in names if getattr(self, name) != getattr(_DEFAULTS, name))

    def check_allow(self) -> None:
        """Raise `UsageError` for an allow-list beside a network."""
        if self.allow and self.network is not Network.NONE:
            told = f"allow={self.allow!r} needs network='none', which opens nothing else"
            raise UsageError(told)

    @property
    def traced(self) -> bool:
        """Whether a trace is recorded: forbidden acts are found there."""
        return bool(self.trace or self.forbid)

    def traces(self, more: str) -> bool:
        """Whether a trace has ``paths`` or ``values``."""
        return more in str(self.trace)


_DEFAULTS = Settings()


_LABELLED = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.]{0,31})=(.*)", re.ASCII | re.DOTALL)


_NO_LABELS = frozenset({*Platform, setting_values.NATIVE, "auto", "all"})


def with_binaries(settings: Settings, written: Sequence[str], name: str) -> Settings:
    """Return ``settings`` with the command line's binaries: paths, or ``LABEL=PATH``.

    Of paths without a label the last one counts. A single label is of no use: only two or more make
    a matrix. Raises `UsageError`.
    """
    found = [_LABELLED.fullmatch(text) for text in written]
    labelled = [Release(match[1], setting_values.path(match[2], name)) for match in found if match]
    if not labelled:
        return replaced(settings, {name: written[-1]})
    if len(labelled) < len(written):
        plain = next(text for text, match in zip(written, found, strict=True) if not match)
        raise UsageError(f"{name}={plain!r} has no label, and another has one: LABEL=PATH")
    labels = [release.label for release in labelled]
    for label in labels:
        if label in _NO_LABELS:
            raise UsageError(f"{name}: the label {label!r} is the name of a platform in test ids")
        if labels.count(label) > 1:
            raise UsageError(f"{name}: the label {label!r} is given twice")
    if len(labelled) == 1:
        return replaced(settings, {name: labelled[0].path})
    return on_release(dataclasses.replace(settings, releases=tuple(labelled)), labels[0])


def on_release(settings: Settings, label: object) -> Settings:
    """Return ``settings`` for one of their releases. Raises `UsageError` for an unknown label."""
    for release in settings.releases:
        if release.label == label:
            return dataclasses.replace(settings, runsc=release.path, label=release.label)
    known = ", ".join(release.label for release in settings.releases) or "none"
    raise UsageError(
        f"release={label!r} is no label of this run: there are {known}",
        next_step="--gvisor-runsc=LABEL=PATH, given twice or more, names them.",
    )


CHOICES: Mapping[setting_table.Kind, type[enum.StrEnum]] = {
    "network": Network, "rootless": Rootless, "keep": Keep,
}  # fmt: skip


"""The kinds of settings whose values are words."""


def read(setting: setting_table.Setting, value: object, name: str) -> Any:
    """Return the value that a user wrote, as `Settings` has it. Raises `UsageError`."""
    if value is None and getattr(Settings, setting.name) is None:
        return None
    if setting.kind in CHOICES:
        return setting_values.word(CHOICES[setting.kind], value, name)
    return setting_values.READERS[setting.kind](value, name)


def refuse_removed(name: str) -> None:
    """Raise `UsageError` for a setting that is no more."""
    if name in removed.SETTINGS:
        raise UsageError(f"{name} is removed. {removed.SETTINGS[name]}")


def replaced(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Return ``settings`` with ``changes``, each read by its reader. Raises `UsageError`.

    ``platform`` is another name for ``platforms``.
    """
    found: dict[str, Any] = {}
    for name, value in changes.items():
        setting = setting_table.BY_NAME.get(name)
        refuse_removed(name)
        if setting is None:
            known = setting_table.names_from("marker")
            near = setting_table.nearest(name, known)
            raise UsageError(f"{name!r} is not a setting{near}; there are {', '.join(known)}")
        found[setting.name] = read(setting, value, name)
        if setting.kind == "platforms":
            found["native"] = setting_values.native(value)
        if setting.kind == "entries":
            found["ports"] = egress.ports(value)
        if setting.kind == "binary":
            found |= {"releases": (), "label": ""}
    return dataclasses.replace(settings, **found)


class CallSettings(TypedDict, total=False):
    """The settings of `Gvisor.run`, `Gvisor.run_bundle` and `Gvisor.sandbox`, for type checkers.

    `setting_table` declares the same settings, and tests/unit/base/test_settings.py holds the two
    equal.
    """

    network: Network | str
    netns: str | os.PathLike[str] | None
    rootless: Rootless | str
    image: str | os.PathLike[str] | None
    project: bool
    memory: int | str | None
    pids: int | None
    cpus: float | None
    shm: int | str | None
    max_output: int
    debug: bool
    trace: bool | str
    forbid: Sequence[str]
    allow: Sequence[str] | Mapping[str, SandboxPort | None]


class SessionSettings(CallSettings, total=False):
    """The settings of `session`."""

    platform: Platform | str | Sequence[str]
    runsc: str | os.PathLike[str] | None
    timeout: float
