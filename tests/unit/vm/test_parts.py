"""The parts of a VM: programs, QEMU's version, kernels and their modules, and the remedy."""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import MachineFailed
from pytest_gvisor.vm import parts
from pytest_gvisor.vm.parts import kernels, missing

NAMES = ("vng", "qemu-system-x86_64", "modprobe", "busybox", "file")


def make_program(path: Path, script: str = "") -> str:
    """A program that another one starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def make_kernel(base: Path, release: str, module: str = "kvm-amd.ko.xz") -> str:
    """A kernel and its modules' folder; the kernel's path."""
    for folder in ("boot", f"lib/modules/{release}/kernel/arch/x86/kvm"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / f"lib/modules/{release}/kernel/arch/x86/kvm/{module}").touch()
    kernel = base / f"boot/vmlinuz-{release}"
    kernel.touch()
    return str(kernel)


@pytest.fixture
def equipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs that are enough for a VM; nothing else is looked at."""
    folder = tmp_path / "programs"
    for name in NAMES:
        make_program(folder / name, "echo QEMU emulator version 10.0.2")
    monkeypatch.setattr(parts, "SYSTEM_PATH", str(folder))
    monkeypatch.setattr(parts, "_VIRTIOFSD", ())
    monkeypatch.setattr(parts, "_BOOT", str(tmp_path / "boot"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    return folder


def test_the_newest_kernel_with_the_module_is_taken(tmp_path: Path) -> None:
    """Versions compare as numbers; a kernel without modules, or without kvm-amd, is left out."""
    older = make_kernel(tmp_path, "6.9.1-amd64")
    newer = make_kernel(tmp_path, "6.12.118-amd64", "kvm-amd.ko")
    make_kernel(tmp_path, "7.0.0-cloud", "kvm-intel.ko")
    (tmp_path / "boot/vmlinuz-8.0.0").touch()
    (tmp_path / "boot/config-9.0.0").touch()
    boot, modules = str(tmp_path / "boot"), str(tmp_path / "lib/modules")
    assert kernels(boot, modules) == [newer, older]
    assert kernels(str(tmp_path / "none"), modules) == []


def test_each_part_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, equipped: Path
) -> None:
    """One error tells all of them, and one line to paste."""
    monkeypatch.setattr(parts, "SYSTEM_PATH", "/nonexistent")
    with pytest.raises(MachineFailed, match="no VM can be made here: no vng") as caught:
        parts.find()
    assert "no qemu-system-x86_64; no modprobe; no busybox; no file" in caught.value.message
    assert f"no kernel in {equipped.parent / 'boot'}" in caught.value.message
    assert "virtiofsd" not in caught.value.message
    assert "apt-get install" in caught.value.next_step


def test_vng_is_found_beside_the_running_python(equipped: Path, tmp_path: Path) -> None:
    """pip puts it there; vng starts virtme-run from its PATH, so that folder comes first."""
    beside = tmp_path / "prefix/bin"
    kernel = make_kernel(tmp_path, "6.12.1")
    assert parts.find(kernel=kernel).vng == str(equipped / "vng")
    assert parts.find(kernel=kernel).path == str(equipped)
    make_program(beside / "vng")
    found = parts.find(kernel=kernel)
    assert found.vng == str(beside / "vng")
    assert found.path == f"{beside}:{equipped}"


def test_a_folder_of_the_environments_path_is_not_searched(
    equipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of another user would run as root."""
    make_program(tmp_path / "elsewhere/vng")
    (equipped / "vng").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert missing(kernel=make_kernel(tmp_path, "6.12.1")) == ["no vng (the package virtme-ng)"]


def test_virtiofsd_is_not_needed(equipped: Path, tmp_path: Path) -> None:
    """The VM's files come through QEMU's 9p without it."""
    kernel = make_kernel(tmp_path, "6.12.1")
    assert not parts.find(kernel=kernel).virtiofsd
    make_program(equipped / "virtiofsd")
    assert parts.find(kernel=kernel).virtiofsd


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)", "QEMU 7.2 is too old for gVisor's"),
        ("QEMU emulator version 6.2.0", "QEMU 6.2 is too old for gVisor's kvm: 10 or later is"),
        ("QEMU emulator version 8.0.0", ""),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", ""),
        ("qemu: version 10.0", "does not tell QEMU's version: qemu: version 10.0"),
        ("", "does not tell QEMU's version: it wrote nothing"),
    ],
)
def test_a_qemu_is_judged_by_the_version_that_it_tells(
    equipped: Path, tmp_path: Path, said: str, complaint: str
) -> None:
    """Debian 12's boots the VM, and then runsc fails or hangs in it."""
    kernel = make_kernel(tmp_path, "6.12.1")
    other = make_program(tmp_path / "qemu", f"echo '{said}'")
    found = missing(qemu=other, kernel=kernel)
    assert [text for text in found if complaint not in text] == []
    assert bool(found) is bool(complaint)
    assert missing(kernel=kernel) == []


def test_a_qemu_that_cannot_be_started_is_told(equipped: Path, tmp_path: Path) -> None:
    """A missing file, as after a move, is named."""
    (found,) = missing(qemu="/nonexistent/qemu", kernel=make_kernel(tmp_path, "6.12.1"))
    assert found.startswith("/nonexistent/qemu cannot be started: ")


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ('ID=debian\nVERSION_ID="12"', "-t bookworm-backports qemu-system-x86 linux-image-amd64"),
        ('ID=debian\nVERSION_ID="12"', "pip install virtme-ng"),
        ('ID=debian\nVERSION_ID="13"', "virtme-ng qemu-system-x86 linux-image-amd64 virtiofsd"),
        ('ID=ubuntu\nVERSION_ID="24.04"', "virtme-ng qemu-system-x86 linux-image-generic kmod"),
    ],
)
def test_the_remedy_has_the_names_of_the_distribution(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, words: str
) -> None:
    """Debian 12 has no virtme-ng, and a QEMU that is too old."""
    (tmp_path / "os-release").write_text(f"NAME=x\n{release}\n")
    monkeypatch.setattr(parts, "_OS_RELEASE", str(tmp_path / "os-release"))
    assert words in parts.remedy()


