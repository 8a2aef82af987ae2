"""Nix: sealed files of any owner, and wrappers that are read and never run."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.runsc import locate
from tests.unit.runsc.conftest import STRANGER, needs_root

# --- what a wrapper names


@pytest.mark.parametrize(
    "line",
    [
        'exec -a "$0" "/nix/store/abc-gvisor/bin/.runsc-wrapped"  "$@"',
        "exec -a '$0' '/nix/store/abc-gvisor/bin/.runsc-wrapped' \"$@\"",
        'exec -a runsc /nix/store/abc-gvisor/bin/.runsc-wrapped "$@"',
        'exec "/nix/store/abc-gvisor/bin/.runsc-wrapped" "$@"',
        'exec /nix/store/abc-gvisor/bin/.runsc-wrapped "$@"',
        "exec   /nix/store/abc-gvisor/bin/.runsc-wrapped",
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\n\n# the end\n"])
def test_a_wrapper_names_its_binary(line: str, end: str) -> None:
    """Quoted or bare, with or without another argv[0], the path is read."""
    script = f"#! /nix/store/bash/bin/bash -e\nexport PATH=/x\n{line}{end}"
    found = locate.named_binary(script.encode())
    assert found == ("/nix/store/abc-gvisor/bin/.runsc-wrapped", None)


def test_the_last_exec_counts() -> None:
    """The last of several lines that begin with `exec ` names the binary."""
    script = b"#!/bin/sh\nexec /a/runsc\nexec /b/runsc\n  exec /c/runsc\n"
    assert locate.named_binary(script) == ("/b/runsc", None)


@pytest.mark.parametrize(
    "line",
    [
        "exec runsc", "exec ./runsc", 'exec "$out/bin/runsc"', 'exec "/nix/$(id)/runsc"',
        "exec /nix/`id`/runsc", "exec /nix/store/bash/bin/bash", "exec /bin/sh -c /nix/store/runsc",
        "exec env /nix/store/runsc", 'exec "/nix/store/runsc', "exec /nix/store/runsc\"x\"",
        "exec /nix/store/runsc;id", "exec /nix/store/runsc*", "exec -c /nix/store/runsc", "exec -a",
        "exec ", "exec /nix/store/runsc\\", "exec /nix/st\0re/runsc",
    ],
)  # fmt: skip
def test_what_names_no_plain_path_is_no_wrapper(line: str) -> None:
    """A relative, computed, unclosed or glued path is not guessed at."""
    path, problem = locate.named_binary(f"#!/bin/sh\n{line}\n".encode())
    assert not path
    assert problem


@pytest.mark.parametrize("script", [b"", b"exec /a/runsc", b"#!/bin/sh\n", b"#!/bin/sh\nexecute"])
def test_a_script_has_an_interpreter_and_an_exec(script: bytes) -> None:
    """A script without an interpreter or an exec is no wrapper."""
    path, problem = locate.named_binary(script)
    assert not path
    assert problem


def test_a_wrapper_has_4096_bytes_at_most() -> None:
    """A script of the limit's size is read, one byte more is not."""
    script = b"#!/bin/sh\nexec /a/runsc\n".ljust(locate.WRAPPER_LIMIT, b"#")
    assert locate.named_binary(script) == ("/a/runsc", None)
    path, problem = locate.named_binary(script + b"#")
    assert not path
    assert "more than 4096 bytes" in str(problem)


@pytest.mark.parametrize(
    ("wrapper", "target", "allowed"),
    [
        ("/nix/store/a/bin/runsc", "/nix/store/b/bin/.runsc-wrapped", True),
        ("/nix/store/a/bin/runsc", "/nix/store/b/bin/bash", False),
        ("/nix/store/a/bin/runsc", "/usr/bin/runsc", False),
        ("/nix/store/a/bin/runsc", "/nix/storeb/runsc", False),
        ("/usr/bin/runsc", "/nix/store/b/bin/runsc", False),
        ("/opt/g/runsc", "/opt/g/runsc.real", True),
        ("/opt/g/runsc", "/opt/h/runsc", False),
        ("/opt/g/runsc", "/opt/g/sh", False),
    ],
)
def test_a_wrapper_may_name_a_runsc_of_its_store_or_folder(
    wrapper: str, target: str, allowed: bool
) -> None:
    """A wrapper that names another program, or a runsc elsewhere, is refused."""
    assert locate.may_name(wrapper, target) is allowed


# --- with real files


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store as Nix makes it: sticky and group-writable, with sealed content."""
    folder = tmp_path / "nix" / "store"
    folder.mkdir(parents=True)
    folder.chmod(0o1775)
    yield folder
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o755)


def package(store: Path, name: str, **contents: bytes | Path) -> Path:
    """A package with files in `bin`, sealed as Nix seals; gives its `bin` folder."""
    binaries = store / name / "bin"
    binaries.mkdir(parents=True)
    for key, content in contents.items():
        place = binaries / key.replace("__", ".").replace("_", "-")
        if isinstance(content, Path):
            shutil.copyfile(content, place)
        else:
            place.write_bytes(content)
        place.chmod(0o555)
    binaries.chmod(0o555)
    binaries.parent.chmod(0o555)
    return binaries


def wrapper_of(path: Path | str) -> bytes:
    return f'#! /bin/sh -e\nexport PATH\nexec -a "$0" "{path}"  "$@" \n'.encode()


def found(path: Path, store: Path) -> str:
    judged = locate.find(str(path), nix_store=str(store))
    judged.close()
    return judged.path


def test_a_profile_link_leads_through_the_wrapper(store: Path, good: Path, tmp_path: Path) -> None:
    """The link of a profile, the wrapper and a link in the store come to the canonical binary."""
    binary = package(store, "a-gvisor", runsc=good) / "runsc"
    (tmp_path / "alias").symlink_to(binary.parent)
    bin_ = package(store, "b-runsc", runsc=wrapper_of(tmp_path / "alias" / "runsc"))
    (tmp_path / "profile").symlink_to(bin_)
    assert found(tmp_path / "profile" / "runsc", store) == str(binary)


@pytest.mark.fault("A9")
def test_a_wrapper_is_never_executed(store: Path, good: Path, tmp_path: Path) -> None:
    """The wrapper's other commands do not run."""
    marker = tmp_path / "marker"
    binary = package(store, "a-gvisor", runsc=good) / "runsc"
    script = wrapper_of(binary).replace(b"export PATH", f"touch {marker}".encode())
    assert found(package(store, "b", runsc=script) / "runsc", store) == str(binary)
    assert not marker.exists()


