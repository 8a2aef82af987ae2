"""Images of a docker daemon, through the docker SDK: the only module that imports it, lazily.

A daemon of this machine, by its socket; ``DOCKER_HOST`` names another one (podman's, for instance),
and one on another machine only where that is asked for. Whatever it does not answer in time is an
`ImageError`; that there is none is `DaemonUnavailable`, which may become a skip.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self

from pytest_gvisor.errors import ImageError
from pytest_gvisor.images.knock import knock, nobody
from pytest_gvisor.images.progress import Meter, Tell
from pytest_gvisor.images.streams import Limits
from pytest_gvisor.oci.reader import shown

DEADLINE: Final = 4.0
"""Seconds for a daemon's answer to a simple question."""
_SILENCE: Final = 600.0
"""Seconds without a word from it while it pulls, builds or exports."""
_SOCKET: Final = "/var/run/docker.sock"
_LABEL: Final = "dev.pytest-gvisor"


class Pull(enum.StrEnum):
    """When an image is fetched from its registry."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class Daemon:
    """A daemon that has answered. Use it in a ``with``."""

    def __init__(self, *, remote: bool = False, tell: Tell | None = None) -> None:
        import docker  # type: ignore[import-untyped]  # noqa: PLC0415 -- only for who uses it

        self._errors = docker.errors
        address = os.environ.get("DOCKER_HOST", "")
        if address and not address.startswith("unix://") and not remote:
            raise ImageError(
                f"DOCKER_HOST is {shown(address)}, which is not a socket of this machine",
                next_step="If that is meant: gvisor_image(…, remote=True).",
            )
        self._tell = tell
        if not address or address.startswith("unix://"):
            knock(address.removeprefix("unix://") or _SOCKET, DEADLINE)
        try:
            self._client: Any = docker.DockerClient.from_env(timeout=DEADLINE)
            self._client.ping()
        except Exception as error:
            # The SDK lets errors of requests, of sockets and its own through.
            raise _unavailable(address, error) from error
        self._client.api.timeout = _SILENCE
        # The SDK lifts the deadline from what it streams as bytes, and has none for a pull or a
        # build: with a daemon that falls silent they would be for ever.
        self._client.api._disable_socket_timeout = lambda _socket: None
        self._answers: list[Any] = []
        self._client.api.send = functools.partial(self._send, self._client.api.send)

    def _send(self, send: Callable[..., Any], request: Any, **options: Any) -> Any:
        """The daemon's answer to one request, which is kept: the SDK closes none half-way."""
        options["timeout"] = options.get("timeout") or self._client.api.timeout
        self._answers.append(send(request, **options))
        return self._answers[-1]

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        for answer in self._answers:
            answer.close()
        self._client.close()

    def find(self, reference: str, pull: Pull) -> str:
        """The daemon's id of an image, which is pulled if the policy says so."""
        if pull is not Pull.ALWAYS and (found := self._id(reference)):
            return found
        if pull is Pull.NEVER:
            raise ImageError("the daemon does not have it, and it is not to be pulled")
        with self._explained("cannot be pulled"):
            repository, tag = _taken_apart(reference)
            answers = self._client.api.pull(repository, tag=tag, stream=True, decode=True)
            with Meter(self._tell, f"pulling {reference}") as meter:
                _follow(answers, meter.pulled)
        if not (found := self._id(reference)):
            raise ImageError("the daemon does not have it, though it has been pulled")
        return found

    def build(self, path: str, *, dockerfile: str, args: Mapping[str, str]) -> str:
        """Build an image; the daemon's id of it."""
        with self._explained("cannot be built"):
            answers = self._client.api.build(
                path=path,
                dockerfile=dockerfile,
                buildargs=dict(args),
                labels={_LABEL: "1"},
                rm=True,
                forcerm=True,
                decode=True,
            )
            with Meter(self._tell, f"building {path}") as meter:
                built = [answer["aux"]["ID"] for answer in _follow(answers, meter.built)]
        if not built:
            raise ImageError("the daemon has built nothing")
        return str(built[-1])

    def prune(self) -> list[str]:
        """Remove images of ours that have no name and no container; the ids of what was removed.

        Nothing without our label is touched, nor an image that somebody has given a name.
        """
        with self._explained("cannot be removed"):
            filters = {"dangling": True, "label": _LABEL}
            answer = self._client.api.prune_images(filters=filters)
        removed = answer.get("ImagesDeleted") or []
        return [str(entry["Deleted"]) for entry in removed if "Deleted" in entry]

    @contextlib.contextmanager
    def export(self, identity: str, limits: Limits) -> Iterator[str]:
        """The path of an archive of the image: of a file without a name, gone with this process."""
        with tempfile.TemporaryFile() as file:
            size = 0
            with (
                self._explained("cannot be exported"),
                Meter(self._tell, f"exporting {identity}") as meter,
            ):
                for data in self._client.api.get_image(identity):
                    size += len(data)
                    meter.moved(len(data))
                    if size > limits.max_bytes:
                        raise ImageError(f"it holds more than {limits.max_bytes} bytes")
                    file.write(data)
                file.flush()
            yield f"/proc/self/fd/{file.fileno()}"

    def _id(self, reference: str) -> str | None:
        with self._explained("cannot be looked up"):
            try:
                return str(self._client.api.inspect_image(reference)["Id"])
            except self._errors.ImageNotFound:
                return None

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ImageError, KeyboardInterrupt):
            raise
        except Exception as error:
            text = getattr(error, "explanation", None) or str(error)
            raise ImageError(f"it {what}: {text}") from error


def _follow(answers: Any, seen: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """What a daemon reports, to its end, and what it has made last; an error in it is one."""
    made: list[dict[str, Any]] = []
    with contextlib.closing(answers):
        for answer in answers:
            if "error" in answer:
                raise ImageError(f"the daemon says: {answer['error']}")
            seen(answer)
            if "aux" in answer:
                made = [answer]
    return made


def _unavailable(address: str, error: Exception) -> ImageError:
    """What is wrong with a daemon that does not answer."""
    where = address or f"unix://{_SOCKET}"
    causes = list(_chain(error))
    if any("timed out" in str(cause).lower() for cause in causes):
        return ImageError(f"the docker daemon at {where} has not answered in {DEADLINE:g} s")
    if where.startswith("unix://"):
        return ImageError(f"what listens at {where} is no docker daemon: {causes[-1]}")
    return nobody(where, str(causes[-1]))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, also where that is only among its arguments."""
    found: BaseException | None = error
    for _ in range(20):
        if found is None:
            return
        yield found
        inner = [part for part in found.args if isinstance(part, BaseException)]
        found = found.__cause__ or found.__context__ or (inner[0] if inner else None)


def _taken_apart(reference: str) -> tuple[str, str]:
    """Repository and tag or digest, ``latest`` where there is neither."""
    if "@" in reference:
        repository, _, digest = reference.partition("@")
        return repository, digest
    before, colon, tag = reference.rpartition(":")
    return (before, tag) if colon and "/" not in tag else (reference, "latest")
