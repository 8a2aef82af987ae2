"""The search for runsc, and each rule that refuses one, with real files."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base import trust
from pytest_gvisor.base.errors import InsecureRunsc, LaunchError, RunscNotFound, UsageError
from pytest_gvisor.runsc import locate, sidecars
from pytest_gvisor.sessions.places import RUNSC_PATHS
from tests import releases
from tests.unit.runsc.conftest import (
    STRANGER,
    AsUser,
    FakeRunsc,
    needs_root,
    refusal_on_noexec,
)
from tests.unit.runsc.finding import USER, found, refused, searched

# --- where it is looked for


def test_the_real_runsc_is_found_by_the_default_search() -> None:
    """The search without any argument gives this machine's runsc, open and executable."""
    named = [*RUNSC_PATHS]
    if os.geteuid() != 0:
        named += [f"{folder}/runsc" for folder in os.get_exec_path()]
    judged = locate.find()
    inheritable = os.get_inheritable(judged.fd)
    judged.close()
    assert judged.path in map(os.path.realpath, named)
    assert judged.fd > 2
    assert not inheritable
    assert judged.identity == sidecars.State.of(os.stat(judged.path))


def test_the_trusted_paths_are_these() -> None:
    """The system paths are searched in the documented order."""
    assert RUNSC_PATHS == ("/usr/local/bin/runsc", "/usr/bin/runsc", "/opt/gvisor/runsc")


def test_the_first_candidate_wins(fake_runsc: FakeRunsc) -> None:
    """The first of two good candidates is taken."""
    first, second = fake_runsc(), fake_runsc()
    assert searched(first, second) == str(first)
    assert searched(second, first) == str(second)


def test_an_explicit_path_is_the_only_one_looked_at(good: Path, tmp_path: Path) -> None:
    """A good runsc elsewhere does not replace a missing explicit path."""
    with pytest.raises(RunscNotFound, match=str(tmp_path / "none")) as caught:
        found(tmp_path / "none", trusted=[str(good)], search_path=str(good.parent))
    assert caught.value.searched == (str(tmp_path / "none"),)
    assert caught.value.explicit


