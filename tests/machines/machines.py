"""Machines for tests: sshd in namespaces of their own, each with a root filesystem of Debian's.

They share this machine's kernel, and nothing else: no file, process, network, name or machine id.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pytest_gvisor.programs.proc import children_of

CHECKOUT = Path(__file__).parents[2]
ROOTS = CHECKOUT / ".build/machines"
BOOT = Path(__file__).with_name("boot.sh")
USER = "tester"
"""The unprivileged user of each machine."""

CONFIG = """\
Host {name}
    HostName {address}
    User {user}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    StrictHostKeyChecking accept-new
    ConnectTimeout 5
    ServerAliveInterval 1
    ServerAliveCountMax 3
    LogLevel ERROR
"""
SSHD = """\
AuthorizedKeysFile /etc/ssh/keys
PermitRootLogin prohibit-password
ClientAliveInterval 1
ClientAliveCountMax 3
UseDNS no
"""


@dataclasses.dataclass(kw_only=True)
class Machine:
    """One machine, on or off."""

    name: str
    number: int
    suite: str
    above: Path
    """The folder in which its own is made."""

    runsc: Path
    user: str = "root"
    """Who logs in."""

    process: subprocess.Popen[bytes] = dataclasses.field(init=False)
    """Its power supply."""

    @property
    def folder(self) -> Path:
        """Its folder on this machine."""
        return self.above / self.name

    @property
    def disk(self) -> Path:
        """The folder with all that the machine has written."""
        return self.folder / "upper"

    @property
    def link(self) -> str:
        """The name of this machine's end of the wire."""
        return f"pg{os.getpid()}.{self.number}"

    def address(self, end: int) -> str:
        """The address of an end of the wire: 1 is this machine's."""
        return f"198.18.{self.number}.{end}"

    def make(self, key: str) -> None:
        """Fill its disk with the package of this checkout, a runsc, and keys."""
        self.folder.mkdir()
        copy_package(self.disk / "opt/site")
        ssh = self.disk / "etc/ssh"
        ssh.mkdir(parents=True)
        (ssh / "keys").write_text(key)
        (ssh / "sshd_config").write_text(SSHD)
        make_key(ssh / "ssh_host_ed25519_key")
        (self.disk / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        target = self.disk / "usr/local/bin"
        target.mkdir(parents=True)
        shutil.copy(self.runsc, target / "runsc")
        if (beside := self.runsc.parent / "gvisor-bin").is_dir():
            shutil.copytree(beside, target / "gvisor-bin")

    def plug_in(self) -> None:
        """Give power and a wire to a machine that is off."""
        boot = ["sh", str(BOOT), str(ROOTS / self.suite), str(self.folder), self.name]
        with open(self.folder / "console", "ab") as console:
            self.process = subprocess.Popen(
                ["unshare", "--net", *boot], stdin=subprocess.PIPE, stdout=console,
                stderr=console, start_new_session=True,
            )  # fmt: skip
        inside = f"/proc/{self.process.pid}/ns/net"
        while os.stat(inside).st_ino == os.stat("/proc/self/ns/net").st_ino:
            assert self.process.poll() is None
        peer = ["peer", "name", "eth0", "netns", str(self.process.pid)]
        ip("link", "add", self.link, "type", "veth", *peer)
        ip("address", "add", f"{self.address(1)}/30", "dev", self.link)
        there = ["nsenter", f"--net={inside}", "ip"]
        run(*there, "address", "add", f"{self.address(2)}/30", "dev", "eth0")
        run(*there, "link", "set", "eth0", "up")

    def unplug(self) -> None:
        """Cut its power for good."""
        self.process.kill()
        self.process.communicate()

    @property
    def namespaces(self) -> int:
        """The process that made its namespaces; 0 if it is off."""
        return next((pid for pid in children_of(self.process.pid)), 0)

    def off(self) -> None:
        """Cut its power: the kernel kills all its processes at once."""
        os.kill(self.namespaces, signal.SIGKILL)
        while self.namespaces:
            time.sleep(0.01)

    def cut(self) -> None:
        """Cut its wire."""
        ip("link", "set", self.link, "down")

    def join(self) -> None:
        """Switch it on if it is off, mend its wire, and wait for its sshd."""
        if not self.namespaces:
            assert self.process.stdin is not None
            self.process.stdin.write(b"on\n")
            self.process.stdin.flush()
        ip("link", "set", self.link, "up")
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((self.address(2), 22), 5).close()
            except OSError:
                assert time.monotonic() < deadline, (self.folder / "console").read_text()
                time.sleep(0.05)
            else:
                return

    def run(self, *argv: str) -> str:
        """Run a command there as root; returns its output."""
        (first,) = children_of(self.namespaces)
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wdns=/"]
        return run("nsenter", "--target", str(first), *namespaces, *argv)

    def processes(self) -> list[str]:
        """The command lines of the processes that sessions have started there."""
        lines = self.run("ps", "-eo", "stat=,args=").splitlines()
        ours = ("keeper.py", "runsc", "python3 -c import sys", "gofer")
        return [x for x in lines if not x.startswith("Z") and any(word in x for word in ours)]

    def hangs(self) -> bool:
        """Whether a sandbox runs there whose test has announced, by a file, that it will hang."""
        said = (self.disk / "tmp/hangs").exists()
        return said and any("runsc-sandbox" in line for line in self.processes())

    def left(self) -> list[str]:
        """The remains of sessions there: processes, folders of sessions, mounts."""
        bases = ["/run/pytest-gvisor", "/tmp/pytest-gvisor-1000"]
        found = self.run("sh", "-c", f"ls -d {bases[0]}/s-* {bases[1]}/s-* 2>/dev/null || true")
        mounts = self.run("cat", "/proc/mounts").splitlines()
        return [*self.processes(), *found.split(), *(x for x in mounts if "pytest-gvisor" in x)]


def copy_package(site: Path) -> None:
    """Install the package of this checkout into a folder for packages."""
    info = site / "pytest_gvisor-0.dist-info"
    ours = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "pytest_gvisor", site / "pytest_gvisor", ignore=ours)
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-gvisor\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[pytest11]\ngvisor = pytest_gvisor.plugin\n")


def run(*argv: str) -> str:
    """Run a command; returns its output."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_key(path: Path) -> None:
    """Make a pair of ssh keys without a passphrase."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))


def ip(*arguments: str) -> None:
    """Call ip(8)."""
    run("ip", *arguments)


@contextlib.contextmanager
def network(folder: Path, *machines: Machine) -> Iterator[Path]:
    """Plug machines in; yield the ssh configuration with their names."""
    folder.mkdir()
    key = folder / "key"
    make_key(key)
    config = ""
    with contextlib.ExitStack() as undo:
        for machine in machines:
            machine.make(key.with_suffix(".pub").read_text())
            machine.plug_in()
            undo.callback(machine.unplug)
            config += CONFIG.format(
                name=machine.name, address=machine.address(2), user=machine.user, key=key,
                known=folder / "known",
            )  # fmt: skip
        (folder / "ssh_config").write_text(config)
        yield folder / "ssh_config"
