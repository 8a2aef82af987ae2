"""The requests to a docker daemon, and the results of its answers."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images.docker import Daemon, Pull
from pytest_gvisor.images.streams import DEFAULT_LIMITS
from tests.docker_daemon import Handler, serve

__all__ = ["serve"]

IDENTITY = f"sha256:{'0' * 64}"


def refusal() -> ImageError:
    """The error of opening the daemon."""
    with pytest.raises(ImageError) as caught, Daemon():
        pass
    return caught.value


def test_a_configuration_that_cannot_be_read_is_not_the_daemon_s_fault(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the configuration."""
    serve()
    (tmp_path / "config.json").write_text('{"auths": {"registry": "no object"}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    error = refusal()
    assert type(error) is ImageError
    assert error.message.startswith("the docker SDK cannot be used: ")
    assert "DOCKER_CONFIG" in error.next_step


def test_a_full_disk_says_where_an_export_is_kept(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is of the temporary file, though few bytes do not go into it."""
    serve().answers[f"GET /v1.41/images/{IDENTITY}/get"] = 200, b"x"
    full = functools.partial(open, "/dev/full", "w+b")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with (
        Daemon() as daemon,
        pytest.raises(ImageError, match="temporary file: No space left") as caught,
        daemon.export(IDENTITY, DEFAULT_LIMITS),
    ):
        pass
    assert "TMPDIR" in caught.value.next_step


@pytest.mark.fault("H1")
def test_who_says_no_version_of_the_api_is_no_daemon(serve: Any) -> None:
    """The version is the first question; an answer without one is another server's."""
    daemon = serve()
    with Daemon():
        assert daemon.requests == ["GET /version"]
    wrongs: list[Any] = [{}, [], {"ApiVersion": 7}, b"{"]
    for wrong in wrongs:
        daemon.answers["/version"] = 200, wrong
        assert "is no docker daemon" in refusal().message


@pytest.mark.fault("H1")
def test_a_daemon_s_redirect_is_not_followed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect leads to no other server, and out of no deadline."""
    daemon = serve()

    def elsewhere(handler: Handler) -> None:
        handler.server.asked.append((handler.path, b""))
        handler.send_response(302)
        handler.send_header("Location", "http://elsewhere/version")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_GET", elsewhere)
    assert "is no docker daemon: Exceeded 0 redirects" in refusal().message
    assert daemon.requests == ["/version"]


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("a", ("a", "latest")), ("a:1", ("a", "1")), ("h:5/a", ("h:5/a", "latest")),
        ("h:5/a:1", ("h:5/a", "1")), ("a@sha256:0", ("a", "sha256:0")),
    ],
)  # fmt: skip
def test_a_pull_is_of_one_tag_or_digest(serve: Any, reference: str, parts: tuple[str, str]) -> None:
    """A reference without a tag has the tag latest, and a registry's port is no tag."""
    daemon = serve()
    daemon.answers |= {
        "POST /v1.41/images/create": (200, ({"status": "done"},)),
        "/json": (200, {"Id": IDENTITY}),
    }
    with Daemon() as opened:
        assert opened.find(reference, Pull.ALWAYS) == IDENTITY
    asked = [query for query in daemon.queries if query]
    assert asked == [{"fromImage": parts[0], "tag": parts[1]}]


def test_an_answer_of_more_bytes_than_any_is_an_error(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short question's answer is bounded; of a pull, each event is, and not their sum."""
    daemon = serve()
    events = ({"status": "x" * 10_000},) * 50
    daemon.answers |= {"POST /v1.41/images/create": (200, events), "/json": (200, {"Id": IDENTITY})}
    monkeypatch.setattr("pytest_gvisor.images.daemon_socket._MAX_BYTES", 200_000)
    with Daemon() as opened:
        assert opened.find("a", Pull.ALWAYS) == IDENTITY
        daemon.answers["/json"] = 200, b'{"Id": ' + b" " * 300_000
        with pytest.raises(ImageError, match="an answer of more than 200000 bytes"):
            opened.find("a", Pull.MISSING)
