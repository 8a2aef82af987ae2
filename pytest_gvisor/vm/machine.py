"""One throw-away VM: the folders that it sees, vng's command line, the guest's script.

The VM sees this machine's file system read-only. In /etc, /home, /opt, /srv, /tmp, /usr and /var,
writes stay in the VM's memory. The processor is emulated in software, and has nested SVM, so that
KVM works in the VM on any machine.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.vm.parts import Parts

# The model matters: with "max" runsc dies on an XSAVE that the emulator gets wrong.
_QEMU = "-cpu EPYC -accel tcg,thread=multi,tb-size=1024"

GUEST_FOLDER = "/var/pytest-gvisor-vm"
"""Where the VM has the folder of this run: not below the base of its own sessions."""

# virtme-ng's init mounts a tmpfs on each; a shared folder comes on top of the first ones, and below
# the last one.
_OWN = ("/run", "/var/cache", "/var/log", "/var/tmp")
_SHM = "/dev/shm"

# Writes to these folders go into the VM's memory.
_WRITABLE = ("/etc/", "/home/", "/opt/", "/srv/", "/tmp/", "/usr/", "/var/")

# Variables that name folders which the VM does not have: those in /run, and this process's own.
_NOT_PASSED_ON = frozenset({"XDG_RUNTIME_DIR", "TMPDIR", "_", "SHLVL", "PWD", "OLDPWD"})


@dataclass(frozen=True, kw_only=True)
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

    qemu: str = ""
    """The QEMU to take, and the kernel to boot; ``""`` for those that `parts.find` finds."""

    kernel: str = ""


def share_of(path: str) -> str:
    """Return a folder to share, canonical. Raises `UsageError` for an impossible one."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        raise UsageError(f"{path} is not a folder", next_step="Make it first.")
    if within(real, _SHM):
        raise UsageError(f"{real} cannot be shared: the VM has a {_SHM} of its own")
    # The path goes through QEMU's options, a kernel command line, and a shell script.
    if not re.fullmatch(r"/[\w./+@%-]*", real, re.ASCII):
        raise UsageError(f"{real} cannot be shared: use a path of letters, digits and ._+@%-")
    return real


def folder_of(path: str, shares: Sequence[str]) -> str:
    """Return the canonical folder in which the command starts, unchanged.

    Raises `UsageError` for one that the VM does not have. That is one below a folder of its own,
    and in none of ``shares``.
    """
    for own in (*_OWN, _SHM):
        if below(path, own) and not any(within(path, share) for share in shares):
            step = "Start it in a folder that is not below that."
            if own != _SHM:
                step = (
                    f"Start it elsewhere, or make the folder visible: --share {shlex.quote(path)}"
                )
            raise UsageError(f"the VM has a {own} of its own, without {path}", next_step=step)
    return path


def vng(machine: Machine, parts: Parts, folder: str) -> list[str]:
    """Return the command line that boots the VM and runs the script `guest` in ``folder``.

    ``--verbose`` gives the kernel a console, for its errors alone: the emulator is slow at more.
    """
    # fmt: off
    argv = [
        parts.vng, "--verbose", "--disable-kvm", "--disable-microvm", "--qemu", parts.qemu,
        "--run", parts.kernel,
        f"--qemu-opts={_QEMU}", "--append", "mitigations=off", "--append", "loglevel=4",
        "--cpus", str(machine.cpus), "--memory", f"{machine.memory}M", "--user", "root",
        "--cwd", "/", f"--rwdir={GUEST_FOLDER}={folder}",
    ]
    # fmt: on
    # vng tries virtiofsd first, and waits before it takes 9p in its place. If this machine has no
    # virtiofsd, that wait is in vain.
    if not parts.virtiofsd:
        argv.append("--force-9p")
    if any(below(parts.modules, own) for own in _OWN):
        argv.append(f"--rodir={parts.modules}")
    argv += [f"--rwdir={share}" for share in machine.shares]
    return [*argv, "--exec", f"sh {GUEST_FOLDER}/script"]


def guest(machine: Machine) -> bytes:
    """Return the script that runs in the VM as root; arguments may be any bytes.

    It leaves ``stdout``, ``stderr`` and, last of all, ``status`` in the run's folder.
    """
    folder = GUEST_FOLDER
    kept = {**machine.env, "PYTHONDONTWRITEBYTECODE": "1"}
    home = os.path.join(machine.env.get("HOME", ""), "")
    # root's own home folder, /root, is read-only there, and images are kept in a cache below it.
    if not home.startswith(_WRITABLE):
        kept.setdefault("XDG_CACHE_HOME", "/tmp/.cache")
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
