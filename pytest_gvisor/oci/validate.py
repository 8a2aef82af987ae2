"""The rules of a specification beyond its structure. Nothing here touches the file system.

runsc checks almost none of this. It ignores what it does not know, follows any root path and runs
hooks as its caller. So whoever writes ``config.json`` is the boundary, and here is what it keeps.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pytest_gvisor.errors import InvalidBundle, UsageError
from pytest_gvisor.escape import shown
from pytest_gvisor.oci import mount_options, reader
from pytest_gvisor.oci.spec import (
    Capabilities,
    IdMapping,
    Linux,
    Mount,
    Process,
    Rlimit,
    Root,
    Spec,
    User,
)
from pytest_gvisor.oci.vocabulary import MountType, NamespaceType
from pytest_gvisor.programs.paths import below

# "-detach" would be read as a flag, ".." is a folder, 100 characters break the control socket.
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_VERSION: Final = re.compile(r"1\.\d{1,4}\.\d{1,4}([-+][0-9A-Za-z.+-]{1,32})?", re.ASCII)
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_Found = Iterator[tuple[str, str]]


def reserved(annotation: str) -> bool:
    """Whether runsc takes flags or a role from this annotation: never from a bundle."""
    return annotation.startswith(("dev.gvisor.", "io.kubernetes.cri"))


def absolute(path: str) -> str:
    """Return the problem of a path inside the sandbox, or nothing."""
    if not path.startswith("/"):
        return f"{shown(path)} is not absolute"
    if ".." in path.split("/"):
        return f"{shown(path)} has a '..' in it"
    return ""


def normal(path: str) -> str:
    """Normalize an absolute path: no doubled slashes, dots or slash at its end."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _process(process: Process) -> _Found:
    if not process.args:
        yield ".args", "is empty: there is no program to start"
    elif not process.args[0]:
        yield ".args[0]", "is empty: there is no program to start"
    if wrong := absolute(process.cwd):
        yield ".cwd", wrong
    yield from _environment(process.env)
    yield from _twice(".rlimits", [limit.type for limit in process.rlimits])


def _environment(env: Iterable[str]) -> _Found:
    seen: set[str] = set()
    for index, entry in enumerate(env):
        name, equals, _ = entry.partition("=")
        if not equals or not name:
            yield f".env[{index}]", f"{shown(entry)} is not KEY=value"
        elif name in seen:
            yield f".env[{index}]", f"{shown(name)} is there twice"
        seen.add(name)


def _twice(where: str, words: Iterable[str]) -> _Found:
    seen: set[str] = set()
    for index, word in enumerate(words):
        if word in seen:
            yield f"{where}[{index}]", f"{shown(word)} is there twice"
        seen.add(word)


def _user(user: User) -> _Found:
    if user.umask is not None and user.umask > 0o777:
        yield ".umask", f"{user.umask:#o} has other bits than 0o777"


def _capabilities(sets: Capabilities) -> _Found:
    # From a set of the process that the kernel cannot hold, runsc would make something else.
    for name in ("effective", "ambient"):
        for index, capability in enumerate(getattr(sets, name)):
            if capability not in sets.permitted:
                yield f".{name}[{index}]", f"{capability} is not in permitted"


def _rlimit(limit: Rlimit) -> _Found:
    if limit.soft > limit.hard:
        yield ".soft", f"{limit.soft} is above the hard limit {limit.hard}"


def _root(root: Root) -> _Found:
    if not root.path:
        yield ".path", "is empty"


def _mount(mount: Mount) -> _Found:
    if wrong := absolute(mount.destination):
        yield ".destination", wrong
    else:
        yield from _target(mount, normal(mount.destination))
    if mount.is_bind and not mount.source:
        yield ".source", "missing: a bind mount shows a folder or file of the host"
    if mount.type is MountType.NONE and not mount.is_bind:
        yield ".type", "missing: only a bind mount can do without"
    yield from mount_options.problems(mount)


def _target(mount: Mount, target: str) -> _Found:
    if target == "/":
        yield ".destination", "a mount onto / would replace the root file system"
    if target == "/proc" and mount.type is not MountType.PROC:
        yield ".destination", "only the sandbox's own proc can be mounted onto /proc"
    if below(target, "/proc") and (mount.is_bind or not target.startswith("/proc/acpi")):
        yield ".destination", f"{shown(target)} is inside /proc"


def _mapping(mapping: IdMapping) -> _Found:
    if mapping.size == 0:
        yield ".size", "is 0: it maps nothing"
    for name, first in ((".containerID", mapping.container_id), (".hostID", mapping.host_id)):
        if first + mapping.size > 2**32:
            yield name, "with its size, goes beyond 2**32"


