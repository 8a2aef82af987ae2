"""Programs in `gvisor-bin` beside runsc: each rule that refuses one, and each change since."""

import contextlib
import datetime as dt
import os
import re
import shutil
import socket
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc, LaunchError, UsageError
from pytest_gvisor.cli import doctor
from pytest_gvisor.install import unpack
from pytest_gvisor.runsc import locate, sidecars
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.command import check_extra
from tests.faults.shortages import spare_descriptors
from tests.mounts import masked
from tests.unit.runsc.conftest import (
    AsUser,
    FakeRunsc,
    give_away,
    loosen,
    needs_root,
    refusal_on_noexec,
)

NEW = {
    "version": r'puts("runsc version release-20260905.0\nspec: 1.2.1")',
    "flags": r'fputs("  -net-disconnect-ok\n    \td.\n  -root string\n    \td.\n'
    r'  -sidecar-release-enforcement-policy value\n", '
    "stderr)",
}


@pytest.fixture
def binary(fake_runsc: FakeRunsc) -> Path:
    """A runsc of a release that looks for its sidecars, alone in its folder."""
    return fake_runsc(**NEW)


@pytest.fixture
def folder(binary: Path) -> Path:
    """The `gvisor-bin` beside it, with two programs that no rule refuses."""
    made = binary.parent / "gvisor-bin"
    made.mkdir()
    made.chmod(0o755)
    for name in ("gvisor_sentry", "gvisor-sentry-prewarmer"):
        program(made / name)
    return made


def program(path: Path) -> Path:
    """A program that leaves a file beside itself if anybody starts it."""
    path.write_text('#!/bin/sh\n: > "$0.was-started"\n')
    path.chmod(0o755)
    return path


def judged(path: Path, **search: object) -> sidecars.Sidecars:
    """The sidecars beside the runsc at this path."""
    found = locate.find(str(path), **search)  # type: ignore[arg-type]
    found.close()
    return found.sidecars


def refused(path: Path, reason: str, **search: object) -> InsecureRunsc:
    """The refusal of the runsc at this path; none of its sidecars was started."""
    with pytest.raises(InsecureRunsc) as caught:
        judged(path, **search)
    assert re.search(reason, caught.value.reason), caught.value.reason
    assert not [*path.parent.rglob("*.was-started")]
    return caught.value


def test_what_lies_beside_it_is_known(binary: Path, folder: Path) -> None:
    """Programs are listed by name; a file that cannot be executed is checked, but no program."""
    (folder / "LICENSE").write_text("text")
    (folder / "LICENSE").chmod(0o644)
    found = judged(binary)
    assert (found.folder, found.present, found.has_sentry) == (str(folder), True, True)
    assert found.programs == ("gvisor-sentry-prewarmer", "gvisor_sentry")
    assert set(found.states) == {"", "LICENSE", *found.programs}
    (folder / "LICENSE").chmod(0o666)
    assert refused(binary, "its group or others may write it").path == str(folder / "LICENSE")


def test_there_may_be_none(binary: Path) -> None:
    """Older releases have no such folder, and some builds of new ones."""
    found = judged(binary)
    assert (found.present, found.programs, found.has_sentry) == (False, (), False)


@pytest.mark.fault("A2")
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777, 0o1775])
def test_a_folder_that_others_may_write_is_refused(mode: int, binary: Path, folder: Path) -> None:
    """Sticky or not: runsc looks for more names than there are files. The error names it."""
    folder.chmod(mode)
    error = refused(binary, "its group or others may write it")
    assert (error.path, error.mode, error.owner) == (str(folder), mode, os.geteuid())
    assert str(binary) in error.next_step
    assert "pytest-gvisor install" in error.next_step


@pytest.mark.fault("A2")
@pytest.mark.parametrize("name", ["gvisor_sentry", "gvisor-sentry-prewarmer", "of-tomorrow"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o666])
def test_a_file_that_others_may_write_is_refused(
    mode: int, name: str, binary: Path, folder: Path
) -> None:
    """Any name is refused, as a release may start the file; the error has path, mode and owner."""
    program(folder / name).chmod(mode)
    error = refused(binary, "its group or others may write it")
    assert (error.path, error.mode, error.owner) == (str(folder / name), mode, os.geteuid())
    assert f"{folder / name} (mode {mode:04o}, owner uid {os.geteuid()})" in str(error)


