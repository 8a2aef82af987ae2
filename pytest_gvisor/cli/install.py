"""``pytest-gvisor install``: runsc from gVisor's release bucket."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.cli import parsers
from pytest_gvisor.install import place, release
from pytest_gvisor.install.fetch import SILENCE, Client
from pytest_gvisor.runsc import locate


def parser() -> parsers.Parser:
    """The subcommand's options."""
    made = parsers.Parser(
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
        "--timeout", type=parsers.seconds, default=900.0, metavar="SECONDS",
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
    parsers.exit_on_signals()  # else what is half there would stay
    for line in describe(release.install(client, name, folder)):
        print(line)
    return 0


def describe(done: place.Installed) -> list[str]:
    """Describe the installed runsc, and whether the plugin finds it."""
    link = f" (a link to {done.real})" if done.real != done.path else ""
    lines = [f"runsc {escape(done.version)} is at {done.path}{link}"]
    try:
        found = locate.find()
    except GvisorError as error:
        lines.append(f"The search does not find it: {error.message}")
    else:
        found.close()
        if os.path.samefile(found.path, done.real):
            return lines
        lines.append(f"The search finds {found.path} before it.")
    lines.append(f"Name it with pytest's --gvisor-runsc={done.path}.")
    return lines
