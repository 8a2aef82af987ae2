"""An OCI runtime specification (``config.json``) as frozen typed data: a closed world.

Source: https://github.com/opencontainers/runtime-spec, releases 1.0 to 1.3. Hooks and the other
systems' sections have no field here, so no value of `Spec` can hold them. Keys that runsc ignores,
and limits that this package does not set, have no field either: see `validate.drop_ignored`.

Constructors trust. ``problems`` of a class yields the rules that a value breaks, beyond its
structure. `validate.examine` and `validate.read` ask it, and report every problem at once.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import vocabulary
from pytest_gvisor.oci.reader import I32, I64, U32, U64, Id, Range, key, write
from pytest_gvisor.oci.vocabulary import (
    Capability,
    MountType,
    NamespaceType,
    RlimitType,
    absolute,
    normal,
)
from pytest_gvisor.programs.paths import below

_VERSION: Final = re.compile(r"1\.\d{1,4}\.\d{1,4}([-+][0-9A-Za-z.+-]{1,32})?", re.ASCII)
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Found = Iterator[tuple[str, str]]
"""The place of each broken rule, and what is wrong there."""


@dataclass(frozen=True, kw_only=True)
class User:
    """The workload's user inside."""

    uid: Id
    """User id."""
    gid: Id
    """Group id."""
    umask: Annotated[int, Range(low=0, high=0o777)] | None = None
    """Its umask; absent is the runtime's."""
    additional_gids: tuple[Id, ...] = ()
    """Supplementary groups."""


UserSpec = int | str | tuple[int, int]
"""A user as callers write them: a uid, ``name``, ``name:group``…, or uid and gid."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The five sets of capabilities(7)."""

    bounding: tuple[Capability, ...] = ()
    """The most capabilities that an execve can give."""
    effective: tuple[Capability, ...] = ()
    """Capabilities that the kernel checks."""
    inheritable: tuple[Capability, ...] = ()
    """Capabilities that an execve keeps if the file allows them."""
    permitted: tuple[Capability, ...] = ()
    """Capabilities that may be made effective."""
    ambient: tuple[Capability, ...] = ()
    """Capabilities that an execve of an ordinary file keeps."""

    def problems(self) -> Found:
        """Yield the broken rules."""
        # The kernel has no process with such sets, and runsc would silently make other ones.
        for name in ("effective", "ambient"):
            for index, capability in enumerate(getattr(self, name)):
                if capability not in self.permitted:
                    yield f".{name}[{index}]", f"{capability} is not in permitted"


@dataclass(frozen=True, kw_only=True)
class Rlimit:
    """One resource limit; 2**64 - 1 is unlimited."""

    type: RlimitType
    """The resource."""
    soft: U64
    """The value that the kernel enforces."""
    hard: U64
    """The highest value to which the soft limit may be raised."""

    def problems(self) -> Found:
        """Yield the broken rules."""
        if self.soft > self.hard:
            yield ".soft", f"{self.soft} is above the hard limit {self.hard}"


@dataclass(frozen=True, kw_only=True)
class Process:
    """The program to start."""

    args: tuple[str, ...]
    """The program and its arguments."""
    cwd: str
    """Its working folder, absolute."""
    user: User
    """Its ids."""
    env: tuple[str, ...] = ()
    """Its whole environment, ``KEY=value``."""
    terminal: bool = False
    """Whether it gets a terminal."""
    capabilities: Capabilities | None = None
    """Its capabilities; absent is none."""
    rlimits: tuple[Rlimit, ...] = ()
    """Its resource limits."""
    no_new_privileges: bool = False
    """Whether set-uid files and file capabilities give it nothing."""
    oom_score_adj: I32 | None = None
    """Adjustment of the sandbox's OOM score."""

    def problems(self) -> Found:
        """Yield the broken rules."""
        if not self.args:
            yield ".args", "is empty: there is no program to start"
        elif not self.args[0]:
            yield ".args[0]", "is empty: there is no program to start"
        if wrong := absolute(self.cwd):
            yield ".cwd", wrong
        for index, entry in enumerate(self.env):
            if entry.find("=") < 1:
                yield f".env[{index}]", f"{shown(entry)} is not KEY=value"
        yield from _twice(".env", [entry.partition("=")[0] for entry in self.env])
        yield from _twice(".rlimits", [limit.type for limit in self.rlimits])


