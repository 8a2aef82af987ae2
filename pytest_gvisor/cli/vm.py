"""``pytest-gvisor vm``: a command in a throw-away VM over the live file system."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence

from pytest_gvisor.base.errors import MachineFailed, UsageError
from pytest_gvisor.cli import parsers
from pytest_gvisor.images.streams import write_all
from pytest_gvisor.oci import mounts
from pytest_gvisor.vm import drive, machine

_DESCRIPTION = """\
Runs COMMAND as root in a virtual machine that sees this machine's files and whose emulated
processor has nested virtualisation: gVisor's kvm platform works in it on any x86-64 machine,
about 40 times slower than it would on a real processor. What COMMAND writes outside of
--share folders is gone afterwards.
"""


def parser() -> parsers.Parser:
    """The subcommand's options."""
    made = parsers.Parser(
        "vm",
        description=_DESCRIPTION,
        statuses={
            "N": "the exit status of COMMAND, or 128 + S if the signal S ended it",
            "124": "a deadline passed; the VM is gone",
        },
        examples=(
            "pytest-gvisor vm -- pytest --gvisor-strict --gvisor-platform kvm",
            "pytest-gvisor vm --share reports -- pytest --junitxml reports/junit.xml",
        ),
    )
    made.add_argument(
        "--timeout", type=parsers.seconds, default=900.0, metavar="SECONDS",
        help="deadline of the whole, boot included (default: 900)",
    )  # fmt: skip
    made.add_argument(
        "--share", action="append", default=[], metavar="DIR",
        help="a folder that COMMAND may write to, for reports; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--cpus", type=parsers.count, default=min(4, os.cpu_count() or 1), metavar="N",
        help="processors of the VM (default: as here, at most 4)",
    )  # fmt: skip
    made.add_argument(
        "--memory", type=parsers.count, default=4096, metavar="MIB",
        help="memory of the VM in MiB (default: 4096)",
    )  # fmt: skip
    made.add_argument(
        "--kernel", default="", metavar="FILE",
        help="the kernel to boot (default: the newest in /boot that has kvm-amd). Its modules are "
        "in /lib/modules, or in ROOT/lib/modules for a kernel ROOT/boot/vmlinuz-…",
    )  # fmt: skip
    made.add_argument(
        "--qemu", default="", metavar="FILE",
        help="the qemu-system-x86_64 to run (default: the one in /usr/local/bin, /usr/bin…)",
    )  # fmt: skip
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND…")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run COMMAND; return its exit status. Raises `MachineFailed`, `MachineTimeout`,
    `UsageError`.
    """
    options = parser()
    given = options.parse_args(arguments)
    found = [mounts.examine(path, writable=True, follow=False) for path in given.share]
    for real, impossible, risk in found:
        # One that was missing may be another user's link by now.
        if why := impossible or risk:
            missing = impossible and not os.path.lexists(real)
            step = "Make it first." if missing else "Share a folder below it, or another one."
            raise UsageError(f"{real} cannot be shared: it {why}", next_step=step)
    shares = tuple(machine.share_of(real) for real, _impossible, _risk in found)
    chosen = machine.Machine(
        command=parsers.command(options, given.command),
        shares=shares,
        cwd=machine.folder_of(_here(), shares),
        env=dict(os.environ),
        cpus=given.cpus,
        memory=given.memory,
        qemu=given.qemu and os.path.abspath(given.qemu),
        kernel=given.kernel and os.path.abspath(given.kernel),
    )
    sinks = (functools.partial(write_all, stream.fileno()) for stream in (sys.stdout, sys.stderr))
    return drive.run(chosen, given.timeout, *sinks)


def _here() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise MachineFailed("the current folder has been removed") from None
