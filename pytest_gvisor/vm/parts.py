"""The parts of a VM: programs, a kernel, its modules; and the parts that this machine lacks.

They are looked for in fixed folders. Two more are the folder of the running Python, where pip puts
virtme-ng, and the tree of a named kernel.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import NamedTuple

from pytest_gvisor.base.errors import MachineFailed
from pytest_gvisor.base.escape import escape
from pytest_gvisor.programs.paths import SYSTEM_PATH
from pytest_gvisor.programs.proc import text_in

OLDEST_QEMU = (8, 0)
"""gVisor's kvm fails or hangs on the emulated processor of 7.2; nothing between is known."""

TESTED_QEMU = "10"
PACKAGES = ("virtme-ng", "qemu-system-x86", "linux-image-amd64", "virtiofsd", "kmod",
            "busybox-static", "file")  # fmt: skip
_FROM_BACKPORTS = ("qemu-system-x86", "linux-image-amd64", "kmod", "busybox-static", "file")
_UBUNTU_PACKAGES = ("virtme-ng", "qemu-system-x86", "linux-image-generic", *PACKAGES[4:])

_QEMU = "qemu-system-x86_64"
_BOOT = "/boot"
_MODULES = "/lib/modules"
_PROGRAMS = ("modprobe", "busybox", "file")

_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
_OS_RELEASE = "/etc/os-release"
_DEADLINE = 20.0


class Command(NamedTuple):
    """A command that mends a machine: no shell reads it."""

    argv: tuple[str, ...]
    as_root: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one VM."""

    vng: str
    path: str
    """The PATH that vng finds its own programs on."""

    qemu: str
    kernel: str
    modules: str = ""
    """The tree of the kernel's modules, where it does not lie in /lib/modules."""

    virtiofsd: bool = False
    """Whether the VM's files can come through virtiofsd; through QEMU's 9p otherwise."""


def find(*, qemu: str = "", kernel: str = "") -> Parts:
    """Find the parts of a VM. ``qemu`` and ``kernel`` are paths, or ``""`` for a search.

    Raises `MachineFailed`, which names all that is missing, and how to install it.
    """
    lacking = missing(qemu=qemu, kernel=kernel)
    vng = _vng()
    program = qemu or shutil.which(_QEMU, path=SYSTEM_PATH)
    if lacking or vng is None or program is None:
        raise MachineFailed(f"no VM can be made here: {'; '.join(lacking)}", next_step=remedy())
    chosen = kernel or kernels()[0]
    folder = os.path.dirname(vng)
    return Parts(
        vng=vng,
        path=SYSTEM_PATH if folder in SYSTEM_PATH.split(":") else f"{folder}:{SYSTEM_PATH}",
        qemu=program,
        kernel=chosen,
        modules=_tree_of(chosen),
        virtiofsd=bool(shutil.which("virtiofsd", path=SYSTEM_PATH))
        or any(map(os.path.isfile, _VIRTIOFSD)),
    )


def missing(*, qemu: str = "", kernel: str = "") -> list[str]:
    """Describe the parts that this machine lacks; empty if there are none."""
    if platform.machine() != "x86_64":
        return [
            f"the emulated nested KVM needs an x86_64 machine, and this is {platform.machine()}"
        ]
    lacking = [] if _vng() else ["no vng (the package virtme-ng)"]
    lacking += _without_qemu(qemu)
    lacking += [f"no {name}" for name in _PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]
    return lacking + _without_kernel(kernel)


def remedy() -> str:
    """Return the commands that install the parts, by this machine's distribution."""
    if platform.machine() != "x86_64":
        return "Run it on an x86_64 machine: no package brings the VM to another processor."
    words, is_old = _packages()
    install = f"apt-get install --no-install-recommends {' '.join(words)}"
    if not is_old:
        return f"As root: apt-get update && {install}"
    return (
        f"On Debian 12, with bookworm-backports in apt's sources, as root: {install}; then, in the "
        "environment of pytest-gvisor: pip install virtme-ng"
    )


