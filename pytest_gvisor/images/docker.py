"""Images of a docker daemon, through the docker SDK, which is imported lazily.

The daemon is one of this machine, reached by its socket. ``DOCKER_HOST`` may name another socket,
such as podman's. A request without an answer in time is an `ImageError`. A missing daemon is
`DaemonUnavailable`, which may become a skip.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from pytest_gvisor.base.errors import DaemonUnavailable, ImageError, causes_of
from pytest_gvisor.base.escape import shown
from pytest_gvisor.base.trust import Trust, follow, way_problems
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.images.config import objects
from pytest_gvisor.images.streams import Limits, explained, write_all

DEADLINE: Final = 4.0
"""Seconds for a daemon's whole answer to a simple question."""
_SILENCE: Final = 120.0
"""Seconds without a byte from it while it pulls or exports."""
_LONGEST: Final = 3600.0
"""Seconds for a whole pull, even if the daemon keeps sending."""
_CHUNK: Final = 1024 * 1024
_MAX_MESSAGE: Final = 64 * 1024
_MAX_TEXT: Final = 500
"""Characters of a daemon's own words in an error."""
_SAVE: Final = "`docker save IMAGE -o image.tar`. Then write image='image.tar' here."


class Pull(enum.StrEnum):
    """The policy for fetching an image from its registry."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class Daemon(contextlib.AbstractContextManager["Daemon"]):
    """A daemon that answers. Use it in a ``with``."""

    def __init__(self) -> None:
        self._sdk = _sdk()
        self._address = address = os.environ.get("DOCKER_HOST", "")
        if address and not address.startswith("unix://"):
            raise ImageError(
                f"DOCKER_HOST is {shown(address)}, which is not a socket of this machine",
                next_step=f"To have an image of that daemon: {_SAVE}",
            )
        self._connect(self._sdk.docker.constants.DEFAULT_DOCKER_API_VERSION)
        self._connect(self._version())

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def find(self, reference: str, pull: Pull) -> str:
        """Return the daemon's id of an image, and pull the image if the policy says so."""
        if pull is not Pull.ALWAYS and (found := self._id(reference)):
            return found
        if pull is Pull.NEVER:
            raise ImageError("the daemon does not have it, and it is not to be pulled")
        with self._explained("cannot be pulled"), self._deadline(_LONGEST):
            _follow(self._client.api.pull(reference, stream=True, decode=True), self._heard)
        if not (found := self._id(reference)):
            raise ImageError("the daemon does not have it, though it has been pulled")
        return found

    @contextlib.contextmanager
    def export(self, identity: str, limits: Limits) -> Iterator[str]:
        """Export the image to an unnamed file, gone with this process; yield its path."""
        with contextlib.ExitStack() as undo:
            with self._explained("cannot be exported"), self._deadline(limits.max_seconds):
                file, size = undo.enter_context(tempfile.TemporaryFile(buffering=0)), 0
                for data in self._archive(identity):
                    self._heard()
                    size += len(data)
                    if size > limits.max_bytes:
                        raise ImageError(f"it holds more than {limits.max_bytes} bytes")
                    with explained("keep it in a temporary file", "TMPDIR says where."):
                        write_all(file.fileno(), data)
            yield f"/proc/self/fd/{file.fileno()}"

    def _archive(self, identity: str) -> Iterator[bytes]:
        # The SDK's own call takes the deadline off the socket.
        api = self._client.api
        url = f"{api.base_url}/v{api.api_version}/images/{identity}/get"
        with api.get(url, stream=True) as response:
            if response.status_code != 200:
                raise ImageError(f"the daemon says: {_message(response.raw.read(_MAX_MESSAGE))}")
            yield from response.iter_content(_CHUNK)

    def _connect(self, version: str) -> None:
        """Make the SDK's client. With a version, it connects to nothing yet."""
        sdk = self._sdk
        try:
            _check_config(file := sdk.docker.utils.config.find_config_file())
            # The SDK lets errors of requests, of sockets and its own through. Its `from_env` would
            # take the daemon of a context, which it looks for in the current folder where there is
            # no config.json: anybody may have put one there.
            self._client: Any = sdk.docker.DockerClient(self._address, version, DEADLINE)
            auth = sdk.docker.auth
            known = auth.load_config(file) if file else auth.AuthConfig({})
        except Exception as error:
            raise ImageError(
                f"the docker SDK cannot be used: {error}",
                next_step="It reads config.json in DOCKER_CONFIG or ~/.docker.",
            ) from error
        api = self._client.api
        # If the SDK knows nothing of any registry, it looks for a file again before a pull, and
        # another user may have made one since. So it knows of a registry without a name.
        known["auths"][""] = {}
        api._auth_configs = known
        path = api.get_adapter(api.base_url).socket_path
        adapter = sdk.Adapter(f"http+unix://{path}", DEADLINE)
        api.mount(api.base_url, adapter)
        api.max_redirects = 0  # the SDK follows them on the same socket, without the adapter
        api.trust_env = False  # a ~/.netrc may be another user's FIFO, where HOME is theirs
        self._deadline, self._heard = adapter.deadline, adapter.heard
        api.headers["Accept-Encoding"] = "identity"
        api.hooks["response"].append(sdk.refuse_compressed)
        send = api.send

        def bounded(request: Any, **options: Any) -> Any:
            # The SDK pulls without any time-out, and requests guesses the encoding of a text, which
            # takes long for a large one.
            silence = options.get("timeout") or _SILENCE
            answer = send(request, **{**options, "timeout": silence})
            answer.encoding = "utf-8"
            return answer

        api.send = bounded

    def _version(self) -> str:
        """Return the version of the daemon's API, which also shows that the daemon answers."""
        try:
            with self._deadline(DEADLINE):
                facts = objects(self._client.api.version(api_version=False), "its answer")
            version = str(facts.get("ApiVersion"))
            if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", version):
                raise OSError("it does not say which version its API has")
        except Exception as error:
            raise _unavailable(self._address, error) from error
        finally:
            self._client.close()
        return version

    def _id(self, reference: str) -> str | None:
        """Return the id of an image, or None."""
        with self._explained("cannot be looked up"):
            try:
                with self._deadline(DEADLINE):
                    facts = self._client.api.inspect_image(reference)
            except self._sdk.docker.errors.NotFound:
                return None
            except Exception as error:
                if _is_late(causes_of(error)):
                    raise _unavailable(self._address, error) from error
                raise
            return str(objects(facts, "the daemon's answer")["Id"])

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except ImageError:
            raise
        except Exception as error:
            text = getattr(error, "explanation", None) or str(error)
            raise ImageError(f"it {what}: {str(text)[:_MAX_TEXT]}") from error


