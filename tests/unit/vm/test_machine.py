"""One VM: its command line, its script and its shared folders."""

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.vm import machine
from pytest_gvisor.vm.machine import Machine, folder_of, guest, share_of, vng
from pytest_gvisor.vm.parts import Parts

PARTS = Parts(vng="/bin/vng", path="/bin", qemu="/bin/qemu", kernel="/boot/k", virtiofsd=True)


def test_the_command_line_never_uses_the_hosts_kvm() -> None:
    """Folder and shares are given, and the processor that gVisor is known to run on."""
    chosen = Machine(command=("true",), shares=("/a", "/b"), memory=512, cpus=3)
    argv = vng(chosen, PARTS, "/folder")
    assert argv[0] == "/bin/vng"
    assert {"--disable-kvm", "--rwdir=/a", "--rwdir=/b"} < set(argv)
    assert f"--rwdir={machine.GUEST_FOLDER}=/folder" in argv
    assert any(word.startswith("--qemu-opts=-cpu EPYC ") for word in argv)
    assert argv[argv.index("--memory") + 1] == "512M"
    assert argv[argv.index("--qemu") + 1] == "/bin/qemu"
    assert argv[argv.index("--run") + 1] == "/boot/k"


def test_files_come_by_9p_where_there_is_no_virtiofsd() -> None:
    """vng takes 9p by itself where virtiofsd is there and does not start."""
    chosen = Machine(command=("true",))
    assert "--force-9p" not in vng(chosen, PARTS, "/folder")
    assert "--force-9p" in vng(chosen, dataclasses.replace(PARTS, virtiofsd=False), "/folder")


@pytest.mark.parametrize(("tree", "shown"), [("/var/tmp/x/6.1", True), ("/opt/x/6.1", False)])
def test_modules_that_the_vm_would_hide_are_shown_to_it(tree: str, shown: bool) -> None:
    """The modules are read-only; in other places the VM sees this machine's files."""
    argv = vng(Machine(command=("true",)), dataclasses.replace(PARTS, modules=tree), "/folder")
    assert (f"--rodir={tree}" in argv) is shown


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


@pytest.mark.parametrize(
    ("env", "cache"),
    [
        ({"HOME": "/root"}, "XDG_CACHE_HOME=/tmp/.cache"),
        ({}, "XDG_CACHE_HOME=/tmp/.cache"),
        ({"HOME": "/root", "XDG_CACHE_HOME": "/srv/c"}, "XDG_CACHE_HOME=/srv/c"),
        ({"HOME": "/home/me"}, ""),
    ],
)
def test_a_home_folder_that_is_read_only_there_has_no_cache(
    env: dict[str, str], cache: str
) -> None:
    """Images would not run in the VM as root otherwise: their cache is below /root."""
    words = guest(Machine(command=("true",), env=env)).decode().split()
    assert [word for word in words if word.startswith("XDG_CACHE_HOME=")] == cache.split()


def test_a_folder_is_shared_by_its_real_path(tmp_path: Path) -> None:
    """A symlink is resolved on the host, where its target is the intended one."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert share_of(str(tmp_path / "link")) == str(tmp_path.resolve())


@pytest.mark.parametrize("name", ["a b", "a,b", "a'b", "a$b", "a=b", "ä"])
def test_a_folder_with_a_name_that_options_cannot_hold_is_refused(
    name: str, tmp_path: Path
) -> None:
    """QEMU and the kernel split their arguments at some characters."""
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="cannot be shared"):
        share_of(str(tmp_path / name))


def test_what_is_no_folder_cannot_be_shared(tmp_path: Path) -> None:
    """A file or a missing path cannot be shared."""
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
