"""Readers of the values that a user writes for settings: one for each kind.

Nothing here touches the file system or starts anything.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from pytest_gvisor.base.egress import entries
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.platform_names import Platform
from pytest_gvisor.base.release_range import ReleaseRange
from pytest_gvisor.base.setting_table import TRACES, Kind, nearest
from pytest_gvisor.programs.addresses import literal

LONGEST = 2_000_000.0


"""The longest time that is waited for, in seconds: some 23 days. epoll_wait(2) counts milliseconds
in an int. Python raises `OverflowError` for more."""


MOST_OUTPUT = 2**62


"""The most bytes of output that can be asked for: the size of a mapping is a signed word."""


NATIVE = "native"


"""No platform of gVisor's: the host itself."""

IN_PLACE = "in-place"
"""No platform's name either: the sandbox that pytest itself was started in."""


def platforms(value: object, _name: str = "platform") -> tuple[Platform, ...]:
    """Read platforms from ``auto``, ``all``, a comma list, a `Platform`, or a list of these.

    ``auto`` is the empty tuple, and has no other platform beside it. The order is kept, a
    repetition is dropped. ``native`` is read by `native`, and is nothing by itself. Raises
    `UsageError`.
    """
    names = _names(value)
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
    return NATIVE in _names(value)


def _names(value: object) -> list[str]:
    parts = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    return [name.strip() for part in parts for name in _text(part, "platform").split(",")]


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
        raise UsageError(f"{name}={text!r} is not one of {', '.join(words)}") from None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name}={value!r} is not a word")
    return value


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


def trace(value: object, name: str) -> bool | str:
    """Read a flag, or the name of what a trace has more. Raises `UsageError`."""
    try:
        return value if isinstance(value, str) and value in TRACES else flag(value, name)
    except UsageError as error:
        raise UsageError(f"{error.message}, nor one of {', '.join(TRACES)}") from None


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


REPORT_SUFFIXES = (".json", ".html", ".md")


def report_paths(value: object, name: str) -> tuple[str, ...]:
    """Read paths of reports from a list, or from a text with ``:`` between them.

    Raises `UsageError`.
    """
    paths = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(paths, list | tuple) or not all(isinstance(one, str) for one in paths):
        raise UsageError(f"{name}={value!r} is not a list of paths")
    for one in paths:
        if not one.endswith(REPORT_SUFFIXES):
            known = ", ".join(REPORT_SUFFIXES)
            raise UsageError(f"{name}={one!r} ends with none of {known}: no form of report")
    return tuple(dict.fromkeys(paths))


ACTS = ("read", "write", "exec", "connect")
"""The kinds of acts that can be forbidden."""

# An address as a trace has it: no host's name, a port at the end. A star may be the rest of it.
_ADDRESS = re.compile(
    r"""(?!\[::ffff:)  # IPv4 is never in IPv6
    (?: ([0-9.*?]+|\[[0-9a-f:*?]+\]) : [0-9*?]+
      | [0-9.*?]* \* [0-9?]*
      | \[[0-9a-f:*?]* \]? \* [0-9?]*
      | \*+ \]? : [0-9*?]+ )""",
    re.VERBOSE,
)
_NO_IP = re.compile(r"unix(?!:?\*(?:/|\Z))[:*?]|family[*?]|\*(?!/|.*[^*]:[0-9*?]+\Z)")
_SEVERAL = re.compile(r"[\s,;|{}]")


def _is_path(pattern: str) -> bool:
    """Whether a pattern can match a path: absolute, without ``.``, ``..`` and a slash at its end.

    One star stands for no slash, so at the beginning of a path it would stand for nothing.
    """
    begin, *names = pattern.split("/")
    is_absolute = begin.startswith("**") or (not begin and bool(names))
    return pattern == "/" or (is_absolute and not {"", ".", ".."} & {*names})


def _is_address(pattern: str) -> bool:
    """Whether a pattern can match an address: of a Unix socket, of a family, of IP with a port."""
    if pattern.startswith("unix:/"):
        return _is_path(pattern.removeprefix("unix:"))
    found = _ADDRESS.fullmatch(pattern)
    host = (found[1] or "*").strip("[]") if found else ""
    is_ip = "*" in host or "?" in host or (host != "" and literal(host) == host)
    return is_ip or bool(_NO_IP.match(pattern))


def acts(value: object, name: str = "forbid") -> tuple[str, ...]:
    """Read acts from a list: kinds, alone or with a pattern (``write:/app/**``).

    Raises `UsageError`.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{name}={value!r} is not a list such as ['connect', 'write:/app/**']")
    for one in value:
        kind, with_pattern, pattern = one.partition(":")
        if kind not in ACTS:
            near = nearest(kind, [*ACTS])
            raise UsageError(f"{name}: {one!r} is no act{near}; there are {', '.join(ACTS)}")
        is_name = kind == "exec" and pattern != "" and "/" not in pattern
        matches = is_name or (_is_address if kind == "connect" else _is_path)(pattern)
        if _SEVERAL.search(pattern):
            raise UsageError(
                f"{name}: {one!r} has a blank, a comma, a semicolon, a | or a brace",
                next_step="Write each act by itself, and ? for such a character in a name.",
            )
        if with_pattern and not matches:
            needed = "an address and a port" if kind == "connect" else "a whole path"
            told = f"{name}: {one!r} matches nothing: a pattern is of {needed}"
            step = "Write it as a trace has it: /app/**, **/sh, 127.0.0.1:* or [::1]:80."
            raise UsageError(told, next_step=step)
    return tuple(dict.fromkeys(value))


def _size(value: object, name: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise UsageError(f"{name}={value!r} is not a size such as 268435456 or '256M'")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number that is larger than any float
            return float(value)
    raise UsageError(f"{name}={value!r} is not a number")


def path(value: object, name: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise UsageError(f"{name}={value!r} is not a path")
    return text


def _release(value: object, name: str) -> str:
    return str(ReleaseRange.parse(value, name)) if value != "" else ""


READERS: Mapping[Kind, Callable[[object, str], object]] = {
    "platforms": platforms,
    "binary": path,
    "path": path,
    "release": _release,
    "flag": flag,
    "seconds": seconds,
    "size": _size,
    "count": count,
    "number": _number,
    "bytes": _output,
    "reports": report_paths,
    "acts": acts,
    "trace": trace,
    "entries": entries,
}


"""The readers of the other kinds: of a value, and of the name that a message calls it by."""
