"""The skeleton of the host's system folders: the default root of a sandbox.

A small folder of links, empty folders and the few files of /etc that programs need to start. What
is large (/usr, the running Python) is bound into it read-only. Nothing of /etc is taken that not
every user may read. Nor is anything that names this machine, its users or its secrets.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pytest_gvisor.oci import accounts
from pytest_gvisor.programs.paths import within

ROOT: Final = "rootfs"
"""The name of the skeleton in the folder of a run."""

_MAX_FILE: Final = 4 << 20

_FOLDERS: Final = (
    "boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "run/lock", "srv",
    "sys", "tmp", "var", "var/cache", "var/lib", "var/log", "var/tmp",
)  # fmt: skip

_OPEN: Final = frozenset({"tmp", "var/tmp", "run/lock"})

_LINKS: Final = (("etc/mtab", "/proc/mounts"), ("var/run", "/run"), ("var/lock", "/run/lock"))

_GENERATED: Final = {
    "etc/hosts": "127.0.0.1\tlocalhost gvisor\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/hostname": "gvisor\n",
    "etc/host.conf": "multi on\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
    "networks: files\nprotocols: files\nservices: files\n",
    "etc/resolv.conf": "",
}

# Of the host's /etc: what programs read when they start. A name that ends in * is a prefix.
_COPIED: Final = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "os-release",
    "mime.types", "protocols", "services", "locale.alias", "locale.conf", "debian_version",
    "redhat-release", "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf",
    "crypto-policies",
    "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
    "alternatives", "python3*",
)  # fmt: skip

_LAYER: Final = re.compile(r"(/.+)/lib/python3\.\d+t?/site-packages")

_BUNDLE: Final = "ca-certificates.crt"

_SHARED = frozenset({"/", "/home", "/tmp", "/var", "/etc", "/run", "/var/tmp"})
_NOT_SHOWN = ("/proc", "/sys", "/dev")

# Names under these that hold keys, or the name of this machine.
_NEVER: Final = ("private", "ssl-cert-snakeoil", "shadow", "gshadow")
_OTHERS: Final = stat.S_IROTH | stat.S_IXOTH


@dataclass(frozen=True, kw_only=True)
class System:
    """The host's folders that are bound into a skeleton."""

    binds: tuple[tuple[str, str], ...]
    """Destination and source, parents first."""
    links: tuple[tuple[str, str], ...]
    """Top-level links, such as ``bin`` to ``usr/bin``."""
    path: tuple[str, ...]
    """Folders of the running Python's programs, outside of the fixed PATH."""
    notes: tuple[str, ...]
    """What was left out, and why."""


def system() -> System:
    """Find this machine's system folders for this interpreter."""
    binds, links = {"/usr": "/usr"}, {}
    for name in sorted(os.listdir("/")):
        if name not in {"bin", "sbin"} and not name.startswith("lib"):
            continue
        real = os.path.realpath(f"/{name}")
        if os.path.islink(f"/{name}") and within(real, "/usr"):
            links[name] = real.lstrip("/")
        elif os.path.isdir(real):
            binds[f"/{name}"] = real
    path, notes = [], []
    for prefix in prefixes():
        if any(within(prefix, known) for known in binds):
            continue
        if reason := _too_wide(prefix):
            notes.append(f"the Python at {prefix} is not in the sandbox: {reason}")
            continue
        binds[_store(prefix) or prefix] = os.path.realpath(_store(prefix) or prefix)
    for prefix in prefixes():
        folder = f"{prefix}/bin"
        outside = not within(prefix, "/usr") and any(within(prefix, known) for known in binds)
        if outside and os.path.isdir(folder) and folder not in path:
            path.append(folder)
    return System(
        binds=tuple(sorted(binds.items(), key=lambda entry: entry[0].count("/"))),
        links=tuple(links.items()),
        path=tuple(path),
        notes=tuple(notes),
    )


def prefixes() -> list[str]:
    """Return the prefixes of the running Python and of its layers, the innermost first.

    A virtual environment's program is a link, in one step or more, to another prefix's. Each step
    has to be there, under the name that the link before it uses.
    """
    found = [sys.prefix, *_layers()]
    step = sys.executable
    for _ in range(40):
        folder = os.path.dirname(step)
        if os.path.basename(folder) == "bin":
            found.append(os.path.dirname(folder))
        try:
            step = os.path.normpath(os.path.join(folder, os.readlink(step)))
        except OSError:
            break
    found.append(sys.base_prefix)
    # A program that was started by a relative path has ".." in its own: no path of a mount may.
    both = [way for p in found for way in (os.path.normpath(p), os.path.realpath(p))]
    return [way for way in dict.fromkeys(both) if os.path.isabs(way) and os.path.isdir(way)]


