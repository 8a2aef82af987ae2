"""An image's configuration as typed data: the defaults for its programs.

Source: https://github.com/opencontainers/image-spec, config.md. `ImageConfig.parse` checks the
data and reports every problem at once. `rootfs.ImageRootfs` turns it into defaults for programs.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pytest_gvisor.errors import ImageError, InvalidBundle
from pytest_gvisor.escape import shown
from pytest_gvisor.images.streams import check_digest
from pytest_gvisor.oci.reader import load
from pytest_gvisor.oci.vocabulary import absolute, normal
from pytest_gvisor.programs.paths import within

_MACHINES: Final = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386",
    "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The part of an image's configuration that matters for a run."""

    architecture: str = ""
    """In Go's words, as ``amd64``; empty where the image does not say."""
    os: str = ""
    """Empty where the image does not say: that is linux too."""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    working_dir: str = "/"
    user: str = ""
    """As written: ``name``, ``uid``, ``name:group``…; empty is root."""
    volumes: tuple[str, ...] = ()
    """Absolute paths, normalized and sorted."""
    stop_signal: int = signal.SIGTERM
    diff_ids: tuple[str, ...] = ()
    """Digests of the uncompressed layers, the lowest first."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read JSON text. Raises `ImageError` with every problem."""
        value = objects(load_json(data, "the image's configuration"), "the image's configuration")
        reader = _Reading(value)
        config = reader.part("config")
        made = cls(
            architecture=reader.text(value, "architecture"),
            os=reader.text(value, "os"),
            entrypoint=reader.texts(config, "Entrypoint"),
            cmd=reader.texts(config, "Cmd"),
            env=reader.environment(config),
            working_dir=reader.folder(config, "WorkingDir"),
            user=reader.text(config, "User"),
            volumes=reader.volumes(config),
            stop_signal=reader.signal(config),
            diff_ids=reader.diff_ids(),
        )
        if reader.problems:
            raise ImageError("its configuration cannot be used", problems=reader.problems)
        return made

    def runs_here(self) -> bool:
        """Whether the image is for this system and architecture."""
        return self.os in ("", "linux") and self.architecture in ("", machine())

    def check_runs_here(self) -> None:
        """Raise `ImageError` for an image of another system or architecture."""
        if self.runs_here():
            return
        if self.os not in ("", "linux"):
            raise ImageError(f"it is for {shown(self.os)}, and this is linux")
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


class _Reading:
    """The reader of each kind of field; collects the problems."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = value
        self.problems: list[str] = []

    def _add(self, text: str) -> None:
        if len(self.problems) < 50:
            self.problems.append(text)

    def _is_text(self, value: object, where: str) -> bool:
        good = isinstance(value, str) and "\0" not in value and _encodes(value)
        if not good:
            self._add(f"{where}: {shown(value)} is not text")
        return good

    def _found(self, part: Mapping[str, Any], name: str, kind: type, noun: str) -> Any:
        """Return a list or an object; an empty one where there is none."""
        found = part.get(name)
        if found is not None and not isinstance(found, kind):
            self._add(f"{name} is not {noun}")
            found = None
        return kind() if found is None else found

    def part(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._found(self.value, name, dict, "an object")
        return found

    def text(self, part: Mapping[str, Any], name: str) -> str:
        found = part.get(name)
        return str(found) if found is not None and self._is_text(found, name) else ""

    def texts(self, part: Mapping[str, Any], name: str) -> tuple[str, ...]:
        found = enumerate(self._found(part, name, list, "a list"))
        return tuple(e for i, e in found if self._is_text(e, f"{name}[{i}]"))

    def environment(self, config: Mapping[str, Any]) -> dict[str, str]:
        made: dict[str, str] = {}
        for entry in self.texts(config, "Env"):
            name, equals, text = entry.partition("=")
            if not name or not equals:
                self._add(f"Env: {shown(entry)} is not KEY=value")
            else:
                made[name] = text
        return made

    def folder(self, config: Mapping[str, Any], name: str) -> str:
        path = self.text(config, name)
        # Builders have written paths without the slash, and docker takes them as below /.
        whole = f"/{path.lstrip('/')}"
        if wrong := absolute(whole):
            self._add(f"{name}: {wrong}")
        return normal(whole)

    def volumes(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        made = set()
        for path in self._found(config, "Volumes", dict, "an object"):
            target = normal(path) if self._is_text(path, "Volumes") and not absolute(path) else ""
            if not target or target == "/" or within(target, "/proc"):
                self._add(f"Volumes: {shown(path)} cannot be a volume")
            made.add(target)
        return tuple(sorted(made))

    def signal(self, config: Mapping[str, Any]) -> int:
        word = self.text(config, "StopSignal")
        number = signal_number(word) if word else signal.SIGTERM
        if number is None:
            self._add(f"StopSignal: {shown(word)} is no signal")
        return int(number or signal.SIGTERM)

    def diff_ids(self) -> tuple[str, ...]:
        made = []
        for entry in self.texts(self.part("rootfs"), "diff_ids"):
            try:
                made.append(check_digest(entry))
            except ImageError as error:
                self._add(f"rootfs.diff_ids: {error.message}")
        return tuple(made)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def signal_number(word: str) -> int | None:
    """Return a signal's number from ``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``, else None."""
    if word.isascii() and word.isdigit() and len(word) <= 3:
        return int(word) if 1 <= int(word) <= signal.SIGRTMAX else None
    name = word.upper().removeprefix("SIG")
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    found = getattr(signal, f"SIG{base}", None)
    if not isinstance(found, signal.Signals):
        return None
    if not sign:
        return int(found)
    if base not in ("RTMIN", "RTMAX") or not (offset.isascii() and offset.isdigit()):
        return None
    number = int(found) + int(sign + offset[:3])
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else None