def test_an_explicit_relative_path_means_the_current_folder(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is resolved as a shell would, and becomes canonical."""
    monkeypatch.chdir(good.parent)
    assert found("./runsc") == found("runsc") == found(f"../{good.parent.name}/runsc") == str(good)


def test_the_current_folder_may_be_gone(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a deleted folder an absolute path works, and a relative one is not found."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert found(good) == str(good)
    with pytest.raises(RunscNotFound):
        found("runsc")


@pytest.mark.parametrize("text", ["", "/usr/bin/run\0sc"])
def test_what_is_no_path_is_a_usage_error(text: str) -> None:
    """An empty path or one with a NUL byte is a usage error."""
    with pytest.raises(UsageError):
        found(text)


def test_a_user_gets_the_absolute_folders_of_path(good: Path, tmp_path: Path) -> None:
    """Without root, PATH's absolute folders come after the trusted paths."""
    path = f"{tmp_path}/missing:relative::{good.parent}"
    assert searched(tmp_path / "none", search_path=path, euid=USER) == str(good)


def test_the_environment_gives_the_path(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default search path is the environment's, and no default folders without one."""
    monkeypatch.setenv("PATH", str(good.parent))
    assert found(trusted=(), euid=USER) == str(good)
    monkeypatch.delenv("PATH")
    with pytest.raises(RunscNotFound) as caught:
        found(trusted=(), euid=USER)
    assert caught.value.searched == ()


@pytest.mark.fault("A1")
def test_root_never_gets_path(good: Path) -> None:
    """Root's search leaves out PATH, and the error names the searched places."""
    with pytest.raises(RunscNotFound) as caught:
        searched("/nonexistent/runsc", search_path=str(good.parent), euid=0)
    assert "trusted system paths were searched" in caught.value.message
    assert "PATH was not because this is root (/nonexistent/runsc)" in caught.value.message
    assert caught.value.searched == ("/nonexistent/runsc",)
    assert not caught.value.explicit
    assert "apt-get install runsc" in caught.value.next_step
    assert "--gvisor-runsc" in caught.value.next_step


def test_a_place_that_is_trusted_and_in_path_is_named_once() -> None:
    """The search looks there once."""
    with pytest.raises(RunscNotFound) as caught:
        searched("/nonexistent/runsc", search_path="/nonexistent:/none", euid=USER)
    assert caught.value.searched == ("/nonexistent/runsc", "/none/runsc")
    assert caught.value.message.endswith("(/nonexistent/runsc, /none/runsc)")


@pytest.mark.fault("A8")
@pytest.mark.parametrize("path", ["", ":", ".", "..", "./", "bin", "::.:bin:"])
def test_the_current_folder_is_never_searched(
    path: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty and relative elements of PATH are not folders, whatever the current folder has."""
    (good.parent / "bin").mkdir()
    shutil.copy(good, good.parent / "bin")
    monkeypatch.chdir(good.parent)
    with pytest.raises(RunscNotFound) as caught:
        searched(search_path=path, euid=USER)
    assert caught.value.searched == ()


# --- what is passed over, and what is not


@pytest.fixture
def oddities(tmp_path: Path, good: Path) -> dict[str, Path]:
    """Things that are no executable file."""
    places = {name: tmp_path / name for name in ("folder", "fifo", "plain", "dangling")}
    places["folder"].mkdir()
    os.mkfifo(places["fifo"], 0o755)
    shutil.copyfile(good, places["plain"])
    places["plain"].chmod(0o644)
    places["dangling"].symlink_to("nothing")
    return {**places, "device": Path("/dev/null"), "below a file": good / "runsc"}


@pytest.mark.fault("A10")
@pytest.mark.parametrize("name", ["folder", "fifo", "plain", "dangling", "device", "below a file"])
def test_the_search_passes_over_what_is_no_executable_file(
    name: str, oddities: dict[str, Path], good: Path
) -> None:
    """A folder, FIFO, device, file without execute bit or dangling link is no candidate."""
    start = time.monotonic()
    assert searched(oddities[name], good) == str(good)
    with pytest.raises(RunscNotFound):
        searched(oddities[name])
    assert time.monotonic() - start < 10


@pytest.mark.fault("A10")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "not a regular file"),
        ("fifo", "not a regular file"),
        ("device", "not a regular file"),
        ("plain", "no execute bit"),
    ],
)
def test_an_explicit_path_that_is_no_executable_file_is_refused(
    name: str, reason: str, oddities: dict[str, Path]
) -> None:
    """An explicit path to an unusable file is never "not found", and nothing blocks."""
    start = time.monotonic()
    error = refused(oddities[name], reason)
    assert time.monotonic() - start < 10
    assert error.mode == stat.S_IMODE(oddities[name].stat().st_mode)
    assert error.owner == oddities[name].stat().st_uid


def test_the_error_says_what_was_passed_over(oddities: dict[str, Path]) -> None:
    """A runsc without execute bit is not found, and the message says that it was there."""
    with pytest.raises(RunscNotFound, match="plain was passed over: it has no execute bit"):
        searched(oddities["plain"])


@pytest.mark.fault("A13")
def test_an_insecure_candidate_ends_the_search(fake_runsc: FakeRunsc) -> None:
    """An insecure runsc before a good one is an error, and the good one is not taken."""
    bad, good = fake_runsc(), fake_runsc()
    bad.chmod(0o777)
    with pytest.raises(InsecureRunsc) as caught:
        searched(bad, good)
    assert caught.value.path == str(bad)
    with pytest.raises(InsecureRunsc):
        searched(search_path=f"{bad.parent}:{good.parent}", euid=USER)


def test_an_open_folder_without_runsc_does_not_end_the_search(good: Path, tmp_path: Path) -> None:
    """A folder of PATH that all may write matters only where it holds a candidate."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert searched(search_path=f"{shared}:{good.parent}", euid=USER) == str(good)


def test_what_a_user_may_not_execute_is_passed_over(as_user: AsUser, open_tmp: Path) -> None:
    """The execute bit must be one for this user."""
    shutil.copy(releases.found(), open_tmp / "runsc")
    (open_tmp / "runsc").chmod(0o744 if os.geteuid() == 0 else 0o611)
    path = str(open_tmp / "runsc")
    result = as_user(f"""
result = [
    refusal(locate.find, trusted=[{path!r}], search_path="")[0],
    refusal(locate.find, {path!r}),
]
""")
    assert result[0] == "RunscNotFound"
    assert result[1][0] == "InsecureRunsc"
    assert "may not execute" in result[1][1]


@needs_root
def test_what_cannot_be_read_cannot_be_judged(as_user: AsUser, open_tmp: Path) -> None:
    """An executable that this user cannot read is refused, not passed over."""
    shutil.copy(releases.found(), open_tmp / "runsc")
    (open_tmp / "runsc").chmod(0o711)
    name, message = as_user(
        f"result = refusal(locate.find, trusted=[{str(open_tmp / 'runsc')!r}], search_path='')"
    )
    assert name == "InsecureRunsc"
    assert "cannot be read" in message


@needs_root
def test_a_folder_that_cannot_be_entered_holds_no_candidate(
    as_user: AsUser, open_tmp: Path
) -> None:
    """The search passes a closed folder; an explicit path into it is refused with the cause."""
    hidden = open_tmp / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy(releases.found(), hidden / "runsc")
    path, good = str(hidden / "runsc"), releases.found()
    result = as_user(f"""
result = [
    locate.find(trusted=[{path!r}, {good!r}], search_path="").path,
    refusal(locate.find, {path!r}),
]
""")
    assert result[0] == good
    assert result[1][0] == "InsecureRunsc"
    assert "Permission denied" in result[1][1]


@pytest.mark.parametrize(
    ("number", "is_passed", "text"),
    [
        (errno.ENOENT, True, "does not exist"),
        (errno.ENOTDIR, True, "does not exist"),
        (errno.ENAMETOOLONG, True, "does not exist"),
        (errno.EACCES, True, "it cannot be reached: Permission denied"),
        (errno.ELOOP, False, "more than 40"),
        (errno.EIO, False, "it cannot be reached: Input/output error"),
    ],
)
def test_a_way_that_cannot_be_walked_is_judged_by_its_error(
    number: int, text: str, good: Path, monkeypatch: pytest.MonkeyPatch, *, is_passed: bool
) -> None:
    """The search passes a missing or closed candidate, and ends at any other error."""
    real = trust.follow

    def follow(path: str, *rest: Any) -> Any:
        if path == "/bad/runsc":
            raise OSError(number, os.strerror(number))
        return real(path, *rest)

    monkeypatch.setattr(locate, "follow", follow)
    if is_passed:
        assert searched("/bad/runsc", good) == str(good)
    else:
        with pytest.raises(InsecureRunsc, match=text):
            searched("/bad/runsc", good)
    if number in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}:
        with pytest.raises(RunscNotFound):
            found("/bad/runsc")
    else:
        refused("/bad/runsc", text)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("place", ["walk", "open"])
def test_a_shortage_says_nothing_about_a_candidate(
    number: int, place: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortage in this process makes a candidate neither missing nor insecure."""

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    if place == "walk":
        monkeypatch.setattr(locate, "follow", refuse)
    else:
        monkeypatch.setattr(os, "open", _open_but(refuse))
    with pytest.raises(LaunchError) as caught:
        searched(good)
    assert caught.value.errno == number


def _open_but(refuse: Callable[..., Any]) -> Callable[..., Any]:
    """An `os.open` that refuses to open a descriptor's file for reading."""
    real = os.open
    return lambda path, *a, **k: (refuse if "/fd/" in str(path) else real)(path, *a, **k)


def test_a_lease_on_the_file_holds_nothing_up(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would first break the lease, and wait for its holder."""
    real, seen = os.open, []

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if "/fd/" in str(path):
            seen.append(flags)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", opened)
    assert found(good) == str(good)
    assert seen[0] & os.O_NONBLOCK


# --- the file


@pytest.mark.fault("A1", "A2")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o722])
def test_a_file_that_others_may_write_is_refused(mode: int, good: Path) -> None:
    """A write bit for the group or for all is enough; the error has path, mode and owner."""
    good.chmod(mode)
    error = refused(good, "its group or others may write it")
    assert (error.path, error.mode, error.owner) == (str(good), mode, os.geteuid())
    assert f"mode {mode:04o}" in str(error)
    assert f"owner uid {os.geteuid()}" in str(error)


@pytest.mark.parametrize("mode", [0o755, 0o555, 0o700, 0o500])
def test_a_file_that_only_its_owner_may_write_is_fine(mode: int, good: Path) -> None:
    """Modes without a write bit for others pass."""
    good.chmod(mode)
    assert found(good) == str(good)


@pytest.mark.fault("A11")
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
def test_a_set_id_file_is_refused(mode: int, good: Path) -> None:
    """A set-uid or set-gid file never starts."""
    good.chmod(mode)
    assert refused(good, "set-uid or set-gid").mode == mode


def test_a_file_of_a_third_user_is_refused(good: Path) -> None:
    """The owner must be root or the current user."""
    if os.geteuid() == 0:
        os.chown(good, STRANGER, -1)
        assert found(good, euid=STRANGER) == str(good)
    owner = good.stat().st_uid
    other = 0 if os.geteuid() == 0 else owner + 1
    assert refused(good, f"owned by uid {owner} ", euid=other).owner == owner


def test_an_execute_bit_for_others_is_one(good: Path) -> None:
    """Whoever it is for, it is a program, which this user may not execute."""
    good.chmod(0o601)
    if os.geteuid() == 0:
        assert found(good) == str(good)
    else:
        refused(good, "this user may not execute it")


def test_who_executes_a_file_is_the_effective_user(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel asks for that one too."""
    asked = []

    def access(path: str, mode: int, *, effective_ids: bool = False) -> bool:
        asked.append((mode, effective_ids))
        return True

    monkeypatch.setattr(os, "access", access)
    assert found(good) == str(good)
    assert set(asked) == {(os.X_OK, True)}


def test_a_file_is_judged_with_its_folder(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is the one that holds the file in the end, and not one on the way."""
    seen = []

    def problems(node: trust.Node, folder: trust.Node, _trust: trust.Trust) -> list[str]:
        seen.append((node.path, folder.path))
        return []

    monkeypatch.setattr(locate, "file_problems", problems)
    assert found(good) == str(good)
    assert seen == [(str(good), str(good.parent))]


def test_every_broken_rule_of_a_file_is_named(good: Path) -> None:
    """One refusal holds all reasons, so that they need not be met one by one."""
    good.write_text("nonsense")
    good.chmod(0o4777)
    reason = refused(good, "").reason
    assert "may write it; it is set-uid or set-gid; it is not an ELF" in reason


@pytest.mark.fault("A11")
@needs_root
def test_a_file_on_a_noexec_mount_is_refused(good: Path, tmp_path: Path) -> None:
    """A file that the kernel would not execute is refused with the reason, before a try."""
    mount = tmp_path / "mount"
    mount.mkdir()
    told = refusal_on_noexec(mount, mount / "runsc", good)
    assert told == f"{mount}/runsc its file system is mounted noexec\n"


def patch(path: Path, at: int, value: bytes) -> None:
    """Overwrite bytes of an ELF header: 0 magic, 4 class, 5 byte order, 16 type, 18 machine."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


@pytest.mark.fault("A10")
@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, b"\x7fELG", "not an ELF executable"),
        (4, b"\x01", "another machine"),
        (5, b"\x02", "another machine"),
        (16, b"\x01\x00", "not an ELF executable"),
        (18, b"\xf3\x00", "another machine"),
    ],
    ids=["magic", "32 bits", "big endian", "object file", "riscv"],
)
def test_an_elf_file_of_another_machine_is_refused(
    at: int, value: bytes, reason: str, good: Path
) -> None:
    """Magic, class, byte order, type and machine of the header must be this machine's."""
    patch(good, at, value)
    refused(good, reason)


@pytest.mark.fault("A10")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an ELF"),
        (b"\x7fELF", "not an ELF"),
        (b"MZ" * 4000, "not an ELF"),
        (b"#!/bin/sh\necho runsc version 1\n", "without a line that starts runsc"),
        (b"#!/bin/sh\nexec /bin/sh -c runsc\n", "does not name runsc"),
        (b"#!" + b"x" * 5000, "more than 4096 bytes"),
    ],
    ids=["empty", "short", "other format", "script", "script with exec", "large script"],
)
def test_what_is_no_binary_is_refused(content: bytes, reason: str, good: Path) -> None:
    """A script, an empty file and other formats are never started."""
    good.write_bytes(content)
    refused(good, reason)


# --- what was judged is what runs


@pytest.mark.parametrize("closed", [[0], [2], [0, 2]])
def test_the_descriptor_is_never_a_standard_stream(good: Path, closed: list[int]) -> None:
    """With some closed the file is still opened above 2, where no child overwrites it."""
    program = f"""
import os, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pytest_gvisor.base import trust
from pytest_gvisor.runsc import locate
node = trust.Node({str(good)!r}, os.open({str(good)!r}, os.O_PATH), os.stat({str(good)!r}))
for closed in {closed}:
    os.close(closed)
fd = locate._open_regular(node)
try:
    os.fstat({closed[0]})
except OSError:
    sys.exit(fd)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode > 2
