"""The key of a sandbox that is saved for later sessions: a digest of all that its start depends on.

Files are no part of it: see `kept_state`. Also says which sandboxes are not saved, because a secret
may be in their memory.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from pytest_gvisor.inside import environment, program
from pytest_gvisor.oci import rootfs
from pytest_gvisor.programs.proc import id_map
from pytest_gvisor.run import following
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.sessions import boot_notes
from pytest_gvisor.settings import Settings

if TYPE_CHECKING:
    from pytest_gvisor.inside.start import Plan

_HOSTS: Final = ("keep", "lenient", "report", "reprobe", "strict", "timeout")
"""The settings that a sandbox does not see."""

_PROCESSOR: Final = re.compile(
    r"^(vendor_id|cpu family|model|model name|stepping|microcode|flags|Features|CPU [a-z]+)\s*:.*",
    re.MULTILINE,
)
_NAME: Final = re.compile(r"(?:--?)?([\w-]+)")


def key(plan: Plan, search_path: Sequence[str], *, line: bool = True) -> str:
    """Return the hexadecimal digest for sandboxes of this plan.

    Without ``line``, it is for sandboxes in which nothing has read the arguments of the command
    line. These are the same for each choice of tests.
    """
    settings = plan.settings
    part = plan.of_each_run()
    if not line:
        part = dataclasses.replace(part, command=_without_line(part.command))
    facts = {
        "package": _version(),
        "boot": boot_notes.boot_id(),
        "machine": [*os.uname(), _processor(), sorted(os.sched_getaffinity(0))],
        "python": [sys.version, sys.prefix, sys.base_prefix, *program.command("")],
        "user": [os.geteuid(), os.getegid(), *sorted(os.getgroups()), repr(id_map())],
        "root": repr(rootfs.host_system()),
        "limits": [following.nofile(settings), following.shm(settings)],
        "search_path": list(search_path),
        "plan": part,
    }
    text = json.dumps(_plain(facts), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _without_line(command: Mapping[str, Any]) -> dict[str, Any]:
    """Return a first command without arguments: plugins and the names of programs stay."""
    args = command["args"]
    plugins = itertools.takewhile(lambda i: args[i] == "-p", range(0, len(args), 2))
    program = {
        name: value[:1] if isinstance(value, list) else value
        for name, value in command["program"].items()
    }
    names = [args[i + 1] for i in plugins]
    return {**command, "args": names, "program": program, "reads": False}


def _version() -> str:
    try:
        return metadata.version("pytest-gvisor")
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    # The first one stands for all. The kernel may ask each processor for the rest of the file.
    with open("/proc/cpuinfo", "rb", buffering=0) as file:
        first = file.read(4096).decode("utf-8", "replace").partition("\n\n")[0]
    return "\n".join(match[0] for match in _PROCESSOR.finditer(first))


def _plain(value: object) -> Any:
    """Return JSON data that is the same for equal values in all processes."""
    if isinstance(value, Runsc):
        return [value.path, value.fingerprint]
    if isinstance(value, Settings):
        value = dataclasses.replace(value, **{name: getattr(Settings(), name) for name in _HOSTS})
    if isinstance(value, enum.Enum):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return [[_plain(name), _plain(part)] for name, part in sorted(value.items())]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def secret(plan: Plan) -> str:
    """Return why a secret may be in the memory of a sandbox of this plan; nothing if there is
    none.
    """
    usual = environment.environment((), os.environ)
    extra = [name for name, value in plan.inside.env.items() if usual.get(name) != value]
    if extra:
        return f"variables are passed on by hand: {', '.join(sorted(extra))}"
    options = plan.command["options"].items()
    names = [name for name, value in options if environment.is_secret(name, "") and value]
    words = [*plan.command["program"]["argv"], *plan.command["program"]["orig_argv"]]
    names += [name for name in _named(words) if environment.is_secret(name, "")]
    names += ["a URL with a password" for word in words if environment.is_secret("", word)]
    return f"the command line may have a secret: {names[0]}" if names else ""


def _named(words: Sequence[str]) -> Iterator[str]:
    """Yield the names of options, and those in arguments like ``NAME=VALUE``."""
    for word in words:
        if word.startswith("-") or "=" in word:
            match = _NAME.match(word)
            if match:
                yield match[1].replace("-", "_")
