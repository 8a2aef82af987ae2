"""A mirror of gVisor's bucket that its user has named, and its answers against that user."""

import bz2
import contextlib
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.base.errors import InstallFailed, InstallTimeout
from pytest_gvisor.install import release
from pytest_gvisor.install import unpack as unpacking
from pytest_gvisor.install.fetch import Client
from pytest_gvisor.runsc.binary import Runsc
from tests.bucket import Bucket, a_small_runsc, archive, served


@pytest.fixture
def mirror() -> Iterator[Bucket]:
    """The mirror, on the loopback."""
    with served() as made:
        yield made


def get(mirror: Bucket, name: str, folder: Path) -> str:
    """The version that is installed when this release is asked for."""
    client = Client(mirror.url, timeout=60.0)
    return release.install(client, name, str(folder)).version


@pytest.mark.parametrize("kind", ["file", "archive"])
def test_another_release_under_the_name_of_the_one_asked_for_is_refused(
    mirror: Bucket, tmp_path: Path, kind: str
) -> None:
    """An older runsc with a correct digest is not installed as the requested release."""
    data = a_small_runsc(tmp_path)
    file = "runsc" if kind == "file" else "gvisor.tar.bz2"
    served = data if kind == "file" else archive(runsc=data)
    for name in ("20230102", "20230102.0", "latest"):
        mirror.put(file, served, release=name)
    for name in ("20230102", "20230102.0"):
        with pytest.raises(InstallFailed, match=f"asked for release {name}, the server gave runsc"):
            get(mirror, name, tmp_path / "to")
        assert os.listdir(tmp_path / "to") == []
    installed = get(mirror, "latest", tmp_path / "to")
    with contextlib.closing(Runsc.find(str(tmp_path / "to/runsc"))) as runsc:
        assert installed == runsc.version


MEASURED = """
import sys
from pytest_gvisor.base.errors import InstallFailed
from pytest_gvisor.install import unpack

try:
    unpack.unpack(sys.argv[1], sys.argv[2])
except InstallFailed as error:
    print(error.message)
with open("/proc/self/status") as lines:
    print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
BOMB_MIB = 200


def bomb(kind: str) -> bytes:
    """Many MiB in some kilobytes: the content of a member, or a header in front of one."""
    member = tarfile.TarInfo("runsc" if kind == "runsc" else "else")
    member.size = BOMB_MIB << 20
    if kind == "name":
        member.type, member.name = tarfile.GNUTYPE_LONGNAME, "././@LongLink"
    elif kind == "header":
        member.type, member.name = tarfile.XHDTYPE, "PaxHeaders/runsc"
    # A stream of its own for each MiB: all of them are the same bytes.
    return bz2.compress(member.tobuf(tarfile.GNU_FORMAT)) + BOMB_MIB * bz2.compress(bytes(1 << 20))


@pytest.mark.parametrize("kind", ["runsc", "other", "name", "header"])
def test_a_bomb_is_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    """The installer holds only some chunks of an archive in memory, also of a header."""
    (tmp_path / "gvisor.tar.bz2").write_bytes(bomb(kind))
    paths = [str(tmp_path / "gvisor.tar.bz2"), str(tmp_path / "home")]
    argv = [sys.executable, "-c", MEASURED, *paths]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300)
    told, peak = done.stdout.splitlines()
    assert told.startswith("the archive cannot be read: ")
    assert int(peak) < (BOMB_MIB << 10) // 2, f"{peak} KiB"


def test_the_deadline_is_of_unpacking_too(
    mirror: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is of everything, and does not end with the download."""
    monkeypatch.setattr(unpacking, "unpack", lambda *_: threading.Event().wait(60))
    mirror.put("gvisor.tar.bz2", archive(runsc=b"x"))
    client = Client(mirror.url, timeout=1.0)
    with pytest.raises(InstallTimeout, match="--timeout"):
        release.install(client, "latest", str(tmp_path / "to"))
    assert os.listdir(tmp_path / "to") == []