def _linux(linux: Linux) -> _Found:
    kinds = {namespace.type: namespace for namespace in linux.namespaces}
    yield from _twice(".namespaces", [namespace.type.value for namespace in linux.namespaces])
    for index, namespace in enumerate(linux.namespaces):
        if namespace.path and (wrong := absolute(namespace.path)):
            yield f".namespaces[{index}].path", wrong
    for name, mappings in (
        (".uidMappings", linux.uid_mappings),
        (".gidMappings", linux.gid_mappings),
    ):
        if mappings and NamespaceType.USER not in kinds:
            yield name, "there is no user namespace for it"
        yield from _overlaps(name, mappings)
    user = kinds.get(NamespaceType.USER)
    if user and not user.path and not (linux.uid_mappings and linux.gid_mappings):
        yield ".namespaces", "a new user namespace needs uidMappings and gidMappings"
    if ".." in linux.cgroups_path.split("/"):
        yield ".cgroupsPath", f"{shown(linux.cgroups_path)} has a '..' in it"


def _overlaps(where: str, mappings: tuple[IdMapping, ...]) -> _Found:
    for attribute, name in (("container_id", "containerID"), ("host_id", "hostID")):
        ordered = sorted(mappings, key=lambda entry, which=attribute: getattr(entry, which))  # type: ignore[misc]
        for before, after in itertools.pairwise(ordered):
            if getattr(before, attribute) + before.size > getattr(after, attribute):
                yield where, f"{name} {getattr(after, attribute)} is mapped twice"


def _spec(spec: Spec) -> _Found:
    version = _VERSION.fullmatch(spec.oci_version)
    if not version or spec.oci_version.startswith("1.0.0-rc"):
        yield "ociVersion", f"{shown(spec.oci_version)} is not a release 1.x"
    yield from _hostname(spec)
    yield from _twice("mounts", [_destination(mount) for mount in spec.mounts])


def _destination(mount: Mount) -> str:
    return normal(mount.destination) if mount.destination.startswith("/") else mount.destination


def _hostname(spec: Spec) -> _Found:
    kinds = {namespace.type for namespace in spec.linux.namespaces}
    for place, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if not name:
            continue
        if len(name.encode("utf-8", "surrogatepass")) > 64:
            yield place, "is longer than 64 bytes"
        if not _HOSTNAME.fullmatch(name):
            yield place, f"{shown(name)} is not made of letters, digits, '.', '_' and '-'"
        if NamespaceType.UTS not in kinds:
            yield place, "there is no uts namespace for it"


RULES: Final[Mapping[type, reader.Rule]] = {
    Process: _process,
    User: _user,
    Capabilities: _capabilities,
    Rlimit: _rlimit,
    Root: _root,
    Mount: _mount,
    IdMapping: _mapping,
    Linux: _linux,
    Spec: _spec,
}


def _own(spec: Spec) -> _Found:
    """Yield the broken rules of a specification that is ready to be written and run.

    A bundle that was made elsewhere is brought to this by `Bundle.open`.
    """
    if wrong := absolute(spec.root.path):
        yield "root.path", wrong
    if spec.process.terminal:
        yield "process.terminal", "a workload under test gets pipes, not a terminal"
    sets = spec.process.capabilities or Capabilities()
    for index, capability in enumerate(sets.ambient):
        if capability not in sets.inheritable:
            yield (
                f"process.capabilities.ambient[{index}]",
                f"{capability} is not in inheritable",
            )
    for index, mount in enumerate(spec.mounts):
        if mount.is_bind and mount.source and (wrong := absolute(mount.source)):
            yield f"mounts[{index}].source", wrong
    yield from mount_options.ignored(spec.mounts)
    for name in filter(reserved, spec.annotations):
        yield reader.at("annotations", name), "steers runsc itself: give it as a flag"


def examine(value: object) -> tuple[Spec | None, list[str]]:
    """Return the specification (None where none can be made) and every problem, rules included."""
    if isinstance(value, Mapping) and _without_hooks(value.get("hooks")):
        value = reader.without(value, "hooks")
    return reader.read(Spec, value, RULES)


def _without_hooks(hooks: object) -> bool:
    if not isinstance(hooks, Mapping) or reader.repeated(hooks):
        return False  # of two lists of one name, only the second is to be seen
    return all(entry == [] for entry in hooks.values())


def read(value: object) -> Spec:
    """Read the specification in JSON values. Raises `InvalidBundle` with every problem."""
    spec, found = examine(value)
    if found or spec is None:
        raise InvalidBundle(found, where="config.json")
    return spec


def problems(spec: Spec, value: dict[str, Any] | None = None) -> list[str]:
    """Return every rule that this specification breaks, each with its place.

    It is read back from the JSON that would be written, ``value`` where that is at hand. So what is
    checked is what runs.
    """
    again, found = examine(spec.to_json() if value is None else value)
    if again is not None:
        own = itertools.islice(_own(spec), reader.MAX_PROBLEMS)
        found += [f"{place}: {text}" for place, text in own]
    return found


def check_id(name: object) -> str:
    """Return the id if runsc can be trusted with it. Raises `UsageError`."""
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise UsageError(
            f"{shown(name)} cannot be the id of a sandbox",
            next_step="An id is 1 to 64 of a-z, 0-9, '_', '.' and '-', and starts with a letter"
            " or digit.",
        )
    return name
