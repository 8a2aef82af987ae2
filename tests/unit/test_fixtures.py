"""The builds of fixtures/make.py by their need; the tests of images use the results."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures import make
from fixtures.dockerd import NoDaemon
from tests.archives import CASES


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of fixtures/, and archives that seem to have been made of it."""
    copy = tmp_path / "fixtures"
    shutil.copytree(make.FIXTURES, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(make, "FIXTURES", copy)
    monkeypatch.setattr(make, "ARCHIVES", tmp_path / "images")
    make.ARCHIVES.mkdir()
    for name in make.names():
        (make.ARCHIVES / f"{name}.tar").touch()
        (make.ARCHIVES / f"{name}.stamp").write_text(make.stamp(name))
    return copy


def test_every_fixture_image_has_a_run_that_is_compared() -> None:
    """Each image has a run that is compared with docker's, on each platform."""
    assert make.names() == sorted(case.name for case in CASES)


def test_only_what_has_changed_is_built(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is built if its sources have changed or its archive is missing."""
    built: list[str] = []

    @contextmanager
    def daemon() -> Iterator[str]:
        yield "unix:///none"

    monkeypatch.setattr(make, "daemon", daemon)
    monkeypatch.setattr(make, "build", lambda name, _address: built.append(name))
    assert make.main() == 0
    assert built == []
    (place / "server/page").write_text("another page\n")
    (make.ARCHIVES / "users.tar").unlink()
    assert make.main() == 0
    assert built == ["server", "users"]


def test_no_daemon_and_a_failed_build_are_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1, and no image counts as made."""
    (place / "server/page").write_text("another page\n")

    def fail(*_: object) -> Iterator[str]:
        raise NoDaemon("there is none")

    monkeypatch.setattr(make, "daemon", fail)
    assert make.main() == 1
    assert capsys.readouterr().err == "images: there is none\n"

    def refuse(*_: object) -> Iterator[str]:
        raise subprocess.CalledProcessError(1, ["docker", "build"], stderr=b"no space")

    monkeypatch.setattr(make, "daemon", refuse)
    assert make.main() == 1
    assert capsys.readouterr().err == "images: docker build: no space\n"
    assert (make.ARCHIVES / "server.stamp").read_text() != make.stamp("server")
