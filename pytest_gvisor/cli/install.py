"""``pytest-gvisor install``: runsc from gVisor's release bucket."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TextIO

from pytest_gvisor.cli import parse, usage
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.escape import escape
from pytest_gvisor.install import place, release
from pytest_gvisor.install.fetch import SILENCE, Client
from pytest_gvisor.install.place import Installed
from pytest_gvisor.runsc import locate

if TYPE_CHECKING:
    import argparse
    from types import FrameType

_MIB = 1024 * 1024
_EVERY = 0.2


def parser() -> argparse.ArgumentParser:
    """The subcommand's options."""
    made = usage.parser(
        "install",
        description="Fetches runsc from gVisor's release bucket and compares it with its SHA-512. "
        "Then tries it and puts it in place in one step. Root's goes to /usr/local/bin, another "
        "user's to ~/.local/bin.",
        statuses={
            "0": "runsc is in place",
            "1": "the release cannot be had, or is not what it should be; nothing has changed",
            "124": "the deadline passed; nothing has changed",
        },
        examples=(
            "pytest-gvisor install",
            "pytest-gvisor install --release 20260714 --to /opt/gvisor",
        ),
    )
    made.add_argument(
        "--release", default="latest", metavar="R", help="latest (default), YYYYMMDD or YYYYMMDD.N"
    )
    made.add_argument("--to", metavar="DIR", help="the folder for runsc")
    made.add_argument(
        "--base-url", metavar="URL",
        help="a mirror of the bucket with the same layout; https, or http on the loopback "
        f"(default: {release.BASE_URL})",
    )  # fmt: skip
    made.add_argument(
        "--timeout", type=parse.seconds, default=900.0, metavar="SECONDS",
        help="deadline of the whole (default: 900); of a download, "
        f"{SILENCE:g} s of silence end it too",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """Install runsc and print the result. Raises `InstallFailed` and `UsageError`."""
    given = parser().parse_args(arguments)
    name = release.release_name(given.release)
    client = Client(given.base_url or release.BASE_URL, timeout=given.timeout)
    folder = given.to or place.folder_for(os.geteuid(), os.path.expanduser("~"))
    # Their default ends the process on the spot, and what is half there would stay.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with Bar(sys.stderr) as bar:
        done = release.install(client, name, folder, bar.show)
    for line in describe(done):
        print(line)
    return 0


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def describe(done: Installed) -> list[str]:
    """Describe the installed runsc, and whether the plugin finds it."""
    link = f" (a link to {done.real})" if done.real != done.path else ""
    lines = [f"runsc {escape(done.version)} is at {done.path}{link}"]
    if done.previous:
        lines.append(f"The release before it is still in {done.previous}; remove it when you like.")
    try:
        found = locate.find()
    except GvisorError as error:
        lines.append(f"The search does not find it: {error.message}")
    else:
        found.close()
        if os.path.samefile(found.path, done.real):
            return lines
        lines.append(f"The search finds {found.path} before it.")
    where = os.path.dirname(done.path)
    lines.append(f"Name it with pytest's --gvisor-runsc={done.path}, or put {where} first in PATH.")
    return lines


class Bar:
    """A progress bar for a download; shows nothing outside of a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shows = stream.isatty()
        self._last = -math.inf
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            print(file=self._stream)

    def show(self, come: int, whole: int | None) -> None:
        """Show the number of bytes so far, and the total if it is known."""
        text = f"{come / _MIB:.1f} MiB"
        if whole:
            text = f"{come / _MIB:.1f} of {whole / _MIB:.1f} MiB, {100 * come // whole} %"
        now = time.monotonic()
        if not self._shows or (come != whole and now - self._last < _EVERY):
            return
        self._last = now
        self._open = True
        print(f"\r{text:<60}", end="", file=self._stream, flush=True)