@pytest.mark.parametrize("release", ["12", "13"])
def test_the_commands_install_what_the_remedy_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str
) -> None:
    """Each package is an argument, and apt asks nothing; without apt there are no commands."""
    (tmp_path / "os-release").write_text(f'ID=debian\nVERSION_ID="{release}"\n')
    monkeypatch.setattr(parts, "_OS_RELEASE", str(tmp_path / "os-release"))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "/usr/bin/apt-get")
    update, install, *rest = parts.commands()
    assert (update.argv, update.as_root) == (("apt-get", "update"), True)
    assert install.as_root
    assert install.argv[:4] == ("apt-get", "install", "--yes", "--no-install-recommends")
    assert f"--no-install-recommends {' '.join(install.argv[4:])}" in parts.remedy()
    pip = [command.argv[1:] for command in rest]
    assert pip == ([("-m", "pip", "install", "virtme-ng")] if release == "12" else [])
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert parts.commands() == ()


def test_a_boot_folder_that_may_not_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, equipped: Path
) -> None:
    """Mode 0700 for root alone is usual, and different from a lack of kernels."""
    listdir = os.listdir
    boot = equipped.parent / "boot"
    boot.mkdir()

    def refusing(path: str) -> list[str]:
        if path == str(boot):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refusing)
    assert missing() == [f"{boot} cannot be read: Permission denied"]


def test_a_kernel_that_is_named_is_the_only_one_that_is_needed(
    equipped: Path, tmp_path: Path
) -> None:
    """The named kernel has to be a readable file; /boot may have none, as in a container."""
    kernel = tmp_path / "bzImage"
    kernel.touch()
    assert parts.find(kernel=str(kernel)).kernel == str(kernel)
    for other in (tmp_path / "none", tmp_path):
        with pytest.raises(MachineFailed, match=f"{other} is no kernel that can be read"):
            parts.find(kernel=str(other))
    with pytest.raises(MachineFailed, match="no kernel in"):
        parts.find()


@pytest.mark.parametrize("place", ["lib", "usr/lib"])
def test_a_kernels_modules_lie_in_its_own_tree(equipped: Path, tmp_path: Path, place: str) -> None:
    """An unpacked package has ROOT/boot/vmlinuz-RELEASE and ROOT/lib/modules/RELEASE."""
    kernel = make_kernel(tmp_path / "root", "6.12.1")
    if place != "lib":
        (tmp_path / "root/usr").mkdir()
        (tmp_path / "root/lib").rename(tmp_path / "root/usr/lib")
    assert parts.find(kernel=kernel).modules == str(tmp_path / f"root/{place}/modules/6.12.1")


def test_another_processor_has_no_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulated nested KVM is AMD's."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert missing() == ["the emulated nested KVM needs an x86_64 machine, and this is aarch64"]
    assert parts.remedy().startswith("Run it on an x86_64 machine")
    assert parts.commands() == ()
