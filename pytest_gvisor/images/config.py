"""An image's configuration as typed data: the defaults for its programs.

Source: https://github.com/opencontainers/image-spec, config.md. `ImageConfig.parse` checks the
data.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_gvisor.base.errors import ImageError, InvalidBundle
from pytest_gvisor.base.escape import shown
from pytest_gvisor.images.streams import check_digest
from pytest_gvisor.oci.reader import load
from pytest_gvisor.oci.rootfs import ProgramDefaults
from pytest_gvisor.oci.vocabulary import absolute, normal
from pytest_gvisor.programs.paths import within

_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Go's names of the architectures that gVisor has."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The part of an image's configuration that matters for a run."""

    architecture: str = ""
    """Go's name of it, such as ``amd64``; empty if the image does not say."""
    os: str = ""
    """Empty if the image does not say, which stands for linux."""
    defaults: ProgramDefaults = dataclasses.field(default_factory=ProgramDefaults)
    """The defaults for programs; the user as written: ``name``, ``uid``, ``name:group``…"""
    volumes: tuple[str, ...] = ()
    """Absolute paths, normalized and sorted."""
    diff_ids: tuple[str, ...] = ()
    """Digests of the uncompressed layers, the lowest first."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read JSON text. Raises `ImageError`."""
        value = objects(load_json(data, "the image's configuration"), "the image's configuration")
        config = _part(value, "config")
        return cls(
            architecture=_text(value, "architecture"),
            os=_text(value, "os"),
            defaults=ProgramDefaults(
                entrypoint=_texts(config, "Entrypoint"),
                cmd=_texts(config, "Cmd"),
                env=_environment(config),
                cwd=_working_dir(config),
                user=_text(config, "User"),
                stop_signal=_stop_signal(config),
            ),
            volumes=_volumes(config),
            diff_ids=tuple(map(check_digest, _texts(_part(value, "rootfs"), "diff_ids"))),
        )

    def check_runs_here(self) -> None:
        """Raise `ImageError` for an image of another system or architecture."""
        if self.os not in ("", "linux"):
            raise ImageError(f"it is for {shown(self.os)}, and this is linux")
        if self.architecture not in ("", machine()):
            raise ImageError(
                f"it is for {shown(self.architecture)}, and this machine is {machine()}",
                next_step=f"Pull or build it with --platform linux/{machine()}.",
            )


def machine() -> str:
    """Return this machine's architecture by the name that Go gives it."""
    name = os.uname().machine
    return _MACHINES.get(name, name)


def load_json(data: bytes, what: str) -> object:
    """Read JSON text as values, within limits. Raises `ImageError`."""
    try:
        return load(data, where=what)
    except InvalidBundle as error:
        raise ImageError(f"{what}: {'; '.join(error.problems)}") from error


def objects(value: object, what: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a JSON object. Raises `ImageError` otherwise."""
    if not isinstance(value, Mapping):
        raise ImageError(f"{what} is not an object")
    return value


def lists(value: object, what: str) -> list[Any]:
    """Return ``value`` if it is a list; null is an empty one. Raises `ImageError` otherwise."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{what} is not a list")
    return value


def _part(part: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = part.get(name)
    return objects({} if found is None else found, name)


def _checked(value: object, where: str) -> str:
    if not isinstance(value, str) or re.search("[\0\ud800-\udfff]", value):
        raise ImageError(f"{where}: {shown(value)} is not text")
    return value


def _text(part: Mapping[str, Any], name: str) -> str:
    found = part.get(name)
    return "" if found is None else _checked(found, name)


def _texts(part: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return tuple(_checked(e, f"{name}[{i}]") for i, e in enumerate(lists(part.get(name), name)))


def _environment(config: Mapping[str, Any]) -> dict[str, str]:
    made: dict[str, str] = {}
    for entry in _texts(config, "Env"):
        name, equals, text = entry.partition("=")
        if not name or not equals:
            raise ImageError(f"Env: {shown(entry)} is not KEY=value")
        made[name] = text
    return made


def _working_dir(config: Mapping[str, Any]) -> str:
    # Some builders write paths without the first slash, and docker takes them as below /.
    path = "/" + _text(config, "WorkingDir").lstrip("/")
    if wrong := absolute(path):
        raise ImageError(f"WorkingDir: {wrong}")
    return normal(path)


def _volumes(config: Mapping[str, Any]) -> tuple[str, ...]:
    made = set()
    for path in _part(config, "Volumes"):
        target = "/" if absolute(_checked(path, "Volumes")) else normal(path)
        if target == "/" or within(target, "/proc"):
            raise ImageError(f"Volumes: {shown(path)} cannot be a volume")
        made.add(target)
    return tuple(sorted(made))


def _stop_signal(config: Mapping[str, Any]) -> int:
    """Return a signal's number from ``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``."""
    word = _text(config, "StopSignal") or "SIGTERM"
    if re.fullmatch("[0-9]{1,3}", word):
        number = int(word)
    else:
        name = word.upper().removeprefix("SIG")
        offset = re.search(r"(?<=^RTMIN)\+1?[0-9]\Z|(?<=^RTMAX)-1?[0-9]\Z", name)
        known = signal.Signals.__members__.get(
            f"SIG{name[: offset.start()] if offset else name}", 0
        )
        number = known + int(offset[0] if offset else 0)
    if not 1 <= number <= signal.SIGRTMAX:
        raise ImageError(f"StopSignal: {shown(word)} is no signal")
    return number