@dataclass(frozen=True, kw_only=True)
class Root:
    """The root file system on the host."""

    path: str
    """Its folder; in a bundle that was made elsewhere, relative to the bundle."""
    readonly: bool = False
    """Whether nothing can be written to it."""


@dataclass(frozen=True, kw_only=True)
class IdMapping:
    """A range of ids in a user namespace."""

    container_id: U32 = field(metadata=key("containerID"))
    """First id inside."""
    host_id: U32 = field(metadata=key("hostID"))
    """First id outside."""
    size: U32
    """How many."""

    def problems(self) -> Found:
        """Yield the broken rules."""
        if self.size == 0:
            yield ".size", "is 0: it maps nothing"
        for name, first in ((".containerID", self.container_id), (".hostID", self.host_id)):
            if first + self.size > 2**32:
                yield name, "with its size, goes beyond 2**32"


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One mount, made in order."""

    destination: str
    """Its path inside."""
    type: MountType = MountType.NONE
    """The file system; ``none`` with the option ``bind`` or ``rbind`` is a bind mount too."""
    source: str = ""
    """A bind mount's folder or file on the host; a mere name otherwise."""
    options: tuple[str, ...] = ()
    """Its options, as for mount(8)."""
    uid_mappings: tuple[IdMapping, ...] = ()
    """Id-mapped mount: users."""
    gid_mappings: tuple[IdMapping, ...] = ()
    """Id-mapped mount: groups."""

    @property
    def is_bind(self) -> bool:
        """Whether the mount shows a folder or file of the host, by type or (as in runsc) by
        option.
        """
        return self.type is MountType.BIND or not {"bind", "rbind"}.isdisjoint(self.options)

    @property
    def kind(self) -> MountType:
        """The type, which is that of a bind mount by option too."""
        return MountType.BIND if self.is_bind else self.type

    def problems(self) -> Found:
        """Yield the broken rules."""
        if wrong := absolute(self.destination):
            yield ".destination", wrong
        elif (target := normal(self.destination)) == "/":
            yield ".destination", "a mount onto / would replace the root file system"
        elif target == "/proc" and self.type is not MountType.PROC:
            yield ".destination", "only the sandbox's own proc can be mounted onto /proc"
        elif below(target, "/proc") and (self.is_bind or not target.startswith("/proc/acpi")):
            yield ".destination", f"{shown(target)} is inside /proc"
        if self.is_bind and not self.source:
            yield ".source", "missing: a bind mount shows a folder or file of the host"
        if self.type is MountType.NONE and not self.is_bind:
            yield ".type", "missing: only a bind mount can do without"
        yield from vocabulary.option_problems(self.kind, self.options)


@dataclass(frozen=True, kw_only=True)
class Namespace:
    """A namespace that the sandbox gets."""

    type: NamespaceType
    """Its kind."""
    path: str = ""
    """The path of an existing one that is joined; empty is a new one."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device file."""

    path: str
    """Its path inside."""
    type: str
    """Its kind, as for mknod(1)."""
    major: I64 | None = None
    """Major number."""
    minor: I64 | None = None
    """Minor number."""
    file_mode: U32 | None = None
    """Permissions."""
    uid: Id | None = None
    """Owner."""
    gid: Id | None = None
    """Group."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Limits on memory in bytes; -1 is none."""

    limit: I64 | None = None
    """Memory."""
    swap: I64 | None = None
    """Memory and swap together."""


@dataclass(frozen=True, kw_only=True)
class Pids:
    """The limit on tasks."""

    limit: I64 | None = None
    """How many; -1 is no limit."""


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The limit on processor time."""

    quota: I64 | None = None
    """Microseconds in a period."""
    period: U64 | None = None
    """The period in microseconds."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Limits, which this package sets in a cgroup of its own."""

    memory: Memory = field(default_factory=Memory)
    """On memory."""
    pids: Pids = field(default_factory=Pids)
    """On tasks."""
    cpu: Cpu = field(default_factory=Cpu)
    """On processor time."""


