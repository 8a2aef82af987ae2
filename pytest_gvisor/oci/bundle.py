"""A bundle: a folder with a ``config.json`` in it, made here or elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pytest_gvisor.base.errors import InvalidBundle, LaunchError
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.trust import follow, is_planted
from pytest_gvisor.oci import reach, root_paths, validate, vocabulary
from pytest_gvisor.oci.reader import MAX_BYTES, MAX_PROBLEMS, at, bounded, load
from pytest_gvisor.oci.spec import Mount, Spec
from pytest_gvisor.oci.vocabulary import MountType, normal
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import within
from pytest_gvisor.sessions import private

CONFIG: Final = "config.json"
_STAND_IN: Final = {
    "ociVersion": "1.0.2",
    "process": {"args": ["-"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
}


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A checked specification and the folder that it belongs to."""

    path: str
    """The folder."""
    spec: Spec
    """The validated specification, which runs. Its root path is absolute."""
    notes: tuple[str, ...] = ()
    """The parts that were changed, or that have no effect under gVisor."""
    identities: dict[str, tuple[int, int]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    """Device and inode of the root, by path, and of the sources of a bundle from elsewhere.

    Another file or folder in the place of one of them is refused.
    """

    @classmethod
    def create(
        cls,
        folder: str,
        spec: Spec,
        *,
        terminal: bool = False,
        annotations: Mapping[str, str] = MappingProxyType({}),
    ) -> Bundle:
        """Write a specification into a folder, which is made if it is not there.

        Every problem is reported (`InvalidBundle`) before anything is written; ``config.json`` is
        there whole or not at all. A full disk and the like are a `LaunchError`, and so is a link of
        another user's in a folder such as ``/tmp``. ``terminal`` is for who gives the workload one
        as its streams, and ``annotations`` for who steers runsc itself.
        """
        value = spec.to_json()
        found = validate.problems(spec, value)
        if terminal:
            value["process"]["terminal"] = True
        if annotations:
            value["annotations"] = {**spec.annotations, **annotations}
        text = "" if found else json.dumps(value, separators=(",", ":"))
        if len(text) > MAX_BYTES:
            found.append(f"larger than {MAX_BYTES} bytes")
        if found:
            raise InvalidBundle(found, where=os.path.join(folder, CONFIG))
        made = False
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                made = True
            with contextlib.ExitStack() as held:
                # Not by `os.path.abspath`: a `..` after a link leaves what the link leads to.
                whole = folder if folder.startswith("/") else f"{os.getcwd()}/{folder}"
                way = follow(whole, held)
                if any(map(is_planted, way.lookups)):
                    raise OSError(errno.ELOOP, "another user's link leads there")
                private.write(f"/proc/self/fd/{way.stack[-1].fd}/{CONFIG}", text)
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                if made:
                    os.rmdir(folder)
            number = getattr(error, "errno", None) or 0
            raise LaunchError("bundle", f"cannot write {shown(folder)}", errno=number) from error
        return cls(path=os.path.abspath(folder), spec=spec)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        allow_binds: Mapping[reach.Source, str] = MappingProxyType({}),
        allow_dangerous: bool = False,
    ) -> Bundle:
        """Read and check a bundle that was made elsewhere (``runc spec``, ``umoci unpack``).

        The specification comes back with absolute paths, so that it can be written elsewhere: what
        was validated is what runs. It reaches only its own folder on the host, unless
        ``allow_binds`` names the source of a bind mount, as ``{"/srv/data": "ro"}``. A mount that
        is not read-only needs ``"rw"``. ``allow_dangerous`` lets it have all binds, what
        `bind` refuses among them, join namespaces, name devices and lower its OOM score.

        Raises `InvalidBundle` with every problem, and `UsageError` for another ``allow_binds``.
        """
        allow = None if allow_dangerous else reach.allowed(allow_binds)
        folder = os.path.abspath(os.fspath(path))
        where = os.path.join(folder, CONFIG)
        notes: list[str] = []
        data, real = _read(folder)
        value = load(data, where=where)
        _drop_unsafe(value, notes)
        spec, found = validate.examine(value)
        whole = spec is not None
        if spec is None and isinstance(value, dict):
            # With these in place of missing or bad values, the problems of the rest are found too.
            spec, _ = validate.examine({**value, **_STAND_IN})
        if spec is not None:
            try:
                spec = _resolve(spec, real, found, notes, allow)
            except OSError as error:  # os.path.realpath, where a part of a path changes meanwhile
                raise InvalidBundle([f"cannot be read: {error.strerror}"], where=where) from error
            if whole:
                found += [text for text in validate.problems(spec) if text not in found]
        if found or spec is None or not whole:
            raise InvalidBundle(bounded(found), where=where)
        identities: dict[str, tuple[int, int]] = {}
        for one in (spec.root.path, *(mount.source for mount in spec.mounts if mount.is_bind)):
            with contextlib.suppress(OSError):
                status = os.stat(one)
                identities[one] = status.st_dev, status.st_ino
        return cls(path=folder, spec=spec, notes=tuple(notes), identities=identities)