@pytest.mark.fault("A2")
@pytest.mark.parametrize(
    "spoil", [loosen, pytest.param(give_away, marks=needs_root)], ids=["mode", "owner"]
)
@pytest.mark.parametrize("what", ["target", "folder of the target"])
def test_a_link_is_judged_as_far_as_it_leads(
    what: str, spoil: Callable[[Path], None], binary: Path, folder: Path, tmp_path: Path
) -> None:
    """A link out is fine where each folder on the way and the file are, as for runsc itself."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    sentry = program(elsewhere / "sentry")
    (folder / "gvisor_sentry").unlink()
    (folder / "gvisor_sentry").symlink_to(sentry)
    assert judged(binary).has_sentry
    spoil(sentry if what == "target" else elsewhere)
    error = refused(binary, "")
    assert error.path == str(sentry)
    if what == "folder of the target":
        assert f"the folder {elsewhere} " in error.reason


@pytest.mark.fault("A2")
def test_a_linked_folder_is_judged_as_far_as_it_leads(
    binary: Path, folder: Path, tmp_path: Path
) -> None:
    """`gvisor-bin` may be a link to a safe folder, by links that no other user can change."""
    shared = tmp_path / "shared"
    shared.mkdir()
    target = folder.rename(tmp_path / "target")
    (shared / "middle").symlink_to(target)
    folder.symlink_to(shared / "middle")
    assert judged(binary).has_sentry
    shared.chmod(0o777)
    assert f"the folder {shared} " in refused(binary, "can be written by others").reason


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


@pytest.mark.fault("A2")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "neither a regular file nor a folder"),
        (a_socket, "neither a regular file nor a folder"),
        (a_dangling_link, "cannot be reached: No such file"),
        (a_loop, "cannot be reached: Too many levels"),
    ],
    ids=["fifo", "socket", "dangling link", "loop"],
)
def test_what_is_no_file_is_refused(
    make: Callable[[Path], None], reason: str, binary: Path, folder: Path
) -> None:
    """The error names the entry, and nothing blocks."""
    make(folder / "odd")
    assert refused(binary, reason).path == str(folder / "odd")
    shutil.rmtree(folder)
    make(folder)
    assert refused(binary, "not a folder|cannot be reached").path == str(folder)


@pytest.mark.fault("A2")
def test_what_lies_deeper_is_judged_too(binary: Path, folder: Path) -> None:
    """A folder in the folder, and a file in that one."""
    (folder / "more" / "still").mkdir(parents=True)
    deep = program(folder / "more" / "still" / "program")
    assert "more/still/program" in judged(binary).programs
    deep.chmod(0o777)
    assert refused(binary, "may write it").path == str(deep)
    deep.chmod(0o755)
    (folder / "more").chmod(0o1777)
    assert refused(binary, "may write it").path == str(folder / "more")


@pytest.mark.parametrize("shape", ["many", "deep", "endless"])
def test_the_look_is_bounded(shape: str, binary: Path, folder: Path) -> None:
    """More than 256 entries, folders in folders and a link to the folder itself are refused."""
    if shape == "many":
        for number in range(sidecars.MOST_ENTRIES - 2):
            (folder / f"f{number}").touch(0o644)
        assert len(judged(binary).states) == sidecars.MOST_ENTRIES + 1
        (folder / "one-more").touch(0o644)
    elif shape == "deep":
        (folder / "/".join("abcdef")).mkdir(parents=True)
    else:
        (folder / "self").symlink_to(".")
    refused(binary, "it holds more than 256 entries, or folders 4 deep")


@needs_root
def test_a_folder_that_cannot_be_read_cannot_be_judged(as_user: AsUser, open_tmp: Path) -> None:
    """An ordinary user does not know which files runsc would find in the folder."""
    shutil.copy("/bin/true", open_tmp / "runsc")
    (open_tmp / "gvisor-bin").mkdir()
    (open_tmp / "gvisor-bin").chmod(0o711)
    name, message = as_user(f"result = refusal(locate.find, {str(open_tmp / 'runsc')!r})")
    assert name == "InsecureRunsc"
    assert f"{open_tmp / 'gvisor-bin'} " in message
    assert "cannot be read" in message


@needs_root
def test_a_folder_on_a_noexec_mount_is_refused(binary: Path, folder: Path) -> None:
    """Runsc could not start a file there, and its own error would not name the mount."""
    told = refusal_on_noexec(folder, binary, binary)
    assert told == f"{folder} its file system is mounted noexec\n"


@pytest.mark.fault("A2")
def test_an_insecure_sidecar_ends_the_search(
    binary: Path, folder: Path, fake_runsc: FakeRunsc
) -> None:
    """The error is "insecure", and no later runsc is taken."""
    other = fake_runsc()
    loosen(folder / "gvisor_sentry")
    with pytest.raises(InsecureRunsc):
        locate.find(trusted=[str(binary), str(other)])


def test_the_folder_beside_the_real_file_counts(binary: Path, folder: Path, tmp_path: Path) -> None:
    """runsc looks where /proc/self/exe leads, and not beside a link to itself."""
    away = tmp_path / "away"
    (away / "gvisor-bin").mkdir(parents=True)
    (away / "gvisor-bin").chmod(0o777)
    (away / "runsc").symlink_to(binary)
    assert judged(away / "runsc").folder == str(folder)
    loosen(folder)
    refused(away / "runsc", "may write it")


def test_behind_a_nix_wrapper_it_is_the_real_binary_s(
    binary: Path, folder: Path, tmp_path: Path
) -> None:
    """The wrapper is read and not executed, so the files beside it do not matter."""
    (tmp_path / "gvisor-bin").mkdir()
    (tmp_path / "gvisor-bin").chmod(0o777)
    wrapper = tmp_path / "runsc"
    wrapper.write_text(f'#!/bin/sh\nexec -a "$0" "{binary}" "$@"\n')
    wrapper.chmod(0o755)
    assert judged(wrapper, nix_store=str(tmp_path)).folder == str(folder)
    loosen(folder / "gvisor_sentry")
    error = refused(wrapper, "may write it", nix_store=str(tmp_path))
    assert error.path == str(folder / "gvisor_sentry")


# --- after it was judged


def unlink_sentry(folder: Path) -> Path:
    (folder / "gvisor_sentry").unlink()
    return folder / "gvisor_sentry"


def replace_sentry(folder: Path) -> Path:
    shutil.copy2(folder / "gvisor_sentry", folder.parent / "copy")
    (folder.parent / "copy").rename(folder / "gvisor_sentry")
    return folder / "gvisor_sentry"


def loosen_prewarmer(folder: Path) -> Path:
    loosen(folder / "gvisor-sentry-prewarmer")
    return folder / "gvisor-sentry-prewarmer"


def write_sentry(folder: Path) -> Path:
    """Overwrite the sentry in place, with its size and times as before."""
    sentry = folder / "gvisor_sentry"
    before = sentry.stat()
    with sentry.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"evil")
    os.utime(sentry, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sentry.stat().st_size == before.st_size
    return sentry


def add_program(folder: Path) -> Path:
    return program(folder / "gvisor_sentry_plugin_stack")


def swap_folder(folder: Path) -> Path:
    folder.rename(folder.parent / "old")
    shutil.copytree(folder.parent / "old", folder)
    return folder


def remove_folder(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def loosen_folder(folder: Path) -> Path:
    loosen(folder)
    return folder


def replace_runsc(folder: Path) -> Path:
    """Replace runsc as an upgrade does: the descriptor's file stays, and finds no sidecars."""
    shutil.copy2(folder.parent / "runsc", folder.parent / "new")
    (folder.parent / "new").rename(folder.parent / "runsc")
    return folder.parent / "runsc"


