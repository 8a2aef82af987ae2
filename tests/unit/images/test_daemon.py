"""The requests to a docker daemon, and the results of its answers."""

import io
import json
import os
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import DaemonUnavailable, ImageError
from pytest_gvisor.images import docker
from pytest_gvisor.images.docker import Daemon, Pull
from tests.docker_daemon import Handler, serve

__all__ = ["serve"]

IDENTITY = f"sha256:{'0' * 64}"
BUILT = {"aux": {"ID": IDENTITY}}


def refusal(**options: Any) -> ImageError:
    """The error of opening the daemon."""
    with pytest.raises(ImageError) as caught, Daemon(**options):
        pass
    return caught.value


@pytest.mark.fault("H1")
def test_a_remote_daemon_that_denies_is_an_error_and_no_skip(serve: Any) -> None:
    """A remote daemon that answers with an error is no missing daemon."""
    daemon = serve("tcp")
    for status in (403, 500):
        daemon.answers["/version"] = status, {"message": "out of order"}
        error = refusal(remote=True)
        assert type(error) is ImageError
        assert f"the docker daemon at {daemon.address} cannot be used: " in error.message
        assert "out of order" in error.message


@pytest.mark.fault("H1")
@pytest.mark.parametrize(
    ("address", "environ", "says"),
    [
        ("ssh://elsewhere", {}, "paramiko"),
        ("tcp://127.0.0.1:1", {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/none"}, "TLS"),
        ("rubbish", {}, "rubbish"),
    ],
)
def test_a_remote_daemon_that_cannot_be_spoken_to_is_an_error_and_no_skip(
    monkeypatch: pytest.MonkeyPatch, address: str, environ: dict[str, str], says: str
) -> None:
    """Something is missing or wrong here: that is no missing daemon."""
    for key, value in {"DOCKER_HOST": address, **environ}.items():
        monkeypatch.setenv(key, value)
    error = refusal(remote=True)
    assert type(error) is ImageError
    assert says in error.message


@pytest.mark.fault("H1")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://no-such-host.invalid:2375"])
def test_where_nothing_listens_there_is_no_daemon(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """An unknown host or a closed port is a missing daemon."""
    monkeypatch.setenv("DOCKER_HOST", address)
    assert type(refusal(remote=True)) is DaemonUnavailable


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


@pytest.mark.fault("H1")
def test_a_look_up_elsewhere_has_the_deadline_of_simple_questions(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up has the short deadline of questions, not that of a pull."""
    daemon = serve("tcp")
    real = Handler.do_GET
    gone = threading.Event()

    def silent(handler: Handler) -> None:
        if handler.path.endswith("/json"):
            gone.wait(60)
        else:
            real(handler)

    monkeypatch.setattr(Handler, "do_GET", silent)
    with Daemon(remote=True) as opened:
        monkeypatch.setattr(docker, "DEADLINE", 1.5)
        begun = time.monotonic()
        with pytest.raises(ImageError, match=r"has not answered in 1\.5"):
            opened.find("some:1", Pull.MISSING)
        assert time.monotonic() - begun < 20
    gone.set()
    assert daemon.requests[0] == "GET /version"


@pytest.mark.fault("H5")
def test_a_build_s_context_is_a_file_without_a_name(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGKILL leaves no file; files of .dockerignore are not sent, the Dockerfile always is."""
    daemon = serve()
    daemon.answers["POST /v1.41/build"] = 200, BUILT
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", None)
    context = tmp_path / "context"
    (context / "d").mkdir(parents=True)
    for name in ("Dockerfile", "kept", "secret", "d/secret", "d/kept"):
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("# a comment\n\n**/secret\nDockerfile\n")
    (tmp_path / "Other").write_text("FROM scratch")
    with Daemon() as opened:
        assert opened.build(str(context), dockerfile="Dockerfile", args={}) == IDENTITY
        assert opened.build(str(context), dockerfile="../Other", args={}) == IDENTITY
        for wrong in (context / "kept", context / "none"):
            with pytest.raises(ImageError, match=r"cannot be built: .* is not a folder"):
                opened.build(str(wrong), dockerfile="Dockerfile", args={})
    sent = [body for line, body in daemon.asked if line.endswith("/build")]
    labels = [json.loads(query["labels"]) for query in daemon.queries if "labels" in query]
    assert labels == [{"dev.pytest-gvisor": "1"}] * 2
    with tarfile.open(fileobj=io.BytesIO(sent[0])) as first:
        assert sorted(first.getnames()) == [".dockerignore", "Dockerfile", "d", "d/kept", "kept"]
    with tarfile.open(fileobj=io.BytesIO(sent[1])) as second:
        name = next(name for name in second.getnames() if name.startswith(".dockerfile."))
        inner = second.extractfile(name)
        assert inner is not None
        assert inner.read() == b"FROM scratch"
    assert sorted(os.listdir(tmp_path)) == ["Other", "context"]


@pytest.mark.parametrize("name", [".dockerignore", "Dockerfile", "../Elsewhere"])
def test_a_fifo_in_a_build_s_context_holds_nothing_up(
    serve: Any, tmp_path: Path, name: str
) -> None:
    """A checkout may have one, and its open would wait for a writer."""
    serve()
    (tmp_path / "context").mkdir()
    os.mkfifo(tmp_path / "context" / name)
    with Daemon() as opened, pytest.raises(ImageError, match="is not a regular file"):
        opened.build(str(tmp_path / "context"), dockerfile=name, args={})


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
