"""The skeleton of the host's system folders, the default root of a sandbox, and its accounts.

A small folder of links, empty folders and the few files of /etc that programs need to start. Large
folders (/usr, the running Python) are bound into it read-only. A file of /etc is taken only if
every user may read it, and if it names neither this machine nor its users or secrets.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import pwd
import stat
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from pytest_gvisor.base.errors import InvalidBundle
from pytest_gvisor.base.escape import shown
from pytest_gvisor.programs.paths import within

_MAX_FILE: Final = 4 << 20
_MAX_DEPTH: Final = 128
"""Folders in folders: Python's rmtree can remove as many, and holds a descriptor of each."""

_FOLDERS: Final = (
    "boot", "dev", "etc", "etc/pam.d", "etc/skel", "home", "media", "mnt", "opt", "proc", "root",
    "run", "run/lock", "srv", "sys", "tmp", "var", "var/cache", "var/lib", "var/log", "var/tmp",
)  # fmt: skip

_OPEN: Final = frozenset({"tmp", "var/tmp", "run/lock"})

_LINKS: Final = (("etc/mtab", "/proc/mounts"), ("var/run", "/run"), ("var/lock", "/run/lock"))

_GENERATED: Final = {
    "etc/hosts": "127.0.0.1\tlocalhost gvisor\n",
    "etc/hostname": "gvisor\n",
    "etc/host.conf": "multi on\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
    "networks: files\nprotocols: files\nservices: files\n",
    "etc/resolv.conf": "",
    # adduser(8) and su(1) by root alone: PAM refuses all that no file allows.
    "etc/pam.d/other": "auth sufficient pam_rootok.so\nauth required pam_deny.so\n"
    "account required pam_permit.so\npassword required pam_deny.so\n"
    "session required pam_permit.so\n",
}

IPV6_LOOPBACK: Final = "localhost", "ip6-localhost", "ip6-loopback"
"""The names of ``::1`` in /etc/hosts."""

# Files of the host's /etc that programs read when they start.
_COPIED: Final = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "os-release",
    "mime.types", "protocols", "services", "locale.alias", "locale.conf", "debian_version",
    "redhat-release", "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "ca-certificates.conf",
    "crypto-policies",
    "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf", "pki/ca-trust/extracted",
    "alternatives", "python3*",
)  # fmt: skip

_BUNDLE: Final = "ca-certificates.crt"

_SHARED = frozenset(
    {"/", "/home", "/tmp", "/var", "/etc", "/run", "/usr", "/usr/local", "/var/tmp"}
)
KERNEL: Final = ("/proc", "/sys", "/dev")

# Names under these that hold keys, or the name of this machine.
_NEVER: Final = ("private", "ssl-cert-snakeoil", "shadow", "gshadow")
_OTHERS: Final = stat.S_IROTH | stat.S_IXOTH


def homes() -> list[str]:
    """Return home folders: the caller's, by both of its names, and root's."""
    found = {"/root", "/home", os.path.realpath(os.environ.get("HOME") or "/root"), home()}
    return sorted(found - {"/"})


def is_wide(path: str) -> bool:
    """Whether a folder holds home folders, or is one that all users and programs share."""
    real = os.path.realpath(path)
    return real in _SHARED or within(home(), real) or any(within(real, p) for p in KERNEL)


def home() -> str:
    """Return this user's home folder by the system: $HOME may be a test's own."""
    with contextlib.suppress(KeyError):
        return os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    return os.path.realpath(os.environ.get("HOME") or "/root")


def make(
    folder: str,
    links: Sequence[tuple[str, str]],
    account: Account | None = None,
    *,
    ipv6_names: Sequence[str] = IPV6_LOOPBACK,
) -> None:
    """Make the skeleton in this folder, which must not exist.

    It has these links, and no mount points yet. The account has entries in /etc, and so has ``::1``
    with these names.
    """
    _folder(folder)
    for name in _FOLDERS:
        point(folder, name, is_folder=True)
    for name in _OPEN:
        os.chmod(f"{folder}/{name}", 0o1777)
    for name, target in (*links, *_LINKS):
        point(folder, os.path.dirname(name), is_folder=True)
        os.symlink(target, f"{folder}/{name}")
    texts = {**_GENERATED, **account_files(account)}
    if ipv6_names:
        texts["etc/hosts"] += f"::1\t{' '.join(ipv6_names)}\n"
    for path, text in texts.items():
        write(f"{folder}/{path}", text.encode("utf-8", "surrogateescape"))
    for name in _COPIED:
        for path in glob.glob(f"/etc/{name}"):
            point(folder, os.path.dirname(path), is_folder=True)
            _copy(path, folder)