def loosen_way(folder: Path) -> Path:
    loosen(folder.parent)
    return folder.parent / "runsc"


@pytest.mark.fault("A7")
@pytest.mark.parametrize(
    "change",
    [unlink_sentry, replace_sentry, loosen_prewarmer, write_sentry, add_program, swap_folder,
     remove_folder, loosen_folder, replace_runsc, loosen_way],
)  # fmt: skip
def test_a_change_after_judging_is_seen(
    change: Callable[[Path], Path], binary: Path, folder: Path
) -> None:
    """The next start is refused, and the error names the changed file."""
    runsc = Runsc.find(str(binary))
    runsc.check_unchanged()
    changed = change(folder)
    with pytest.raises(InsecureRunsc, match="it changed after it was checked") as caught:
        runsc.check_unchanged()
    assert re.sub(r" \(deleted\)$", "", caught.value.path) == str(changed)
    runsc.close()


@pytest.mark.fault("A7")
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_that_appears_is_a_change(mode: int, binary: Path) -> None:
    """An unchecked file in a new folder would be started."""
    runsc = Runsc.find(str(binary))
    runsc.check_unchanged()
    (binary.parent / "gvisor-bin").mkdir()
    (binary.parent / "gvisor-bin").chmod(mode)
    with pytest.raises(InsecureRunsc, match="changed after it was checked") as caught:
        runsc.check_unchanged()
    assert caught.value.path == str(binary.parent / "gvisor-bin")
    runsc.close()