def test_a_wrapper_outside_the_store_names_its_neighbour(good: Path, store: Path) -> None:
    """A wrapper in any folder may name the runsc beside it, in its own folder only."""
    wrapper = good.with_name("wrapper-runsc")
    wrapper.write_bytes(wrapper_of(good))
    wrapper.chmod(0o755)
    assert found(wrapper, store) == str(good)
    other = good.parent / "sub" / "runsc"
    other.parent.mkdir()
    shutil.copy(good, other)
    wrapper.write_bytes(wrapper_of(other))
    with pytest.raises(InsecureRunsc, match="own folder or store"):
        found(wrapper, store)


@pytest.mark.fault("A9")
def test_a_wrapper_that_climbs_out_is_refused(store: Path, tmp_path: Path) -> None:
    """`/…/runsc-x/../../bin/sh` contains runsc and is a shell: the canonical file counts."""
    (tmp_path / "runsc-x").mkdir()
    up = "/".join([".."] * len((tmp_path / "runsc-x").parts[1:]))
    script = wrapper_of(f"{tmp_path}/runsc-x/{up}/bin/sh")
    wrapper = package(store, "a", runsc=script) / "runsc"
    with pytest.raises(InsecureRunsc, match="own folder or store") as caught:
        found(wrapper, store)
    assert caught.value.path == str(wrapper)
    assert caught.value.mode == 0o555
    assert caught.value.owner == os.geteuid()


def test_a_wrapper_and_what_it_names_are_judged(store: Path, good: Path) -> None:
    """A wrapper is refused that others may write, and one whose binary breaks a rule."""
    binary = package(store, "a", runsc=good) / "runsc"
    wrapper = package(store, "b", runsc=wrapper_of(binary)) / "runsc"
    for culprit, mode, told in ((binary, 0o4555, "set-uid"), (wrapper, 0o757, "may write it")):
        culprit.chmod(mode)
        with pytest.raises(InsecureRunsc, match=told) as caught:
            found(wrapper, store)
        assert caught.value.path == str(culprit)


def test_a_wrapper_of_nothing_is_refused(store: Path) -> None:
    """A wrapper that names a missing file is insecure and not \"not found\"."""
    wrapper = package(store, "b", runsc=wrapper_of(store / "gone" / "runsc")) / "runsc"
    with pytest.raises(InsecureRunsc, match="does not exist"):
        found(wrapper, store)


def test_a_wrapper_of_a_wrapper_is_refused(store: Path, good: Path) -> None:
    """One step is followed, not a chain of scripts."""
    binary = package(store, "a", runsc=good) / "runsc"
    first = package(store, "b", runsc=wrapper_of(binary)) / "runsc"
    second = package(store, "c", runsc=wrapper_of(first)) / "runsc"
    with pytest.raises(InsecureRunsc, match="another script"):
        found(second, store)


def give_away(store: Path, name: str) -> None:
    """Make the package another user's, as a store looks that somebody else installed."""
    for path, _, files in os.walk(store / name):
        for entry in [path, *(os.path.join(path, file) for file in files)]:
            os.chown(entry, STRANGER, STRANGER)


@needs_root
def test_any_owner_is_trusted_with_what_nobody_can_write(store: Path, good: Path) -> None:
    """In the store any user may own a file without write bits in a folder without any."""
    binary = package(store, "a", runsc=good) / "runsc"
    give_away(store, "a")
    assert found(binary, store) == str(binary)
    with pytest.raises(InsecureRunsc, match="owned by uid"):
        found(binary, store / "elsewhere")


@needs_root
@pytest.mark.parametrize("part", ["runsc", "bin", "package"])
def test_a_write_bit_in_the_store_ends_the_exception(part: str, store: Path, good: Path) -> None:
    """A write bit on the file, its folder or the package makes the owner count again."""
    binary = package(store, "a", runsc=good) / "runsc"
    give_away(store, "a")
    place = {"runsc": binary, "bin": binary.parent, "package": binary.parent.parent}[part]
    place.chmod(0o755)
    with pytest.raises(InsecureRunsc, match=r"owned by uid|neither root's"):
        found(binary, store)


@needs_root
def test_a_file_right_in_the_store_is_no_package(store: Path, good: Path) -> None:
    """The store's own folder can be written, so a file directly in it is not sealed."""
    binary = store / "a-runsc"
    shutil.copyfile(good, binary)
    binary.chmod(0o555)
    os.chown(binary, STRANGER, STRANGER)
    with pytest.raises(InsecureRunsc, match="owned by uid"):
        found(binary, store)


@needs_root
def test_a_store_of_a_third_user_is_refused(store: Path, good: Path) -> None:
    """The owner of the store's folder can exchange all of it, so that user must be trusted."""
    binary = package(store, "a", runsc=good) / "runsc"
    os.chown(store, STRANGER, STRANGER)
    with pytest.raises(InsecureRunsc, match="neither root's"):
        found(binary, store)