def _layers() -> list[str]:
    """Return virtual environments whose packages a .pth file of the running one has added.

    ``uv run --with`` makes an environment for one command on top of the project's own.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found = (_LAYER.fullmatch(os.path.normpath(path)) for path in sys.path if path not in given)
    folders = dict.fromkeys(match[1] for match in found if match)
    return [folder for folder in folders if os.path.isfile(f"{folder}/pyvenv.cfg")]


def _store(prefix: str) -> str:
    """Return the package store of a prefix: its libraries are beside the prefix, not in it."""
    return next((store for store in ("/nix/store", "/gnu/store") if within(prefix, store)), "")


def homes() -> list[str]:
    """Return home folders: the caller's, by both of its names, and root's."""
    found = {"/root", "/home", os.path.realpath(os.environ.get("HOME", "/root")), home()}
    return sorted(found - {"/"})


def is_wide(path: str) -> bool:
    """Whether a folder is nobody's own: it holds home folders, or what all programs share."""
    real = os.path.realpath(path)
    return real in _SHARED or within(home(), real) or any(within(real, p) for p in _NOT_SHOWN)


def home() -> str:
    """Return this user's home folder by the system: $HOME may be a test's own."""
    try:
        return os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return os.path.realpath(os.environ.get("HOME", "/root"))


def _too_wide(prefix: str) -> str:
    real = os.path.realpath(prefix)
    if real == "/" or any(within(home, real) for home in homes()):
        return "its folder is or holds a home folder"
    if os.path.dirname(real) == "/home":
        return "its folder is a home folder"
    return ""


def make(folder: str, system: System, account: accounts.Account | None = None) -> None:
    """Make the skeleton in this folder, which must not exist. The account has entries in /etc."""
    _folder(folder)
    for name in _FOLDERS:
        point(folder, name, is_folder=True)
    for name in _OPEN:
        os.chmod(f"{folder}/{name}", 0o1777)
    for name, target in (*system.links, *_LINKS):
        os.symlink(target, f"{folder}/{name}")
    for destination, source in system.binds:
        point(folder, destination, is_folder=os.path.isdir(source))
    for path, text in {**_GENERATED, **accounts.files(account)}.items():
        write(f"{folder}/{path}", text.encode("utf-8", "surrogateescape"))
    for name in _wanted():
        _copy(f"/etc/{name}", folder)


def point(root: str, path: str, *, is_folder: bool) -> None:
    """Make a mount point, and the folders above it, in a root of ours."""
    parts = path.strip("/").split("/")
    for depth in range(1, len(parts) + (1 if is_folder else 0)):
        with contextlib.suppress(FileExistsError):
            _folder(f"{root}/{'/'.join(parts[:depth])}")
    if not is_folder and not os.path.lexists(f"{root}/{'/'.join(parts)}"):
        write(f"{root}/{'/'.join(parts)}", b"")


def _folder(path: str) -> None:
    os.mkdir(path, 0o700)
    # The umask of a test is not the sandbox's.
    os.chmod(path, 0o755)


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a new file with this content and mode, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)


def _wanted() -> Iterator[str]:
    names = os.listdir("/etc")
    for name in _COPIED:
        if name.endswith("*"):
            yield from (entry for entry in names if entry.startswith(name[:-1]))
        else:
            yield name


def _copy(source: str, root: str) -> None:
    """Copy a link, a file that everybody may read, or a folder of these; leave out the rest."""
    if _is_kept_back(source):
        return
    with contextlib.suppress(FileNotFoundError, PermissionError):
        status = os.lstat(source)
        if stat.S_ISLNK(status.st_mode):
            _copy_link(source, root)
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & _OTHERS == _OTHERS:
            point(root, source, is_folder=True)
            names = sorted(os.listdir(source))
            # What the links beside the bundle lead to is in the bundle; there may be hundreds.
            bundled = source == "/etc/ssl/certs" and _BUNDLE in names
            for entry in names:
                if not (bundled and os.path.islink(f"{source}/{entry}")):
                    _copy(f"{source}/{entry}", root)
        elif stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
            _copy_file(source, root, source)


def _is_kept_back(path: str) -> bool:
    """Whether a path has the name of a key or password file, whoever may read it."""
    name = os.path.basename(path)
    return name.startswith(_NEVER) or name.endswith(".key")


def _copy_link(source: str, root: str) -> None:
    """Copy a link that leads into /usr or stays in /etc; of another link, its target."""
    text = os.readlink(source)
    if source.startswith("/etc/alternatives/") and "/man/" in text:
        return
    direct = os.path.normpath(os.path.join(os.path.dirname(source), text))
    if not within(direct, "/usr"):
        direct = os.path.realpath(source)
    if within(direct, "/usr") or within(direct, "/etc"):
        point(root, os.path.dirname(source), is_folder=True)
        os.symlink(text, root + source)
    elif _is_kept_back(direct):
        return
    elif os.path.isfile(direct) and os.stat(direct).st_mode & stat.S_IROTH:
        _copy_file(direct, root, source)


def _copy_file(source: str, root: str, path: str) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= _MAX_FILE:
            point(root, os.path.dirname(path), is_folder=True)
            write(root + path, file.readall())