@pytest.mark.fault("A7")
def test_a_link_that_is_turned_is_a_change(binary: Path, folder: Path, tmp_path: Path) -> None:
    """The link's new target breaks no rule, but it is not the checked file."""
    sentry = (folder / "gvisor_sentry").rename(tmp_path / "sentry")
    (folder / "gvisor_sentry").symlink_to(sentry)
    runsc = Runsc.find(str(binary))
    runsc.check_unchanged()
    (tmp_path / "spare").symlink_to(program(tmp_path / "other"))
    (tmp_path / "spare").rename(folder / "gvisor_sentry")
    with pytest.raises(InsecureRunsc, match="changed after it was checked"):
        runsc.check_unchanged()
    runsc.close()


def test_a_tree_that_is_moved_as_a_whole_is_the_same(binary: Path, folder: Path) -> None:
    """Runsc and the check find the files at the new place; another folder there counts too."""
    runsc = Runsc.find(str(binary))
    there = binary.parent.rename(binary.parent.parent / "there")
    runsc.check_unchanged()
    loosen(there / folder.name / "gvisor_sentry")
    with pytest.raises(InsecureRunsc, match="changed after it was checked"):
        runsc.check_unchanged()
    runsc.close()


def test_a_release_that_looks_for_none_is_not_looked_at_again(good: Path) -> None:
    """A new file beside an older release does not matter."""
    runsc = Runsc.find(str(good))
    assert not runsc.uses_sidecars
    (good.parent / "gvisor-bin").mkdir()
    (good.parent / "gvisor-bin").chmod(0o777)
    runsc.check_unchanged()
    runsc.close()


@pytest.mark.fault("A7")
def test_others_must_not_be_able_to_add_the_folder(binary: Path, good: Path, folder: Path) -> None:
    """In a sticky folder such as /tmp everybody can put a `gvisor-bin` beside a runsc."""
    binary.parent.chmod(0o1777)
    Runsc.find(str(binary)).close()  # there is one, and it is ours
    shutil.rmtree(folder)
    with pytest.raises(InsecureRunsc, match="others could put gvisor-bin beside it") as caught:
        Runsc.find(str(binary))
    assert f"the folder {binary.parent} (mode 1777)" in caught.value.reason
    good.parent.chmod(0o1777)
    Runsc.find(str(good)).close()  # an older release looks for none


@pytest.mark.fault("G6")
def test_a_shortage_of_descriptors_is_typed(binary: Path, folder: Path) -> None:
    """A shortage is no fault of the files in the folder."""
    runsc = Runsc.find(str(binary))
    with spare_descriptors(3), pytest.raises(LaunchError, match="EMFILE"):
        runsc.check_unchanged()
    runsc.check_unchanged()
    runsc.close()


def test_the_fingerprint_is_of_the_sidecars_too(binary: Path, folder: Path) -> None:
    """Runsc with another sentry has another fingerprint."""
    shutil.rmtree(folder)
    prints = []
    with contextlib.closing(Runsc.find(str(binary))) as alone:
        assert alone.fingerprint == alone.sha256
    for _ in range(2):
        folder.mkdir(exist_ok=True)
        program(folder / "gvisor_sentry")
        with contextlib.closing(Runsc.find(str(binary))) as runsc:
            assert runsc.sha256 == alone.sha256
            prints.append(runsc.fingerprint)
    assert len({alone.sha256, *prints}) == 3


