"""Files over HTTP, bounded in size and time: a server may be slow, silent, endless or wrong.

Redirects go to https alone. Plain http is for a server on the loopback that the user has named.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import signal
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import NoReturn

import requests

from pytest_gvisor.base.errors import InstallFailed, InstallTimeout, UsageError, causes_of
from pytest_gvisor.base.escape import escape

SILENCE = 20.0
"""Seconds that a connection, or the next bytes, may take."""

_NEXT = "Try again later, or give another --base-url."
_UNREACHED = {
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, socket.EAI_AGAIN, socket.EAI_NONAME,
}  # fmt: skip
_OFFLINE = (
    "This machine does not reach the server: set https_proxy if it needs a proxy. Else run "
    "`pytest-gvisor install --to gvisor` on a machine that does, copy the folder gvisor here "
    "(`cp -a`), and name it: `pytest --gvisor-runsc=gvisor/runsc`. On Debian 13, `apt-get install "
    "runsc` takes it from Debian's mirror."
)
_PIECE = 64 * 1024
_MAX_REDIRECTS = 10


class NotThere(InstallFailed):
    """The server gives no such file; a bucket that lists nothing refuses one that is missing."""


class Client:
    """A client of one server with one deadline for all its requests."""

    def __init__(self, base_url: str, *, timeout: float, silence: float = SILENCE) -> None:
        """Take ``timeout`` in seconds for everything together. Raises `UsageError`."""
        self._timeout = timeout
        self._silence = silence
        self._way = _way(base_url)
        if not self._way:
            raise UsageError("--base-url is neither https nor http to this machine's loopback")
        self._url = base_url.rstrip("/")
        self.base_url = requests.utils.urldefragauth(self._url)
        """The address as messages have it, without a user and a password."""

    @contextlib.contextmanager
    def deadline(self) -> Iterator[None]:
        """End the block after the client's time-out, with `InstallTimeout`, whatever it waits for.

        A time-out of requests begins anew with every byte, and a server may send one at a time. So
        the end is a signal: for the command line tool, in its main thread.
        """

        def end(*_: object) -> NoReturn:
            raise InstallTimeout(
                f"the release of {self.base_url} did not come within the {self._timeout:g} s for "
                "everything",
                next_step="Give it longer with --timeout.",
            )

        before = signal.signal(signal.SIGALRM, end)
        # A process inherits a mask, and its parent may have blocked the signal.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
        # Once more each second: Python ignores an exception that is raised in a finalizer.
        signal.setitimer(signal.ITIMER_REAL, self._timeout, 1)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def pieces(self, path: str, limit: int) -> Iterator[bytes]:
        """Yield a file of at most ``limit`` bytes.

        Raises `NotThere`, and `InstallFailed` for all else that can go wrong.
        """
        url = f"{self.base_url}/{path}"
        with self._telling(url), self._session() as session, self._open(session, url) as response:
            if response.status_code != 200:
                kind = NotThere if response.status_code in {403, 404, 410} else InstallFailed
                what = f"{response.status_code} {escape(str(response.reason))}"
                raise kind(f"{url}: the server answers {what}", next_step=_NEXT)
            # A digest is of the bytes as they come, whatever the server says of them.
            response.raw.headers.discard("Content-Encoding")
            # Before its version 2, urllib3 takes a part for the whole.
            response.raw.enforce_content_length = True
            come, whole = 0, response.raw.length_remaining
            for piece in itertools.chain([b""], response.iter_content(_PIECE)):
                come += len(piece)
                if max(come, whole or 0) > limit:
                    raise InstallFailed(f"{url} is larger than {limit} bytes", next_step=_NEXT)
                yield piece

    @contextlib.contextmanager
    def _telling(self, url: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # those of requests are among them
            cause = causes_of(error)[-1]
            why = escape(str(cause)) or type(cause).__name__
            if isinstance(cause, TimeoutError):
                why = f"the server was silent for {self._silence:g} s"
            offline = isinstance(cause, OSError) and cause.errno in _UNREACHED
            step = _OFFLINE if offline else _NEXT
            raise InstallFailed(f"{url}: {why}", next_step=step) from error

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = self._way == "https"  # proxies, and the variables of certificates
        session.auth = _signed  # and nobody's password of ~/.netrc
        store = ssl.get_default_verify_paths()
        session.verify = store.cafile or store.capath or True
        session.headers["Accept-Encoding"] = "identity"
        return session

    def _open(self, session: requests.Session, url: str) -> requests.Response:
        where = self._url + url.removeprefix(self.base_url)
        for _ in range(_MAX_REDIRECTS):
            response = session.get(where, stream=True, allow_redirects=False, timeout=self._silence)
            target = session.get_redirect_target(response)
            if target is None:
                return response
            response.close()
            where = urllib.parse.urljoin(where, target)
            if _way(where) not in {"https", self._way}:
                raise InstallFailed(
                    f"{url} redirects to {escape(where)}, which is not https",
                    next_step="Give the --base-url of a server that serves the files itself.",
                )
        raise InstallFailed(f"{url} redirects more than {_MAX_REDIRECTS} times", next_step=_NEXT)


def _way(url: str) -> str:
    """The way to an address: ``https``, ``http`` on the loopback, or none that may be gone."""
    with contextlib.suppress(ValueError):
        # As requests reads it: another reader may see another host in the same text.
        parts = urllib.parse.urlsplit(requests.Request("GET", url).prepare().url)
        local = parts.scheme == "http" and _is_loopback(str(parts.hostname))
        if local or (parts.scheme == "https" and parts.hostname):
            return str(parts.scheme)
    return ""


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _signed(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send the user and the password that the address itself has: a redirect elsewhere has none."""
    user = requests.utils.get_auth_from_url(str(request.url))
    return requests.auth.HTTPBasicAuth(*user)(request) if any(user) else request
