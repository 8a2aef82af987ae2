"""What a VM is made of: kernels, the command line, the script, what may be shared."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from pytest_gvisor.errors import MachineFailed, UsageError
from pytest_gvisor.vm import machine
from pytest_gvisor.vm.machine import Machine, folder_of, guest, kernels, share_of, vng


def make_kernel(base: Path, release: str, module: str = "kvm-amd.ko.xz") -> str:
    """A kernel and its modules' folder; the kernel's path."""
    for folder in ("boot", f"modules/{release}/kernel/arch/x86/kvm"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / f"modules/{release}/kernel/arch/x86/kvm/{module}").touch()
    kernel = base / f"boot/vmlinuz-{release}"
    kernel.touch()
    return str(kernel)


def test_the_newest_kernel_with_the_module_is_taken(tmp_path: Path) -> None:
    """Numbers are compared as numbers; a kernel without modules, or without kvm-amd, is none."""
    older = make_kernel(tmp_path, "6.9.1-amd64")
    newer = make_kernel(tmp_path, "6.12.118-amd64", "kvm-amd.ko")
    make_kernel(tmp_path, "7.0.0-cloud", "kvm-intel.ko")
    (tmp_path / "boot/vmlinuz-8.0.0").touch()
    (tmp_path / "boot/config-9.0.0").touch()
    boot, modules = str(tmp_path / "boot"), str(tmp_path / "modules")
    assert kernels(boot, modules) == [newer, older]
    assert kernels(str(tmp_path / "none"), modules) == []


def test_what_is_missing_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One error that names all of it, and one line to paste."""
    monkeypatch.setattr(machine, "PATH", "/nonexistent")
    monkeypatch.setattr(machine, "_VIRTIOFSD", ())
    monkeypatch.setattr(machine, "_BOOT", "/nonexistent")
    with pytest.raises(MachineFailed, match="no vng; no qemu-system-x86_64; no modprobe") as caught:
        vng(Machine(command=("true",)), "/folder")
    assert "no virtiofsd; no kernel in /nonexistent" in caught.value.message
    assert "apt-get install --no-install-recommends virtme-ng" in caught.value.next_step


def test_a_boot_folder_that_may_not_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mode 0700 for root alone is usual; it is not a want of kernels."""
    listdir = os.listdir

    def refusing(path: str) -> list[str]:
        if path == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    monkeypatch.setattr(machine, "_BOOT", str(tmp_path))
    monkeypatch.setattr(machine, "_PROGRAMS", ())
    monkeypatch.setattr(machine, "_VIRTIOFSD", (__file__,))
    assert machine.missing() == [f"{tmp_path} cannot be read: Permission denied"]


def test_a_kernel_that_is_named_is_the_only_one_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where /boot has none, as in a container; it has to be a file that can be read."""
    monkeypatch.setattr(machine, "_BOOT", str(tmp_path))
    monkeypatch.setattr(machine, "_PROGRAMS", ())
    monkeypatch.setattr(machine, "_VIRTIOFSD", (__file__,))
    kernel = tmp_path / "bzImage"
    kernel.touch()
    argv = vng(Machine(command=("true",), kernel=str(kernel)), "/folder")
    assert argv[argv.index("--run") + 1] == str(kernel)
    for other in (tmp_path / "none", tmp_path):
        with pytest.raises(MachineFailed, match=f"{other} is no kernel that can be read"):
            vng(Machine(command=("true",), kernel=str(other)), "/folder")
    with pytest.raises(MachineFailed, match="no kernel in"):
        vng(Machine(command=("true",)), "/folder")


def test_another_processor_has_no_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulated nested KVM is AMD's."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.missing() == [
        "the emulated nested KVM needs an x86_64 machine, and this is aarch64"
    ]