@pytest.mark.parametrize("text", ["2026-08-10", "2026-09-05", ""])
def test_a_build_of_a_time_with_sidecars_looks_for_them(text: str) -> None:
    """The flag or the date decides, or the lack of both."""
    date = dt.date.fromisoformat(text) if text else None
    assert sidecars.looked_for((), date)
    assert sidecars.looked_for(["sidecar-usage-policy"], dt.date(2024, 7, 29))
    assert not sidecars.looked_for(["root"], dt.date(2024, 7, 29))


# --- one release


def test_no_hook_can_turn_it_off() -> None:
    """The flag is refused with one or two dashes; the policy for missing files stays the user's."""
    known = {"sidecar-release-enforcement-policy", "sidecar-usage-policy"}
    for dashes in ("-", "--"):
        with pytest.raises(UsageError, match="decided by a setting"):
            check_extra([f"{dashes}sidecar-release-enforcement-policy=NEVER"], known)
    assert check_extra(["--sidecar-usage-policy=STRICT"], known)


def test_doctor_says_what_lies_beside_it(binary: Path, folder: Path, good: Path) -> None:
    """The programs by name, or that the sentry inside ends; nothing of a release without them."""
    with contextlib.closing(Runsc.find(str(binary))) as runsc:
        (found,) = doctor.beside(runsc)
        assert (found.name, found.state) == ("sidecars", "good")
        assert found.detail == f"gvisor-sentry-prewarmer, gvisor_sentry in {folder}, trusted"
    (folder / "gvisor_sentry").unlink()
    for _ in range(2):
        with contextlib.closing(Runsc.find(str(binary))) as runsc:
            (found,) = doctor.beside(runsc)
            assert (found.name, found.state) == ("sidecars", "note")
            assert f"no gvisor_sentry in {folder}" in found.detail
            assert "after October 2026" in found.detail
            assert "`pytest-gvisor install`" in found.next_step
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.closing(Runsc.find(str(good))) as runsc:
        assert [*doctor.beside(runsc)] == []


@pytest.mark.parametrize("name", ["GVISOR_SIDECAR_BINARIES_DIR", "GVISOR_ENFORCE_RELEASE"])
def test_a_question_has_no_variable_that_chooses_a_sentry(
    name: str, fake_runsc: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of this process does not reach a question."""
    monkeypatch.setenv(name, "SKIP")
    says = f'printf("runsc version %s\\n", getenv("{name}") ? getenv("{name}") : "unset")'
    with contextlib.closing(Runsc.find(str(fake_runsc(version=says)))) as runsc:
        assert runsc.version == "unset"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_installed_passes(umask: int, good: Path, tmp_path: Path) -> None:
    """Under any umask, and with the widest modes in the archive."""
    with tarfile.open(tmp_path / "made.tar.bz2", "w:bz2") as tar:
        for name in ("runsc", "gvisor-bin/gvisor_sentry", "gvisor-bin/gvisor-sentry-prewarmer"):
            member = tar.gettarinfo(good, name)
            member.mode = 0o6777
            with good.open("rb") as file:
                tar.addfile(member, file)
    with masked(umask):
        unpack.unpack(str(tmp_path / "made.tar.bz2"), str(tmp_path / "home"))
    found = judged(tmp_path / "home" / "runsc")
    assert found.programs == ("gvisor-sentry-prewarmer", "gvisor_sentry")
    assert {stat.S_IMODE(state.mode) for state in found.states.values()} == {0o755}


def test_a_program_beside_it_is_judged_by_what_it_loads(good: Path, tmp_path: Path) -> None:
    """A sentry with a folder of libraries that others can write is refused, as runsc would be."""
    open_to_all = tmp_path / "libraries"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    home = good.parent
    (home / "gvisor-bin").mkdir()
    (home / "gvisor-bin").chmod(0o755)
    sentry = home / "gvisor-bin/gvisor_sentry"
    code, argv = "int main(void) { return 0; }", ["gcc", "-x", "c", "-o", str(sentry), "-"]
    subprocess.run([*argv, f"-Wl,-rpath={open_to_all}"], input=code, text=True, check=True)
    sentry.chmod(0o755)
    with pytest.raises(InsecureRunsc, match=r"libraries .RUNPATH.: .*can be written by others"):
        locate.find(str(good))