def ipv6_names_here(hosts: str = "/etc/hosts") -> list[str]:
    """Return the names of ``::1`` that the host has of those in /etc/hosts of a sandbox."""
    names: set[str] = set()
    with contextlib.suppress(OSError), open(hosts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            address, *named = [*line.partition("#")[0].split(), ""]
            names.update(named if address == "::1" else ())
    return [name for name in IPV6_LOOPBACK if name in names]


def holds(path: str) -> bool:
    """Whether a skeleton has a file of this path, or may have one."""
    copied = (f"/etc/{name}{end}" for name in _COPIED for end in ("", "/*"))
    own = {*_GENERATED, *account_files(None)}
    return path[1:] in own or any(fnmatch.fnmatchcase(path, name) for name in copied)


def point(root: str, path: str, *, is_folder: bool) -> None:
    """Make a mount point, and the folders above it, in a root that is being made.

    Raises `OSError`, and `InvalidBundle` for one that is too deep.
    """
    parts = path.strip("/").split("/")
    if len(parts) > _MAX_DEPTH:
        problem = f"{shown(path)} is more than {_MAX_DEPTH} folders deep"
        raise InvalidBundle([problem], where="root file system")
    for depth in range(1, len(parts) + (1 if is_folder else 0)):
        with contextlib.suppress(FileExistsError):
            _folder(f"{root}/{'/'.join(parts[:depth])}")
    if not is_folder and not os.path.lexists(f"{root}/{'/'.join(parts)}"):
        write(f"{root}/{'/'.join(parts)}", b"")


def _folder(path: str) -> None:
    os.mkdir(path, 0o700)
    # mkdir applies the umask, which a test may have changed.
    os.chmod(path, 0o755)


def write(path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a new file with this content and mode, whatever the umask."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, mode)


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
            # There may be hundreds of links beside the bundle, to certificates that the bundle has.
            bundled = source == "/etc/ssl/certs" and _BUNDLE in names
            for entry in names:
                if not (bundled and os.path.islink(f"{source}/{entry}")):
                    _copy(f"{source}/{entry}", root)
        elif stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
            _copy_file(source, root, source)


def _is_kept_back(path: str) -> bool:
    """Whether a path has the name of a key or password file, even if every user may read it."""
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
    is_public = os.path.isfile(direct) and os.stat(direct).st_mode & stat.S_IROTH
    if within(direct, "/usr") or within(direct, "/etc"):
        os.symlink(text, root + source)
    elif is_public and not _is_kept_back(direct):
        _copy_file(direct, root, source)


def _copy_file(source: str, root: str, path: str) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= _MAX_FILE:
            write(root + path, file.readall())


_ROOT_LINE: Final = "root:x:0:0:root:/root:/bin/sh\n"
_NOBODY: Final = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUPS: Final = {0: "root", 5: "tty", 65534: "nogroup"}
_NO_TEXT: Final = frozenset(":\n\0")
NAME: Final = "user"
"""The name of a user, and of a group, that has no other."""


class Account(NamedTuple):
    """A user other than root, with an entry of its own."""

    uid: int
    gid: int
    name: str = NAME
    home: str = "/tmp"

    groups: tuple[tuple[int, str], ...] = ()
    """The names of groups: of its own, and of those that it is in besides."""


def account_of(uid: int, gid: int) -> Account | None:
    """Return the account of a workload's user; None for those that each root file system has."""
    if uid in {0, 65534} and gid in _GROUPS:
        return None
    return Account(uid=uid, gid=gid, groups=((gid, NAME),))


def account_files(account: Account | None) -> dict[str, str]:
    """Return the texts of ``etc/passwd`` and ``etc/group``."""
    groups = dict(_GROUPS)
    passwd = [_ROOT_LINE, _NOBODY]
    if account is not None:
        if account.uid:
            if account.uid == 65534:
                del passwd[1]
            taken = [line.partition(":")[0] for line in passwd]
            name = account.name if _is_free(account.name, taken) else NAME
            passwd.append(f"{name}:x:{account.uid}:{account.gid}::{account.home}:/bin/sh\n")
        for gid, name in account.groups:
            groups.setdefault(gid, name if _is_free(name, groups.values()) else f"group{gid}")
    group = [f"{name}:x:{gid}:\n" for gid, name in groups.items()]
    return {"etc/passwd": "".join(passwd), "etc/group": "".join(group)}


def _is_free(name: str, taken: Collection[str]) -> bool:
    return bool(name) and name not in taken and _NO_TEXT.isdisjoint(name)
