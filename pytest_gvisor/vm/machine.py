"""What a throw-away VM is made of: programs, kernel, vng's command line, the guest's script.

The VM sees this machine's file system: read-only, apart from /etc, /home, /opt, /srv, /tmp, /usr
and /var, where what is written stays in the VM's memory. The processor is emulated in software, and
has nested SVM, so that KVM works in the VM on any machine.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence

from pytest_gvisor.errors import MachineFailed, UsageError

PACKAGES = ("virtme-ng", "qemu-system-x86", "linux-image-amd64", "virtiofsd", "kmod",
            "busybox-static")  # fmt: skip
INSTALL = f"As root: apt-get update && apt-get install --no-install-recommends {' '.join(PACKAGES)}"
_BOOT = "/boot"
_PROGRAMS = ("vng", "qemu-system-x86_64", "modprobe", "busybox")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")

# The model matters: with "max" runsc dies on an XSAVE that the emulator gets wrong.
_QEMU = "-cpu EPYC -accel tcg,thread=multi,tb-size=1024"

GUEST_FOLDER = "/var/pytest-gvisor-vm"
"""Where the VM has the folder of this run: not below the base of its own sessions."""

# virtme-ng's init mounts a tmpfs on each; a shared folder comes on top of the first ones, and below
# the last one.
_OWN = ("/run", "/var/cache", "/var/log", "/var/tmp")
_SHM = "/dev/shm"

# They name what is not there in the VM: folders of this machine's /run, and this process's own.
_NOT_PASSED_ON = frozenset({"XDG_RUNTIME_DIR", "TMPDIR", "_", "SHLVL", "PWD", "OLDPWD"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One VM and the command that it runs."""

    command: tuple[str, ...]
    shares: tuple[str, ...] = ()
    """Folders of this machine that the VM may write to, at the same place in the VM."""

    cwd: str = "/"
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cpus: int = 2
    memory: int = 4096
    """In MiB."""

    kernel: str = ""


def missing(kernel: str = "") -> list[str]:
    """What this machine lacks for a VM, in words; empty where nothing does.

    ``kernel`` is the path of the one to boot, ``""`` for the newest of `kernels`.
    """
    if platform.machine() != "x86_64":
        return [
            f"the emulated nested KVM needs an x86_64 machine, and this is {platform.machine()}"
        ]
    lacking = [f"no {name}" for name in _PROGRAMS if shutil.which(name, path=PATH) is None]
    if shutil.which("virtiofsd", path=PATH) is None and not any(map(os.path.isfile, _VIRTIOFSD)):
        lacking.append("no virtiofsd")
    return lacking + _without_kernel(kernel)


def _without_kernel(kernel: str) -> list[str]:
    if kernel:
        good = os.path.isfile(kernel) and os.access(kernel, os.R_OK)
        return [] if good else [f"{kernel} is no kernel that can be read"]
    try:
        found = kernels()
    except OSError as error:
        return [f"{error.filename} cannot be read: {error.strerror}"]
    what = "that can be read, with its modules and kvm-amd among them"
    return [] if found else [f"no kernel in {_BOOT} {what}"]


def kernels(boot: str | None = None, modules: str = "/lib/modules") -> list[str]:
    """The kernels that can be used, the newest first: readable, with the module kvm-amd.

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


def share_of(path: str) -> str:
    """A folder to share, canonical. Raises `UsageError` for one that cannot be."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise UsageError(f"{path} is not a folder", next_step="Make it first.")
    if real == _SHM or real.startswith(_SHM + "/"):
        raise UsageError(f"{real} cannot be shared: the VM has a {_SHM} of its own")
    # The path goes through QEMU's options, a kernel command line, and a shell script.
    if not re.fullmatch(r"/[\w./+@%-]*", real, re.ASCII):
        raise UsageError(f"{real} cannot be shared: use a path of letters, digits and ._+@%-")
    return real


def folder_of(path: str, shares: Sequence[str]) -> str:
    """The canonical folder that the command starts in, as it is.

    Raises `UsageError` for one that the VM does not have: below a folder of its own, and in none
    of ``shares``.
    """
    for own in (*_OWN, _SHM):
        below = path.startswith(own + "/")
        if below and not any(path == share or path.startswith(share + "/") for share in shares):
            step = "Start it in a folder that is not below that."
            if own != _SHM:
                step = (
                    f"Start it elsewhere, or make the folder visible: --share {shlex.quote(path)}"
                )
            raise UsageError(f"the VM has a {own} of its own, without {path}", next_step=step)
    return path


def vng(machine: Machine, folder: str) -> list[str]:
    """The command line that boots the VM and runs the script `guest` in ``folder``.

    Raises `MachineFailed` where something that it needs is missing.
    """
    lacking = missing(machine.kernel)
    if lacking:
        raise MachineFailed(f"no VM can be made here: {'; '.join(lacking)}", next_step=INSTALL)
    # fmt: off
    argv = [
        "vng", "--disable-kvm", "--disable-microvm",
        "--run", machine.kernel or kernels()[0],
        f"--qemu-opts={_QEMU}", "--append", "mitigations=off",
        "--cpus", str(machine.cpus), "--memory", f"{machine.memory}M", "--user", "root",
        "--cwd", "/", f"--rwdir={GUEST_FOLDER}={folder}",
    ]
    # fmt: on
    argv += [f"--rwdir={share}" for share in machine.shares]
    return [*argv, "--exec", f"sh {GUEST_FOLDER}/script"]


def guest(machine: Machine) -> bytes:
    """The script that runs in the VM, as its root; words that are no text are in it as they came.

    It leaves ``stdout``, ``stderr`` and, last of all, ``status`` in the run's folder.
    """
    folder = GUEST_FOLDER
    kept = {**machine.env, "PYTHONDONTWRITEBYTECODE": "1"}
    words = [f"{name}={value}" for name, value in kept.items() if name not in _NOT_PASSED_ON]
    command = shlex.join(["env", "-i", *words, *machine.command])
    script = f"""\
exec </dev/null >{folder}/stdout 2>{folder}/stderr
ip link set lo up 2>/dev/null
modprobe kvm_amd && [ -c /dev/kvm ] || {{ echo no-kvm >{folder}/status; exit 1; }}
cd {shlex.quote(machine.cwd)} && {command}
echo $? >{folder}/status.new
mv {folder}/status.new {folder}/status
"""
    return os.fsencode(script)
