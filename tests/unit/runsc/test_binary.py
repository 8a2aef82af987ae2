"""`Runsc`: one value with everything about a validated binary."""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import InsecureRunsc, RunscFailed, RunscNotFound
from pytest_gvisor.runsc import binary, locate
from pytest_gvisor.runsc.binary import Runsc
from tests.unit.runsc.conftest import FakeRunsc


def test_it_is_frozen_and_says_little(good: Path) -> None:
    """No field can be set, and the repr is one readable line."""
    runsc = Runsc.find(str(good))
    with pytest.raises(dataclasses.FrozenInstanceError):
        runsc.path = "/bin/sh"  # type: ignore[misc]
    assert repr(runsc).startswith(f"Runsc(path='{good}', version='")
    assert "fd=" not in repr(runsc)
    runsc.close()


def test_close_can_be_called_twice(good: Path) -> None:
    """The second call does not close a descriptor that somebody else got meanwhile."""
    runsc = Runsc.find(str(good))
    runsc.close()
    with open(os.devnull) as other:
        os.dup2(other.fileno(), runsc.fd)
    runsc.close()
    os.close(runsc.fd)
    with pytest.raises(InsecureRunsc, match="closed"):
        runsc.check_unchanged()


@pytest.mark.fault("A1")
def test_a_refused_binary_is_not_started(fake_runsc: FakeRunsc, tmp_path: Path) -> None:
    """A file that all may write does not execute at all."""
    marker = tmp_path / "marker"
    path = fake_runsc(version=f'creat("{marker}", 0600); puts("runsc version 1")')
    path.chmod(0o777)
    with pytest.raises(InsecureRunsc):
        Runsc.of(locate.find(trusted=[str(path)]))
    euid = os.geteuid() or 12345
    with pytest.raises(InsecureRunsc):
        Runsc.of(locate.find(trusted=(), search_path=str(path.parent), euid=euid))
    with pytest.raises(RunscNotFound):
        Runsc.of(locate.find(trusted=(), search_path=str(path.parent), euid=0))
    assert not marker.exists()
    path.chmod(0o755)
    Runsc.find(str(path)).close()
    assert marker.exists()


def test_a_binary_that_cannot_be_asked_leaves_nothing(fake_runsc: FakeRunsc) -> None:
    """The descriptor is closed if the features cannot be read."""
    with pytest.raises(RunscFailed):
        Runsc.find(str(fake_runsc(version='puts("no")')))


@pytest.mark.fault("A7")
@pytest.mark.parametrize("change", ["longer", "as long, its times put back", "mode"])
def test_a_change_after_judging_is_seen(change: str, good: Path) -> None:
    """Overwritten in place or made writable by others: before the next start that is known."""
    runsc = Runsc.find(str(good))
    runsc.check_unchanged()
    before = good.stat()
    if change != "mode":
        with good.open("r+b") as file:
            file.seek(0 if change == "longer" else -4, os.SEEK_END)
            file.write(b"evil")
        if change != "longer":
            os.utime(good, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert good.stat().st_size == before.st_size
    else:
        good.chmod(0o777)
    with pytest.raises(InsecureRunsc, match="changed after it was checked") as caught:
        runsc.check_unchanged()
    assert caught.value.path == str(good)
    runsc.close()


@pytest.mark.fault("A6")
@pytest.mark.parametrize("change", ["rename over", "remove"])
def test_what_happens_to_the_path_changes_nothing(
    change: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checked file can be started by its descriptor after its path changes.

    Its content is read again once, and not before each start from then on.
    """
    runsc = Runsc.find(str(good))
    if change == "remove":
        good.unlink()
    else:
        shutil.copy("/bin/true", tmp_path / "other")
        (tmp_path / "other").rename(good)
    digest = Mock(wraps=binary._sha256)
    monkeypatch.setattr(binary, "_sha256", digest)
    for _ in range(3):
        runsc.check_unchanged()
    digest.assert_called_once_with(runsc.path, runsc.fd)
    assert (
        hashlib.sha256(Path(f"/proc/self/fd/{runsc.fd}").read_bytes()).hexdigest() == runsc.sha256
    )
    runsc.close()