@dataclass(frozen=True, kw_only=True)
class Linux:
    """The part of a specification for Linux."""

    namespaces: tuple[Namespace, ...] = ()
    """The namespaces that are not shared with the host."""
    uid_mappings: tuple[IdMapping, ...] = ()
    """Users of the user namespace."""
    gid_mappings: tuple[IdMapping, ...] = ()
    """Groups of the user namespace."""
    devices: tuple[Device, ...] = ()
    """Device files."""
    resources: Resources = field(default_factory=Resources)
    """The limits of the sandbox."""
    sysctl: Mapping[str, str] = field(default_factory=dict)
    """Kernel settings."""

    def problems(self) -> Found:
        """Yield the broken rules."""
        kinds = {namespace.type: namespace for namespace in self.namespaces}
        yield from _twice(".namespaces", [namespace.type.value for namespace in self.namespaces])
        for index, namespace in enumerate(self.namespaces):
            if namespace.path and (wrong := absolute(namespace.path)):
                yield f".namespaces[{index}].path", wrong
        maps = {".uidMappings": self.uid_mappings, ".gidMappings": self.gid_mappings}
        for name, mappings in maps.items():
            if mappings and NamespaceType.USER not in kinds:
                yield name, "there is no user namespace for it"
            yield from _overlaps(name, mappings)
        user = kinds.get(NamespaceType.USER)
        if user and not user.path and not (self.uid_mappings and self.gid_mappings):
            yield ".namespaces", "a new user namespace needs uidMappings and gidMappings"


_HOOKS = "refused: runsc runs hooks on the host, outside of the sandbox, with the caller's rights"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A whole ``config.json``."""

    REFUSED: ClassVar[Mapping[str, str]] = {"hooks": _HOOKS}

    oci_version: str
    """Version of the specification, 1.x."""
    process: Process
    """The program that is started."""
    root: Root
    """Its root file system."""
    hostname: str = ""
    """Its host name."""
    domainname: str = ""
    """Its NIS domain name."""
    mounts: tuple[Mount, ...] = ()
    """The mounts, in order."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Arbitrary names and values."""
    linux: Linux = field(default_factory=Linux)
    """The part for Linux."""

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON values, without fields that have their default."""
        return dict(write(self))

    def problems(self) -> Found:
        """Yield the broken rules."""
        version = _VERSION.fullmatch(self.oci_version)
        if not version or self.oci_version.startswith("1.0.0-rc"):
            yield "ociVersion", f"{shown(self.oci_version)} is not a release 1.x"
        kinds = {namespace.type for namespace in self.linux.namespaces}
        for place, name in (("hostname", self.hostname), ("domainname", self.domainname)):
            if not name:
                continue
            if len(name.encode("utf-8", "surrogatepass")) > 64:
                yield place, "is longer than 64 bytes"
            if not _HOSTNAME.fullmatch(name):
                yield place, f"{shown(name)} is not made of letters, digits, '.', '_' and '-'"
            if NamespaceType.UTS not in kinds:
                yield place, "there is no uts namespace for it"
        targets = [mount.destination for mount in self.mounts]
        yield from _twice("mounts", [normal(to) if to.startswith("/") else to for to in targets])


def _twice(where: str, words: Iterable[str]) -> Found:
    seen: set[str] = set()
    for index, word in enumerate(words):
        if word in seen:
            yield f"{where}[{index}]", f"{shown(word)} is there twice"
        seen.add(word)


def _overlaps(where: str, mappings: tuple[IdMapping, ...]) -> Found:
    for attribute, name in (("container_id", "containerID"), ("host_id", "hostID")):
        ordered = sorted(mappings, key=lambda entry, which=attribute: getattr(entry, which))  # type: ignore[misc]
        for before, after in itertools.pairwise(ordered):
            if getattr(before, attribute) + before.size > getattr(after, attribute):
                yield where, f"{name} {getattr(after, attribute)} is mapped twice"
