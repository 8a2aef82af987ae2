"""Check a specification: its structure, the rules of its classes, and those for one that runs.

runsc checks almost none of this. It ignores unknown keys, follows any root path and runs hooks with
its caller's rights. So a program that writes ``config.json`` must enforce these rules itself.
Nothing here touches the file system.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, Final

from pytest_gvisor.base.errors import InvalidBundle, UsageError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import reader, vocabulary
from pytest_gvisor.oci.spec import Capabilities, Found, Spec

# "-detach" would be read as a flag, ".." is a folder, 100 characters break the control socket.
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


# Keys that runsc ignores with the flags that it gets here, and limits that this package does not
# set, by the object that holds them.
_WITHOUT_EFFECT: Final = {
    "process": "apparmorProfile consoleSize execCPUAffinity ioPriority scheduler selinuxLabel",
    "process.user": "username",
    "linux": "cgroupsPath intelRdt maskedPaths memoryPolicy mountLabel netDevices personality"
    " readonlyPaths rootfsPropagation seccomp timeOffsets",
    "linux.resources": "blockIO devices hugepageLimits network rdma unified",
    "linux.resources.memory": "checkBeforeUpdate disableOOMKiller kernel kernelTCP reservation"
    " swappiness useHierarchy",
    "linux.resources.cpu": "burst cpus idle mems realtimePeriod realtimeRuntime shares",
}


def drop_ignored(value: object) -> list[str]:
    """Take what has no effect out of the JSON of a foreign bundle, and return its places."""
    dropped = []
    for place, names in _WITHOUT_EFFECT.items():
        part: Any = value
        for step in place.split("."):
            part = part.get(step) if isinstance(part, dict) else None
        if isinstance(part, dict):
            dropped += [f"{place}.{name}" for name in names.split() if part.pop(name, None)]
    return dropped


def reserved(annotation: str) -> bool:
    """Whether runsc takes flags or a role from this annotation: never from a bundle."""
    return annotation.startswith(("dev.gvisor.", "io.kubernetes.cri"))


def _own(spec: Spec) -> Found:
    """Yield the broken rules of a specification that is ready to be written and run.

    A bundle that was made elsewhere is brought to this by `Bundle.open`.
    """
    if wrong := vocabulary.absolute(spec.root.path):
        yield "root.path", wrong
    if spec.process.terminal:
        yield "process.terminal", "a workload under test gets pipes, not a terminal"
    sets = spec.process.capabilities or Capabilities()
    for index, capability in enumerate(sets.ambient):
        if capability not in sets.inheritable:
            yield f"process.capabilities.ambient[{index}]", f"{capability} is not in inheritable"
    for index, mount in enumerate(spec.mounts):
        if mount.is_bind and mount.source and (wrong := vocabulary.absolute(mount.source)):
            yield f"mounts[{index}].source", wrong
        for change in vocabulary.adopted_options(mount.kind, mount.options)[1]:
            yield f"mounts[{index}].options", f"runsc ignores an option: {shown(change)}"
    for name in filter(reserved, spec.annotations):
        yield reader.at("annotations", name), "steers runsc itself: give it as a flag"


def examine(value: object) -> tuple[Spec | None, list[str]]:
    """Return the specification (None where none can be made) and every problem, rules included."""
    if isinstance(value, Mapping):
        hooks = value.get("hooks")
        if isinstance(hooks, Mapping) and all(entry == [] for entry in hooks.values()):
            value = {name: entry for name, entry in value.items() if name != "hooks"}
    return reader.read(Spec, value)


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
        found += [f"{at}: {text}" for at, text in itertools.islice(_own(spec), reader.MAX_PROBLEMS)]
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