def _check_config(path: str | None) -> None:
    """Raise `OSError` if another user could change the SDK's configuration.

    It names programs that the SDK starts for passwords.
    """
    if path:
        with contextlib.ExitStack() as held:
            way = follow(os.path.abspath(path), held)
            if problems := way_problems(way, Trust.here(os.geteuid(), lenient=True)):
                raise PermissionError("; ".join(problems))


def _follow(answers: Any, heard: Callable[[], None]) -> None:
    """Follow a daemon's events to their end. Raises their errors."""
    with contextlib.closing(answers):
        for answer in answers:
            heard()
            if "error" in answer:
                raise ImageError(f"the daemon says: {str(answer['error'])[:_MAX_TEXT]}")


def _message(body: bytes) -> str:
    """Return the message in a daemon's error answer."""
    try:
        return str(loads(body)["message"])[:_MAX_TEXT]
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:_MAX_TEXT]


def _sdk() -> Any:
    """Return the module that imports the docker SDK. Raises `ImageError` for a broken one."""
    try:
        # The SDK and requests take 0.1 s, which a session with images from files need not wait for.
        from pytest_gvisor.images import daemon_socket  # noqa: PLC0415
    except Exception as error:  # whatever a broken installation raises
        raise ImageError(
            f"the docker SDK cannot be imported: {type(error).__name__}: {error}",
            next_step=f"{sys.executable} -m pip install --force-reinstall docker",
        ) from error
    return daemon_socket


def _is_late(causes: Iterable[BaseException]) -> bool:
    return any("timed out" in str(cause).lower() for cause in causes)


def _unavailable(address: str, error: Exception) -> ImageError:
    """Explain why a daemon does not answer."""
    where = address or "unix:///var/run/docker.sock"
    causes = causes_of(error)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return ImageError(
            f"this user may not use the docker daemon at {where}",
            next_step=f"Join its group. Or, as a user who may: {_SAVE}",
        )
    if _is_late(causes):
        return ImageError(f"the docker daemon at {where} has not answered in {DEADLINE:g} s")
    if any(isinstance(cause, ConnectionRefusedError | FileNotFoundError) for cause in causes):
        return DaemonUnavailable(
            f"there is no docker daemon at {where}: {causes[-1]}",
            next_step=f"Start it, or set DOCKER_HOST. Or, where there is one: {_SAVE}",
        )
    return ImageError(f"what listens at {where} is no docker daemon: {causes[-1]}")