def test_the_command_line_never_uses_the_hosts_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder and shares are given, and the processor that gVisor is known to run on."""
    monkeypatch.setattr(machine, "missing", lambda _kernel: [])
    chosen = Machine(command=("true",), shares=("/a", "/b"), kernel="/boot/k", memory=512, cpus=3)
    argv = vng(chosen, "/folder")
    assert argv[0] == "vng"
    assert {"--disable-kvm", "--rwdir=/a", "--rwdir=/b"} < set(argv)
    assert f"--rwdir={machine.GUEST_FOLDER}=/folder" in argv
    assert any(word.startswith("--qemu-opts=-cpu EPYC ") for word in argv)
    assert argv[argv.index("--memory") + 1] == "512M"


@pytest.mark.parametrize("word", ["it's", "$HOME `id`", "a\nb", "-n", "", "ä\\"])
def test_words_reach_the_command_as_they_are(word: str) -> None:
    """Arguments and the environment go through a shell, and it reads none of them."""
    command = ("sh", "-c", 'printf %s "$1$GREETING"', "sh", word)
    text = guest(Machine(command=command, env={"GREETING": word})).decode()
    script = text[text.index("cd / && ") : text.index("\necho $? >")]
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (word + word, 0)


def test_bytes_that_are_no_text_reach_the_command_as_they_are() -> None:
    """An argument, a value of the environment or a folder's name need not be UTF-8."""
    word = os.fsdecode(b"a\xff b")
    command = ("sh", "-c", 'printf %s "$1$GREETING"', "sh", word)
    script = guest(Machine(command=command, env={"GREETING": word}, cwd=f"/tmp/{word}"))
    assert b"cd '/tmp/a\xff b' && " in script
    line = script[script.index(b"env -i") : script.index(b"\necho $? >")]
    done = subprocess.run(["sh", "-c", line], capture_output=True)
    assert done.stdout == b"a\xff ba\xff b"


def test_folders_of_this_machines_run_are_not_passed_on() -> None:
    """A name of a folder that the VM has not is worse than none."""
    chosen = Machine(command=("true",), env={"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/root"})
    text = guest(chosen).decode()
    assert "XDG_RUNTIME_DIR" not in text
    assert "HOME=/root" in text


def test_a_folder_is_shared_by_its_real_path(tmp_path: Path) -> None:
    """A symlink is followed here, where it leads to what was meant."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert share_of(str(tmp_path / "link")) == str(tmp_path.resolve())


@pytest.mark.parametrize("name", ["a b", "a,b", "a'b", "a$b", "a=b", "ä"])
def test_a_folder_with_a_name_that_options_cannot_hold_is_refused(
    name: str, tmp_path: Path
) -> None:
    """QEMU and the kernel take apart what they get."""
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="cannot be shared"):
        share_of(str(tmp_path / name))


def test_what_is_no_folder_cannot_be_shared(tmp_path: Path) -> None:
    """Neither a file nor nothing."""
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        with pytest.raises(UsageError, match="is not a folder"):
            share_of(str(tmp_path / name))


@pytest.mark.parametrize(
    ("path", "shares"),
    [
        ("/home/me", []),
        ("/var/tmp", []),
        ("/var/tmpx/x", []),
        ("/var/tmp/x", ["/var/tmp/x"]),
        ("/run/x/y", ["/srv", "/run/x"]),
    ],
)
def test_a_folder_that_the_vm_has_is_started_in(path: str, shares: list[str]) -> None:
    """A shared one is there in any case."""
    assert folder_of(path, shares) == path


@pytest.mark.parametrize(
    ("path", "shares", "step"),
    [
        ("/var/tmp/x", [], "--share /var/tmp/x"),
        ("/var/tmp/xy", ["/var/tmp/x"], "--share /var/tmp/xy"),
        ("/run/x", [], "--share /run/x"),
        ("/var/cache/x", [], "--share /var/cache/x"),
        ("/var/log/a b", [], "--share '/var/log/a b'"),
        ("/dev/shm/x", [], "Start it in a folder that is not below that."),
    ],
)
def test_a_folder_that_the_vm_has_not_is_told_before_a_boot(
    path: str, shares: list[str], step: str
) -> None:
    """The VM mounts something empty over the folder above it."""
    with pytest.raises(UsageError, match="of its own") as caught:
        folder_of(path, shares)
    assert caught.value.next_step.endswith(step)


def test_a_folder_that_would_be_hidden_is_not_shared() -> None:
    """The VM mounts its /dev/shm later than it does shared folders."""
    with pytest.raises(UsageError, match="/dev/shm cannot be shared"):
        share_of("/dev/shm")
