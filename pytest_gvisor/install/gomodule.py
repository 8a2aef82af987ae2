"""A build of runsc from gVisor's Go module, checked by Go's checksum database.

The result is a folder of its own with ``runsc``. It has the same build once more as
``gvisor-bin/gvisor_sentry``, from which runsc boots its sandboxes. Where Go keeps what it fetched
and compiled is left to Go: the next build takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from pytest_gvisor.errors import InstallFailed, InstallTimeout, UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.install import place, toolchain
from pytest_gvisor.install.place import BINARY, Installed
from pytest_gvisor.sessions import guarded

if TYPE_CHECKING:
    import subprocess

MODULE = "gvisor.dev/gvisor"
TESTED = "v0.0.0-20260905035102-160fafc42237"
"""The newest version of the module that the suite has passed with."""

GO_NEEDED = (1, 26, 3)
"""Of `TESTED`; of another version its go.mod says so, and Go in its words."""

_NO_GO = (0, 0, 0)
_FORM = re.compile(
    r"v\d+\.\d+\.\d+(?:-(?:[0-9A-Za-z]+\.)*(?P<date>\d{8})\d{6}-(?P<commit>[0-9a-f]{12}))?",
    re.ASCII,
)
_SENTRY = "gvisor-bin/gvisor_sentry"
_TICK = 0.2
_PIECE = 64 * 1024
_KEPT = 8
_NAME = re.compile(r"[\w./~+-]+", re.ASCII)
_FETCHED = "go: downloading "

Progress = Callable[[str], None]
"""Is told what is being done, several times a second."""


def version_name(text: str) -> str:
    """Return a version of the module in Go's form. Raises `UsageError`."""
    if text == "latest":
        return TESTED
    if not _FORM.fullmatch(text):
        raise UsageError(
            f"--release {text!r} is no version of a Go module: vX.Y.Z, or a pseudo-version as "
            f"{TESTED}"
        )
    return text


def label(version: str) -> str:
    """Return the build's own name: its date, and a mark that it is no release of gVisor's."""
    found = _FORM.fullmatch(version)
    if found and found["date"]:
        return f"{found['date']}-module-{found['commit']}"
    return f"module-{version}"


def install(
    version: str,
    folder: str,
    progress: Progress,
    *,
    timeout: float,
    environ: Mapping[str, str] = os.environ,
) -> Installed:
    """Build ``version`` and install it in ``folder``, in the manner of `place.put`.

    Raises `InstallFailed`, and `InstallTimeout` after ``timeout`` seconds. Everything that was
    started is dead then; where this process is killed, within a second.
    """
    until = time.monotonic() + timeout
    needed = GO_NEEDED if version == TESTED else _NO_GO
    go = toolchain.find(needed, environ=environ, until=until)

    def make(staging: str) -> str:
        build = _Build(go, version, progress, until)
        with build.running(os.path.join(staging, "go"), timeout) as built:
            return _arrange(built, os.path.join(staging, "release"))

    return place.put(folder, make)


def _arrange(built: str, release: str) -> str:
    """Arrange the build like a release of gVisor's, with modes independent of the umask."""
    binary, sentry = (os.path.join(release, name) for name in (BINARY, _SENTRY))
    for made in (release, os.path.dirname(sentry)):
        os.mkdir(made)
        os.chmod(made, 0o755)
    os.rename(built, binary)
    shutil.copyfile(binary, sentry)
    for made in (binary, sentry):
        os.chmod(made, 0o755)
    return binary


class _Build:
    """A run of ``go install``, with its output read as it comes."""

    def __init__(
        self, go: toolchain.Toolchain, version: str, progress: Progress, until: float
    ) -> None:
        self._go = go
        self._version = version
        self._progress = progress
        self._until = until
        self._started = time.monotonic()
        self._fetched = self._compiled = 0
        self._said: list[str] = []
        self._rest = b""

    @contextlib.contextmanager
    def running(self, folder: str, timeout: float) -> Iterator[str]:
        """Build in the new ``folder``, removed afterwards; yield the binary's path there."""
        os.makedirs(os.path.join(folder, "tmp"))
        with self._warden(folder) as process:
            assert process.stdout is not None and process.stderr is not None  # noqa: PT018
            told = self._follow(process.stdout.fileno(), process.stderr.fileno())
            built = os.path.join(folder, "bin", BINARY)
            if told == "late":
                raise InstallTimeout(
                    f"the build of {MODULE} was not done within the {timeout:g} s for everything"
                    + self._words(),
                    next_step="Give it longer with --timeout; what is compiled already is kept.",
                )
            if told != "0":
                raise InstallFailed(
                    f"go could not build {MODULE}@{self._version} "
                    f"({f'status {told}' if told else 'it was killed'}){self._words()}",
                    next_step="A module proxy must be reachable (GOPROXY). "
                    + toolchain.wanted(GO_NEEDED),
                )
            if not os.path.isfile(built) or os.path.islink(built):
                raise InstallFailed(
                    f"go said that it has built {MODULE}@{self._version}, and made no runsc",
                    next_step=toolchain.wanted(GO_NEEDED),
                )
            yield built

    def _warden(self, folder: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        name = f"-X {MODULE}/runsc/version.version={label(self._version)}"
        go = [self._go.path, "install", "-v", "-ldflags", name]
        # Standard output is the warden's, for its answer.
        command = ["/bin/sh", "-c", 'exec "$@" >&2', "sh", *go, f"{MODULE}/runsc@{self._version}"]
        tmp, made = os.path.join(folder, "tmp"), os.path.join(folder, "bin")
        return guarded.start(
            command,
            folder,
            seconds=max(0.001, self._until - time.monotonic()),
            env={**self._go.env, "GOBIN": made, "TMPDIR": tmp},
            cwd=folder,
        )

    def _follow(self, told: int, said: int) -> str:
        """Read until the warden reports the end; return its report, ``""`` if it was killed."""
        answer = b""
        reading = [told, said]
        while told in reading:
            ready = select.select(reading, [], [], _TICK)[0]
            for fd in ready:
                piece = os.read(fd, _PIECE)
                if not piece:
                    reading.remove(fd)
                elif fd == told:
                    answer += piece
                else:
                    self._take(piece)
            self._progress(self._state())
        while said in reading and select.select([said], [], [], 0)[0]:
            if not (piece := os.read(said, _PIECE)):
                break
            self._take(piece)
        self._take(b"\n")
        return answer.decode("ascii", "replace")

    def _take(self, piece: bytes) -> None:
        *lines, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[-_PIECE:]
        for raw in lines:
            line = raw[:1000].decode("utf-8", "replace").rstrip()
            if line.startswith(_FETCHED):
                self._fetched += 1
            elif _NAME.fullmatch(line):
                self._compiled += 1
            elif line:
                self._said = [*self._said, line][-_KEPT:]

    def _state(self) -> str:
        seconds = time.monotonic() - self._started
        return f"{seconds:.0f} s, {self._fetched} modules fetched, {self._compiled} packages built"

    def _words(self) -> str:
        return "".join(f"\n  {escape(line)}" for line in self._said)
