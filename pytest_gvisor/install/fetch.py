"""Files over HTTP, bounded in size and time: a server may be slow, silent, endless or wrong.

Redirects go to https alone. Plain http is for a server on the loopback that the user has named.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from pytest_gvisor import bounded_http
from pytest_gvisor.bounded_http import Deadline, connecting
from pytest_gvisor.errors import InstallFailed, InstallTimeout, UsageError
from pytest_gvisor.escape import escape

if TYPE_CHECKING:
    from http.client import HTTPMessage

SILENCE = 20.0
"""Seconds that a connection, or the next bytes, may take."""

_NEXT = "Try again later, or give another --base-url."

Progress = Callable[[int, int | None], None]
"""Is told how many bytes have come, and of how many where that is known."""


class NotThere(InstallFailed):
    """The server has no such file."""


class Client:
    """A client of one server with one deadline for all its requests."""

    def __init__(self, base_url: str, *, timeout: float, silence: float = SILENCE) -> None:
        """Take ``timeout`` in seconds for everything together. Raises `UsageError`."""
        self.base_url = base_url.rstrip("/")
        self._until = time.monotonic() + timeout
        self._timeout = timeout
        self._silence = silence
        parts = _parsed(base_url)
        local = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if not local and (parts.scheme != "https" or not parts.hostname):
            raise UsageError(
                f"--base-url {base_url!r} is neither https://… nor http:// to this machine's "
                "loopback"
            )
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({} if local else None),
            _Handler(Deadline(until=self._until, silence=silence)),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(local=local),
        ):
            self._opener.add_handler(handler)

    def left(self) -> float:
        """Return the seconds left for everything."""
        return max(0.0, self._until - time.monotonic())

    def text(self, path: str, limit: int) -> str:
        """Fetch a small file. Raises the errors of `save`."""
        return b"".join(self._pieces(path, limit, lambda *_: None)).decode("utf-8", "replace")

    def save(self, path: str, file: IO[bytes], limit: int, progress: Progress) -> None:
        """Write a file of at most ``limit`` bytes to ``file``.

        Raises `NotThere`, and `InstallFailed` for all else that can go wrong.
        """
        for piece in self._pieces(path, limit, progress):
            file.write(piece)

    def _pieces(self, path: str, limit: int, progress: Progress) -> Iterator[bytes]:
        url = f"{self.base_url}/{path}"
        with self._telling(url, limit), self._open(url) as response:
            whole, come = bounded_http.announced(response), 0
            progress(0, whole)
            for piece in bounded_http.pieces(response, limit):
                yield piece
                come += len(piece)
                progress(come, whole)
                self._check(url)

    def _check(self, url: str) -> None:
        if time.monotonic() >= self._until:
            raise InstallTimeout(
                f"{url} did not come within the {self._timeout:g} s for everything",
                next_step="Give it longer with --timeout.",
            )

    @contextlib.contextmanager
    def _telling(self, url: str, limit: int) -> Iterator[None]:
        try:
            yield
        except bounded_http.TooLarge:
            raise InstallFailed(f"{url} is larger than {limit} bytes", next_step=_NEXT) from None
        except bounded_http.CutOff as error:
            raise InstallFailed(f"{url} was {error}", next_step=_NEXT) from None
        except urllib.error.HTTPError as error:
            error.close()
            kind = NotThere if error.code in {404, 410} else InstallFailed
            what = f"{error.code} {escape(str(error.reason))}"
            raise kind(f"{url}: the server answers {what}", next_step=_NEXT) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._check(url)
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                why = f"the server was silent for {self._silence:g} s"
            else:
                why = escape(str(reason)) or type(reason).__name__
            raise InstallFailed(f"{url}: {why}", next_step=_NEXT) from error

    def _open(self, url: str) -> http.client.HTTPResponse:
        self._check(url)
        # What comes is compared byte by byte with a digest: as it is, and not compressed.
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
        opened = self._opener.open(request, timeout=max(0.001, min(self._silence, self.left())))
        assert isinstance(opened, http.client.HTTPResponse)
        return opened


def _parsed(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not an address: {error}") from None
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections whose answers come within a deadline."""

    def __init__(self, deadline: Deadline) -> None:
        urllib.request.HTTPSHandler.__init__(self)
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(connecting(http.client.HTTPConnection, self._deadline), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(connecting(http.client.HTTPSConnection, self._deadline), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and between servers on the loopback."""

    def __init__(self, *, local: bool) -> None:
        self._local = local

    def redirect_request(  # noqa: PLR0917 -- the base class's
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        parts = _parsed(newurl)
        local = self._local and parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if parts.scheme != "https" and not local:
            fp.close()
            raise InstallFailed(
                f"{req.full_url} redirects to {escape(newurl)}, which is not https",
                next_step="Give the --base-url of a server that serves the files itself.",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
