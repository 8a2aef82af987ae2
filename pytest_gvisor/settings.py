"""The settings of a run: enums, the frozen `Settings`, and readers of texts.

Nothing here touches the file system or starts anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pytest_gvisor.errors import UsageError
from pytest_gvisor.platform_names import Platform as Platform  # noqa: PLC0414 -- exported
from pytest_gvisor.release_range import ReleaseRange
from pytest_gvisor.setting_table import (
    BY_NAME,
    DEFAULT_MAX_OUTPUT,
    DEFAULT_TIMEOUT,
    Kind,
    Setting,
    names_from,
)


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


LONGEST = 2_000_000.0
"""The longest time that is waited for, in seconds: some 23 days. epoll_wait(2) counts milliseconds
in an int, and Python raises `OverflowError` for more."""

MOST_OUTPUT = 2**62
"""The most bytes of output that can be asked for: the size of a mapping is a signed word."""


LEAST_FILES, MOST_FILES = 64, 2**30
"""The open files that may be asked for: a Python with pytest, and what docker calls infinity."""


class Release(NamedTuple):
    """One runsc of a matrix over releases: its label, which ids have, and its path."""

    label: str
    path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    lenient: bool = False
    """Whether ``--in-gvisor`` lets tests be skipped."""

    reprobe: bool = False
    """Whether verdicts on platforms that earlier runs have left are forgotten."""

    timeout: float = DEFAULT_TIMEOUT
    """Deadline of one workload in seconds."""

    rootless: Rootless = Rootless.AUTO
    """Whether runsc runs without real root."""

    debug: bool = False
    """Whether reports of failed tests have runsc's logs and an strace of the workload."""

    keep: Keep = Keep.NONE
    """The tests whose bundles, logs and replay scripts stay under pytest's base temp."""

    shell: bool = False
    """Whether the sandboxes of a test stay until its verdict, for a shell if it fails."""

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

    nofile: int | None = None
    """Limit on the open files of each process; None is the host's."""

    max_output: int = DEFAULT_MAX_OUTPUT
    """How many bytes of each output stream are kept, head and tail together."""

    sha256: bool = False
    """Whether streams of which bytes are left out are hashed all the same."""


NATIVE = "native"
"""No platform of gVisor's: the host itself."""


def platforms(value: object) -> tuple[Platform, ...]:
    """Read platforms from ``auto``, ``all``, a comma list, a `Platform`, or a list of these.

    ``auto`` is the empty tuple, and has no other platform beside it. The order is kept, a
    repetition is dropped. ``native`` is read by `native`, and is nothing by itself. Raises
    `UsageError`.
    """
    parts = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    names = [name.strip() for part in parts for name in _text(part, "platform").split(",")]
    found: dict[Platform, None] = {}
    if set(filter(None, names)) == {NATIVE}:
        raise UsageError(
            "platform=native alone is no platform of gVisor's; name one beside it, or run tests "
            "inside on the host alone with --no-gvisor"
        )
    for name in filter(None, names):
        if name == NATIVE:
            continue
        if name == "all":
            found |= dict.fromkeys(Platform)
        elif name != "auto":
            found[platform(name, "platform")] = None
    if "auto" in names and found:
        raise UsageError(
            f"platform={','.join(filter(None, names))}: auto stands alone; leave it out where "
            "another was added to it, or name what it means: systrap where the binary has it, "
            "else another of its platforms"
        )
    if not any(names):
        raise UsageError("platform names nothing; say auto, all, or " + ", ".join(Platform))
    return tuple(found)


_Word = TypeVar("_Word", bound=enum.StrEnum)


def native(value: object) -> bool:
    """Whether the value that `platforms` reads names ``native``."""
    parts = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    return NATIVE in {name.strip() for part in parts for name in str(part).split(",")}


def expected_failures(value: object) -> dict[str, str]:
    """Read the marker's ``xfail``: reasons, by platform or ``native``.

    Raises `UsageError`.
    """
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"xfail={value!r} is not {{'PLATFORM': 'reason'}}")
    found = {}
    for name, reason in value.items():
        key = NATIVE if name == NATIVE else platform(name, "xfail").value
        if not isinstance(reason, str) or not reason.strip():
            raise UsageError(f"xfail={{{key!r}: {reason!r}}} has no reason in words")
        found[key] = reason
    return found


def platform(value: object, name: str) -> Platform:
    """Read the name of a platform. Raises `UsageError` for an impossible name.

    Whether there is one of that name, only the binary says.
    """
    text = _text(value, name)
    try:
        return Platform(text)
    except ValueError:
        raise UsageError(
            f"{name}={text!r} is not one of {', '.join(Platform)}, and no name that a runsc lists"
        ) from None


def word(words: type[_Word], value: object, name: str) -> _Word:
    """Return the member of ``words`` that ``value`` spells. Raises `UsageError` with the
    choices.
    """
    text = _text(value, name)
    try:
        return words(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is not one of {_choices(words)}") from None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}={value!r} is not a word")
    return value