def commands() -> tuple[Command, ...]:
    """Return the commands of `remedy`, where apt is."""
    if platform.machine() != "x86_64" or not shutil.which("apt-get", path=SYSTEM_PATH):
        return ()
    words, is_old = _packages()
    install = ("apt-get", "install", "--yes", "--no-install-recommends", *words)
    found = Command(("apt-get", "update"), as_root=True), Command(install, as_root=True)
    pip = Command((sys.executable, "-m", "pip", "install", "virtme-ng"))
    return (*found, pip) if is_old else found


def _packages() -> tuple[tuple[str, ...], bool]:
    """Return apt-get's arguments for the parts, and whether pip has to bring virtme-ng."""
    words = dict(line.rstrip().partition("=")[::2] for line in text_in(_OS_RELEASE).splitlines())
    name, version = (words.get(key, "").strip('"') for key in ("ID", "VERSION_ID"))
    if (name, version) == ("debian", "12"):
        return ("-t", "bookworm-backports", *_FROM_BACKPORTS), True
    return _UBUNTU_PACKAGES if name == "ubuntu" else PACKAGES, False


def _vng() -> str | None:
    """Return vng's path: beside the running Python, which is trusted, or in a fixed folder."""
    return shutil.which("vng", path=f"{os.path.join(sys.prefix, 'bin')}:{SYSTEM_PATH}")


def _without_qemu(given: str) -> list[str]:
    program = given or shutil.which(_QEMU, path=SYSTEM_PATH)
    if program is None:
        return [f"no {_QEMU}"]
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True,
            timeout=_DEADLINE, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{program} cannot be started: {error}"]
    said = re.search(r"^QEMU emulator version (\d+)\.(\d+)", done.stdout)
    if said is None:
        line = escape((done.stderr.strip() or done.stdout.strip()).partition("\n")[0][:200])
        return [f"{program} does not tell QEMU's version: {line or 'it wrote nothing'}"]
    version = (int(said[1]), int(said[2]))
    if version < OLDEST_QEMU:
        number = ".".join(map(str, version))
        fact = f"QEMU {number} is too old for gVisor's kvm: {TESTED_QEMU} or later is tested"
        return [f"{fact} ({program})"]
    return []


def _without_kernel(given: str) -> list[str]:
    if given:
        good = os.path.isfile(given) and os.access(given, os.R_OK)
        return [] if good else [f"{given} is no kernel that can be read"]
    try:
        found = kernels()
    except OSError as error:
        return [f"{error.filename} cannot be read: {error.strerror}"]
    what = "that can be read, with its modules and kvm-amd among them"
    return [] if found else [f"no kernel in {_BOOT} {what}"]


def kernels(boot: str | None = None, modules: str = _MODULES) -> list[str]:
    """Return the usable kernels, the newest first: readable, with the module kvm-amd.

    ``boot`` is the folder where they are, /boot unless given. Raises OSError where that, or the
    modules of one, cannot be read.
    """
    boot = _BOOT if boot is None else boot
    found = []
    for name in os.listdir(boot) if os.path.isdir(boot) else ():
        release = name.removeprefix("vmlinuz-")
        path = os.path.join(boot, name)
        folder = os.path.join(modules, release, "kernel/arch/x86/kvm")
        if release == name or not os.access(path, os.R_OK) or not os.path.isdir(folder):
            continue
        if any(module.startswith("kvm-amd.ko") for module in os.listdir(folder)):
            found.append(path)
    return sorted(found, key=_version, reverse=True)


def _version(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", os.path.basename(path))]


def _tree_of(kernel: str) -> str:
    """Return the modules of a kernel ``ROOT/boot/vmlinuz-RELEASE`` below ROOT, unless that is
    ``/``.
    """
    folder, name = os.path.split(os.path.realpath(kernel))
    release = name.removeprefix("vmlinuz-")
    root = os.path.dirname(folder)
    if os.path.basename(folder) != "boot" or root == "/":
        return ""
    for modules in ("lib/modules", "usr/lib/modules"):
        tree = os.path.join(root, modules, release)
        if os.path.isdir(tree):
            return tree
    return ""
