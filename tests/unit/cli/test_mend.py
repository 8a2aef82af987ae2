"""The commands that mend a machine: which they are, and how they are shown."""

import grp
import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc, MixedReleases, RunscNotFound, UsageError
from pytest_gvisor.cli import health
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.vm.parts import Command


def words(commands: Sequence[Command]) -> list[list[str]]:
    """The arguments of commands, those of this package's own without their path."""
    found = [list(command.argv) for command in commands]
    return [
        ["pytest-gvisor", *argv[1:]] if argv[0].endswith("/pytest-gvisor") else argv
        for argv in found
    ]


def test_a_missing_runsc_is_installed_unless_its_path_was_given() -> None:
    """An explicit path is the user's to mend, and so is another error."""
    assert words(health.of_error(RunscNotFound("none"))) == [["pytest-gvisor", "install"]]
    assert words(health.of_error(MixedReleases("two"))) == [["pytest-gvisor", "install"]]
    assert health.of_error(RunscNotFound("none", explicit=True)) == ()
    assert health.of_error(UsageError("no")) == ()


@pytest.mark.parametrize("refused", ["runsc", "gvisor-1/runsc", "gvisor-1/gvisor-bin/sentry"])
def test_a_refused_runsc_is_installed_anew(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of the search is filled anew; no command changes a mode or an owner."""
    (tmp_path / "gvisor-1/gvisor-bin").mkdir(parents=True)
    (tmp_path / "gvisor-1/runsc").touch()
    (tmp_path / "runsc").symlink_to("gvisor-1/runsc")
    monkeypatch.setattr(health, "RUNSC_PATHS", ("/nonexistent/runsc", str(tmp_path / "runsc")))
    found = health.of_error(InsecureRunsc(str(tmp_path / refused), "others may write it"))
    assert words(found) == [["pytest-gvisor", "install", "--to", str(tmp_path)]]
    assert health.of_error(InsecureRunsc("/elsewhere/runsc", "others may write it")) == ()


def test_debians_own_runsc_comes_from_its_package_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt replaces the file, with the package's owner and mode."""
    path = str(tmp_path / "runsc")
    Path(path).touch()
    monkeypatch.setattr(health, "RUNSC_PATHS", (path,))
    monkeypatch.setattr(health, "_OF_DEBIAN", path)
    (command,) = health.of_error(InsecureRunsc(path, "its owner is uid 1001"))
    assert command == Command(("apt-get", "install", "--reinstall", "--yes", "runsc"), as_root=True)


def test_the_module_of_kvm_is_the_processors(tmp_path: Path) -> None:
    """The module is loaded where the kernel has it and the processor can use it."""
    modules = tmp_path / "modules"
    (modules / os.uname().release / "kernel/arch/x86/kvm").mkdir(parents=True)
    for flags, name in (("fpu vmx", "kvm_intel"), ("fpu svm", "kvm_amd")):
        (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags\t\t: {flags}\nbugs\t\t: x\n")
        found = health._module(str(tmp_path), str(modules))
        assert found == (Command(("modprobe", name), as_root=True),)
        assert health._module(str(tmp_path), str(tmp_path)) == ()
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu\n")
    assert health._module(str(tmp_path), str(modules)) == ()
    assert health.of_kvm(Cause.PROBE_FAILED) == ()


def test_a_user_joins_the_group_of_the_device_if_it_is_kvms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command is root's; a device of another group is left to its owner."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(health, "_DEVICE", str(tmp_path / "kvm"))
    names = {"group": "kvm"}
    user = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/", "/bin/sh"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: user)
    monkeypatch.setattr(
        grp, "getgrgid", lambda _gid: grp.struct_group((names["group"], "x", 9, []))
    )
    usermod = ("usermod", "--append", "--groups", "kvm", "me")
    assert health.of_kvm(Cause.NO_PERMISSION) == (Command(usermod, as_root=True),)
    names["group"] = "disk"
    assert health.of_kvm(Cause.NO_PERMISSION) == ()
    monkeypatch.setattr(health, "_module", lambda: (Command(("modprobe", "kvm_amd")),))
    assert health.of_kvm(Cause.NO_DEVICE) == ()
    (tmp_path / "kvm").unlink()
    assert health.of_kvm(Cause.NO_DEVICE) == (Command(("modprobe", "kvm_amd")),)


WEIRD = ("printf", "%s\\0", "a b", "$(touch x)", "'", '"', "; y", "*", "--long=" + "z" * 30)


def test_what_is_shown_is_what_a_shell_reads(tmp_path: Path) -> None:
    """The line of a command, pasted into a shell, is the same arguments."""
    line = health.line(Command(WEIRD))
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout.split("\0") == [*WEIRD[2:], ""]


def test_control_characters_of_a_command_are_shown_escaped() -> None:
    """The path of this Python may hold any."""
    assert health.line(Command(("a\x1b[31m\nb", "::error::"))) == "'a\\x1b[31m\\nb' ::error::"


def test_a_command_of_roots_goes_through_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root needs none."""
    command = Command(("true",), as_root=True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert health.line(command) == "sudo true"
    assert health.line(Command(("true",))) == "true"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert health.line(command) == "true"