def _choices(words: type[enum.StrEnum]) -> str:
    return ", ".join(member.value for member in words)


def seconds(value: object, name: str) -> float:
    """Read a finite number of seconds above 0, at most `LONGEST`. Raises `UsageError`."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}={value!r} is not a number of seconds")
    if not 0 < value < math.inf:
        raise UsageError(f"{name}={value!r} is not a finite number of seconds above 0")
    return float(min(value, LONGEST))


def flag(value: object, name: str) -> bool:
    """Read a bool, or a text for one. Raises `UsageError`."""
    if isinstance(value, bool):
        return value
    meanings = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False,
                "no": False, "off": False, "": False}  # fmt: skip
    meaning = meanings.get(value.lower()) if isinstance(value, str) else None
    if meaning is None:
        raise UsageError(f"{name}={value!r} is neither true nor false")
    return meaning


def count(value: object, name: str) -> int:
    """Read a whole number of at least 0. Raises `UsageError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{name}={value!r} is not a whole number of at least 0")
    return value


def _output(value: object, name: str) -> int:
    most = count(value, name)
    if most > MOST_OUTPUT:
        raise UsageError(f"{name}={most} is more than any memory holds")
    return most


def _files(value: object, name: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if type(value) is not int or not LEAST_FILES <= value <= MOST_FILES:
        raise UsageError(
            f"{name}={value!r} is not a number of open files from {LEAST_FILES} to {MOST_FILES}"
        )
    return value


REPORT_SUFFIXES = (".json", ".html", ".md")


def report_paths(value: object, name: str) -> tuple[str, ...]:
    """Read paths of reports from a list, or from a text with ``:`` between them.

    Raises `UsageError`.
    """
    paths = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise UsageError(f"{name}={value!r} is not a list of paths")
    for path in paths:
        if not path.endswith(REPORT_SUFFIXES):
            known = ", ".join(REPORT_SUFFIXES)
            raise UsageError(f"{name}={path!r} ends with none of {known}: no form of report")
    return tuple(dict.fromkeys(paths))


def _size(value: object, name: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(f"{name}={value!r} is not a size such as 268435456 or '256M'")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number that is larger than any float
            return float(value)
    raise UsageError(f"{name}={value!r} is not a number")


def _path(value: object, name: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise UsageError(f"{name}={value!r} is not a path")
    return text


def _platforms(value: object, _name: str) -> tuple[Platform, ...]:
    return platforms(value)


def _release(value: object, name: str) -> str:
    return str(ReleaseRange.parse(value, name)) if value != "" else ""


_LABELLED = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.]{0,31})=(.*)", re.ASCII | re.DOTALL)
_NO_LABELS = frozenset({*Platform, NATIVE, "auto", "all"})


def with_binaries(settings: Settings, written: Sequence[str], name: str) -> Settings:
    """Return ``settings`` with the command line's binaries: paths, or ``LABEL=PATH``.

    Of paths without a label the last one counts, and a single label is of no use: only two or more
    make a matrix. Raises `UsageError`.
    """
    found = [_LABELLED.fullmatch(text) for text in written]
    labelled = [Release(match[1], _path(match[2], name)) for match in found if match]
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
        next_step="--gvisor-runsc LABEL=PATH, given twice or more, names them.",
    )


CHOICES: Mapping[Kind, type[enum.StrEnum]] = {
    "network": Network, "rootless": Rootless, "keep": Keep,
}  # fmt: skip
"""The kinds of settings whose values are words."""

READERS: Mapping[Kind, Callable[[object, str], object]] = {
    "platforms": _platforms,
    "binary": _path,
    "path": _path,
    "release": _release,
    "flag": flag,
    "seconds": seconds,
    "size": _size,
    "count": count,
    "files": _files,
    "number": _number,
    "bytes": _output,
    "reports": report_paths,
}
"""The readers of the other kinds: of a value, and of the name that a message calls it by."""


def read(setting: Setting, value: object, name: str) -> Any:
    """Return the value that a user wrote, as `Settings` has it. Raises `UsageError`."""
    if value is None and setting.default is None:
        return None
    if setting.kind in CHOICES:
        return word(CHOICES[setting.kind], value, name)
    return READERS[setting.kind](value, name)


def replaced(settings: Settings, changes: Mapping[str, object]) -> Settings:
    """Return ``settings`` with ``changes``, each read by its reader. Raises `UsageError`.

    ``platform`` is another name for ``platforms``.
    """
    found: dict[str, Any] = {}
    for name, value in changes.items():
        setting = BY_NAME.get(name)
        if setting is None:
            known = ", ".join(names_from("marker"))
            raise UsageError(f"{name!r} is not a setting; there are {known}")
        found[setting.name] = read(setting, value, name)
        if setting.kind == "platforms":
            found["native"] = native(value)
        if setting.kind == "binary":
            found |= {"releases": (), "label": ""}
    return dataclasses.replace(settings, **found)