def _read(folder: str) -> tuple[bytes, str]:
    """The bytes of a bundle's ``config.json``, by descriptors: no link is followed.

    The path of their folder comes with them, without links: by now, another folder may have its
    name, or a link to ``/``.
    """
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        with (
            closing(os.open(folder, flags | os.O_DIRECTORY)) as directory,
            # O_NONBLOCK: the open of a FIFO would wait for a writer.
            closing(os.open(CONFIG, flags | os.O_NONBLOCK, dir_fd=directory)) as fd,
        ):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise InvalidBundle([f"{CONFIG} is not a regular file"], where=folder)
            with open(fd, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1), os.readlink(f"/proc/self/fd/{directory}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidBundle([f"cannot be read: {reason}"], where=folder) from error


def _drop_unsafe(value: object, notes: list[str]) -> None:
    """Take out of the JSON what runsc must not get from a bundle, and what it ignores."""
    annotations = value.get("annotations") if isinstance(value, dict) else None
    if isinstance(annotations, dict):
        dropped = [name for name in annotations if validate.reserved(name)]
        for name in dropped:
            del annotations[name]
        listed = ", ".join(at("annotations", name) for name in dropped[:5])
        if dropped:
            more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
            notes.append(f"dropped {listed}{more}: they steer runsc itself")
    if ignored := validate.drop_ignored(value):
        notes.append(f"{', '.join(ignored)}: ignored by runsc, without effect")


def _resolve(
    spec: Spec,
    folder: str,
    found: list[str],
    notes: list[str],
    allow: Mapping[str, reach.Access] | None,
) -> Spec:
    """Return the specification to run, from one whose paths are relative to its folder."""
    longest = max(map(len, (spec.root.path, *(mount.source for mount in spec.mounts))))
    if longest >= vocabulary.PATH_MAX:
        found.append(f"has a path of {longest} characters")
        raise InvalidBundle(found, where=f"{folder}/{CONFIG}")
    process = spec.process
    if process.terminal:
        notes.append("process.terminal: set to false, for output goes to pipes")
        process = replace(process, terminal=False)
    if sets := process.capabilities:
        kept = tuple(cap for cap in sets.ambient if cap in sets.inheritable)
        if kept != sets.ambient:
            notes.append("process.capabilities.ambient: without what is not inheritable")
            process = replace(process, capabilities=replace(sets, ambient=kept))
    if allow is not None and process.oom_score_adj is not None:
        notes.append("process.oomScoreAdj: left out, for the OOM killer takes a sandbox first")
        process = replace(process, oom_score_adj=None)
    root = replace(spec.root, path=_root(spec.root.path, folder, found))
    seen = tuple(_mount(mount, folder, notes) for mount in spec.mounts)
    seen = _with_options_of_runsc(seen, notes)
    # As runc has it. The sentry of 20240729 dies of a device without a mode.
    devices = tuple(
        replace(device, file_mode=0o666) if device.file_mode is None else device
        for device in spec.linux.devices
    )
    linux = replace(spec.linux, devices=devices)
    made = replace(spec, process=process, root=root, mounts=seen, linux=linux)
    if allow is not None:
        # One more than are shown, so that it shows that there are more.
        found += itertools.islice(reach.problems(made, folder, allow), MAX_PROBLEMS + 1)
    if not found:
        found += root_paths.missing(root.path, seen)
    return made


def _root(path: str, folder: str, found: list[str]) -> str:
    real = os.path.realpath(os.path.join(folder, path))
    if real == folder or not within(real, folder):
        found.append(f"root.path: {shown(path)} is not inside the bundle")
    elif not os.path.isdir(real):
        found.append(f"root.path: {shown(path)} is not a folder")
    return real


def _mount(mount: Mount, folder: str, notes: list[str]) -> Mount:
    if not mount.is_bind:
        return mount
    if mount.source == "/sys" and normal(mount.destination) == "/sys":
        # runc and umoci write this mount for rootless use, where Linux refuses a new sysfs.
        notes.append("mounts: the host's /sys is replaced by the sandbox's own")
        options = tuple(option for option in mount.options if option not in {"bind", "rbind"})
        return dataclasses.replace(mount, type=MountType.SYSFS, source="sysfs", options=options)
    return replace(mount, source=os.path.realpath(os.path.join(folder, mount.source)))


def _with_options_of_runsc(seen: tuple[Mount, ...], notes: list[str]) -> tuple[Mount, ...]:
    """Return the mounts with options that hold under gVisor, and one note of all changes."""
    adopted = [vocabulary.adopted_options(mount.kind, mount.options) for mount in seen]
    changes = list(dict.fromkeys(change for _, changed in adopted for change in changed))
    if changes:
        more = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
        listed = ", ".join(map(shown, changes[:8]))
        notes.append(f"mounts: options that runsc would ignore: {listed}{more}")
    pairs = zip(seen, adopted, strict=True)
    return tuple(replace(mount, options=options) for mount, (options, _) in pairs)
