"""A docker daemon that says too much, bytes that are no text, or nothing any more half-way."""

import gzip
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import docker
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.images.store import Images
from pytest_gvisor.images.streams import Limits
from tests.docker_daemon import Serving, serve

__all__ = ["serve"]

MIB = 1024 * 1024
IN_TIME = 50
"""Seconds: the silent daemon would hang up after 60."""
IDENTITY = f"sha256:{'0' * 64}"
FOUND = json.dumps({"Id": IDENTITY}).encode()

TRUNCATED = "the archive ends in the middle: it is truncated$"

over = threading.Event()
"""Set while no test runs: who is silent then ends."""

Answer = tuple[Any, ...]


def once(data: bytes) -> Answer:
    """An answer of these bytes."""
    return 200, data


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def daemon(serve: Callable[[], Serving]) -> Iterator[dict[str, Answer]]:
    """The answers of a daemon that has every image, to be changed."""
    answers = serve().answers
    answers["/json"] = once(FOUND)
    over.clear()
    yield answers
    over.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent daemon is waited for two seconds; a busy one may take longer than these."""
    monkeypatch.setattr(docker, "_SILENCE", 2.0)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull may take two seconds in all."""
    monkeypatch.setattr(docker, "_LONGEST", 2.0)


@pytest.fixture
def images(tmp_path: Path, temporary: Path) -> Iterator[Images]:
    """Images with a cache of their own, which is empty afterwards."""
    made = Images(Cache(str(tmp_path / "cache")))
    yield made
    made.close()
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_dir()]
    assert left == []
    assert list(temporary.iterdir()) == []


def refused(images: Images, says: str, **options: Any) -> None:
    """Check that the image is an `ImageError`, in time."""
    started = time.monotonic()
    with pytest.raises(ImageError, match=says) as caught:
        images.rootfs("some/image:1", **options)
    assert time.monotonic() - started < IN_TIME
    assert caught.value.image == "some/image:1"


def endless() -> Iterator[bytes]:
    """Bytes without an end."""
    return itertools.repeat(b"\xff" * MIB)


def silent() -> Iterator[bytes]:
    """A beginning, and then nothing, until the test is over."""
    yield b"x"
    over.wait(60)


def broken_off() -> Iterator[bytes]:
    """A piece of a tar archive."""
    yield b"manifest.json".ljust(100, b"\0")


@pytest.mark.fault("H6")
def test_an_export_without_end_is_cut_off(daemon: dict[str, Answer], images: Images) -> None:
    """An export is cut off at the limit for an image, and its files are removed."""
    daemon["/get"] = 200, endless
    refused(images, "holds more than", limits=Limits(max_bytes=64 * MIB))


@pytest.mark.fault("H6")
@pytest.mark.parametrize("path", ["/version", "/json", "/create", "/get"])
def test_a_compressed_answer_is_not_read(
    daemon: dict[str, Answer], images: Images, path: str
) -> None:
    """A few kilobytes cannot become gigabytes in memory: no answer is decompressed."""
    daemon.update({"/create": once(b"{}\n"), "/get": once(b"no archive")})
    daemon[path] = (200, gzip.compress(b"{}"), ("Content-Encoding", "gzip, gzip"))
    refused(images, "the answer is compressed", pull="always")


def trickle() -> Iterator[bytes]:
    """A piece of an event or an archive each twentieth second, for longer than a test waits."""
    for _ in range(IN_TIME * 20 + 200):
        if over.wait(0.05):
            return
        yield b" "


@pytest.mark.fault("H6")
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/create", trickle, "pulled: .*timed out"),
        ("/create", endless, "pulled: .*more than 16777216 bytes"),
        ("/get", trickle, "exported: .*timed out"),
    ],
    ids=["pull-trickle", "pull-flood", "export-trickle"],
)
def test_a_daemon_that_is_never_silent_is_an_error_in_time(
    daemon: dict[str, Answer], images: Images, path: str, body: object, says: str
) -> None:
    """A pull and an export have a deadline, and each event of a pull has a bound of its size."""
    daemon.update({"/create": once(b"{}\n"), path: (200, body)})
    refused(images, says, pull="always", limits=Limits(max_seconds=2))


@pytest.mark.fault("H6")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"\xff\xfe\0", "it cannot be looked up: Expecting value"),
        (b"[]", "the daemon's answer is not an object$"),
        (b"null", "the daemon's answer is not an object$"),
        (b"7", "the daemon's answer is not an object$"),
        (b'{"Id": null}', 'the id "None" is no digest$'),
        (b'{"Id": "sha256:../../../victim"}', 'the id "../../../victim" is no digest$'),
        (b'{"Id": "/victim"}', 'the id "/victim" is no digest$'),
        (b"[" * 100_000, "it cannot be looked up: .*recursion"),
        (b"", "it cannot be looked up: Expecting value"),
    ],
    ids=["bytes", "list", "null", "number", "no id", "climbing", "absolute", "deep", "nothing"],
)
def test_an_answer_that_makes_no_sense_is_an_error(
    daemon: dict[str, Answer], images: Images, canary: Path, answer: bytes, says: str
) -> None:
    """A nonsensical answer is an image error, and no id leads out of the cache."""
    daemon["/json"] = once(answer)
    daemon["/get"] = once(b"no archive")
    refused(images, f"^image some/image:1: {says}")


@pytest.mark.fault("H6")
@pytest.mark.parametrize(
    ("events", "says"),
    [
        (b"\xff\0\xfe\n", "it cannot be pulled: Expecting value"),
        (b"7\n[]\nnull\n", "it cannot be pulled: Extra data: line 2"),
        (b'{"error": "no \\u001b[2J"}\n', r"the daemon says: no \\x1b\[2J$"),
        (b'{"stream": 7}\n' * 9, "it cannot be pulled: Extra data: line 2"),
        (b'{"stream": 7}\n', TRUNCATED),
        (b"7\n", "it cannot be pulled: argument of type 'int' is not "),
    ],
    ids=["bytes", "no objects", "error", "many", "one", "number"],
)
def test_events_of_a_pull_that_make_no_sense_are_an_error(
    daemon: dict[str, Answer], images: Images, events: bytes, says: str
) -> None:
    """Nonsensical events are an error, unless the daemon has the image after them."""
    daemon["/create"] = once(events)
    daemon["/get"] = once(b"no archive")
    refused(images, f"^image some/image:1: {says}", pull="always")


@pytest.mark.fault("H1", "H4")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("when", "body", "says"),
    [
        ("/create", (200, broken_off), "it cannot be pulled: Expecting value"),
        ("/create", (200, silent), "it cannot be pulled: .*Read timed out"),
        ("/get", (200, broken_off), TRUNCATED),
        ("/get", (200, silent), "it cannot be exported: .*Read timed out"),
    ],
    ids=["pull-breaks off", "pull-falls silent", "export-breaks off", "export-falls silent"],
)
def test_a_daemon_that_stops_half_way_is_an_error_in_time(
    daemon: dict[str, Answer], images: Images, when: str, body: Answer, says: str
) -> None:
    """An incomplete download is no image; the next try begins anew."""
    pulled = once(b'{"status": "pulled"}\n')
    daemon.update({"/create": pulled, "/get": once(b"no archive"), when: body})
    for _ in range(2):
        refused(images, f"^image some/image:1: {says}", pull="always")
