import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.base.trust import Trust
from pytest_gvisor.runsc import elf, locate

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Compile a program with ``lib/libone.so``, with these linker flags."""
    home = tmp_path / "home"
    (home / "lib").mkdir(parents=True)
    for path in (home, home / "lib"):
        path.chmod(0o755)

    def build(*flags: str, library: bool = True) -> Path:
        code = {
            "one": "int one(void) { return 7; }",
            "runsc": "int one(void); int main(void) { return one(); }",
        }
        shared = home / "lib/libone.so"
        compile_c(code["one"], shared, "-shared", "-fPIC")
        compile_c(code["runsc"], home / "runsc", *(f"-Wl,{flag}" for flag in flags), str(shared))
        if not library:
            shared.unlink()
        return home / "runsc"

    return build


def compile_c(code: str, to: Path, *more: str) -> None:
    argv = ["gcc", "-x", "c", "-o", str(to), "-", "-x", "none", *more]
    subprocess.run(argv, input=code, text=True, check=True)
    to.chmod(0o755)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(InsecureRunsc, match=reason):
        locate.find(str(path)).close()


@pytest.mark.parametrize("tag", ["--disable-new-dtags", "--enable-new-dtags"])
@pytest.mark.parametrize("way", ["$ORIGIN/lib", "${ORIGIN}/lib", "absolute"])
def test_a_folder_of_libraries_that_others_can_write_is_refused(
    make: Make, tmp_path: Path, tag: str, way: str
) -> None:
    """RPATH and RUNPATH, sticky or not; the same folder of this user's alone is fine."""
    folder = tmp_path / "home/lib"
    runsc = make(tag, f"-rpath={folder if way == 'absolute' else way}")
    assert subprocess.run([runsc], check=False).returncode == 7  # the loader reads it so
    locate.find(str(runsc)).close()
    name = "RPATH" if "disable" in tag else "RUNPATH"
    for mode in (0o777, 0o1777, 0o775):
        folder.chmod(mode)
        refused(runsc, rf"looks for libraries in .*lib \({name}\): .*can be written by others")


def test_a_library_that_others_can_write_is_refused(make: Make, tmp_path: Path) -> None:
    """A library's mode counts, also in a folder of this user's."""
    runsc = make("-rpath=$ORIGIN/lib")
    (tmp_path / "home/lib/libone.so").chmod(0o666)
    refused(runsc, "it loads .*libone.so: its group or others may write it")


def test_a_folder_that_others_could_make_is_refused(make: Make, tmp_path: Path) -> None:
    """A missing folder is refused if others can write the folder above it."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    runsc = make(f"-rpath={tmp_path}/open/none:$ORIGIN/lib")
    refused(runsc, "open.* can be written by others")
    (tmp_path / "open").chmod(0o755)
    locate.find(str(runsc)).close()


def test_a_folder_of_better_libraries_is_judged(make: Make, tmp_path: Path) -> None:
    """The loader first looks in a subfolder for libraries for the processor."""
    runsc = make("-rpath=$ORIGIN/lib")
    better = tmp_path / "home/lib/glibc-hwcaps/x86-64-v2"
    better.mkdir(parents=True)
    locate.find(str(runsc)).close()
    better.chmod(0o777)
    refused(runsc, "x86-64-v2 .*can be written by others")


@pytest.mark.parametrize("rpath", ["", "lib", ".", "$ORIGIN/lib:", "/usr/$LIB", "/usr/${PLATFORM}"])
def test_a_folder_that_is_not_fixed_is_refused(make: Make, rpath: str) -> None:
    """The current folder, and a variable of the loader's, are no fixed folders."""
    if not rpath:
        rpath = ":"
    refused(make(f"-rpath={rpath}"), "which is no fixed folder")


def test_a_loader_that_others_can_write_is_refused(make: Make, tmp_path: Path) -> None:
    """The loader is the first program that runs."""
    done = subprocess.run(["readelf", "-l", make()], capture_output=True, text=True, check=True)
    loader = next(line for line in done.stdout.splitlines() if "interpreter:" in line)
    own = tmp_path / "loader"
    shutil.copy(loader.split(": ")[1].rstrip("]"), own)
    runsc = make(f"--dynamic-linker={own}", "-rpath=$ORIGIN/lib")
    locate.find(str(runsc)).close()
    own.chmod(0o777)
    refused(runsc, "it loads .*/loader: its group or others may write it")


def test_a_library_by_its_path_is_judged(make: Make, tmp_path: Path) -> None:
    """The linker writes the path itself for a library without a soname."""
    runsc = make()
    locate.find(str(runsc)).close()
    (tmp_path / "home/lib").chmod(0o777)
    refused(runsc, "it loads .*libone.so: .*can be written by others")


@pytest.mark.parametrize("at", [32, 56])
def test_headers_that_make_no_sense_are_no_crash(make: Make, at: int) -> None:
    """An unreadable part of a program is a reason to refuse it."""
    runsc = make("-rpath=$ORIGIN/lib")
    with runsc.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<I", 0xFFFFFFF7))
    trust = Trust.here(os.geteuid())
    with runsc.open("rb") as file:
        assert list(elf.loading_problems(file.fileno(), str(runsc), trust)) == [
            "its dynamic section cannot be read, so its libraries cannot be checked"
        ]


def test_the_loader_of_a_program_is_the_one_that_it_names(make: Make, tmp_path: Path) -> None:
    """A program without one, a script, and a program of another machine name none."""
    runsc = make("-rpath=$ORIGIN/lib", "--dynamic-linker=/opt/ld.so")
    assert elf.loader_of(str(runsc)) == "/opt/ld.so"
    compile_c("int main(void) { return 0; }", tmp_path / "static", "-static")
    assert elf.loader_of(str(tmp_path / "static")) == ""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert elf.loader_of(str(tmp_path / "script")) == ""
    data = bytearray(runsc.read_bytes())
    data[18] ^= 1  # e_machine
    (tmp_path / "other").write_bytes(data)
    assert elf.loader_of(str(tmp_path / "other")) == ""


def test_a_loader_behind_the_end_of_a_program_is_an_error(make: Make, tmp_path: Path) -> None:
    """Headers that lead nowhere raise a ValueError."""
    (tmp_path / "cut").write_bytes(make("-rpath=$ORIGIN/lib").read_bytes()[:100])
    with pytest.raises(ValueError, match="buffer"):
        elf.loader_of(str(tmp_path / "cut"))
