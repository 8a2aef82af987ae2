"""``pytest-gvisor cache``: lists the files that are kept for later sessions, and prunes images."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence

from pytest_gvisor.base.escape import escape
from pytest_gvisor.cli import parsers
from pytest_gvisor.images.cache import Cache, CachedImage
from pytest_gvisor.programs.paths import caches

_BESIDE = {
    "answers": "answers of each runsc to questions",
    "returned": "records of files that came back from tests inside",
}
"""The folders of the cache beside that of the images."""


def parser() -> parsers.Parser:
    """The subcommand's options."""
    done = {"0": "done"}
    made = parsers.Parser(
        "cache",
        description="The files in this user's cache folder that later sessions use.",
        statuses=done,
        examples=("pytest-gvisor cache list", "pytest-gvisor cache prune --keep 2G"),
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="list|prune")
    commands.add_parser(
        "list",
        help="list the images, the last used first, and the other folders",
        description="Lists the unpacked images, the last used first, and the other folders.",
        statuses=done,
    )
    prune = commands.add_parser(
        "prune",
        help="remove images that no session uses",
        description="Removes unpacked images that no session uses.",
        statuses=done,
        examples=("pytest-gvisor cache prune --keep 2G",),
    )
    prune.add_argument(
        "--keep", type=parsers.size, default=0, metavar="SIZE",
        help="keep this much of the images used last, for instance 2G (default: 0)",
    )  # fmt: skip
    return made


def main(arguments: Sequence[str]) -> int:
    """List or prune; return 0. Raises `ImageError` for an unusable cache."""
    given = parser().parse_args(arguments)
    cache = Cache()
    if given.command == "list":
        print("\n".join([*listed(cache.images()), *beside()]))
        return 0
    for image in cache.prune(given.keep):
        name = escape(image.name).replace("\n", "\\n")
        print(f"removed {image.id[:12]}  {_megabytes(image.size)}  {name}".rstrip())
    return 0


def beside() -> list[str]:
    """Format a line for each other folder that is there."""
    lines = []
    for name, kept in _BESIDE.items():
        path = caches(name)
        if os.path.isdir(path):
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path)]
            files = f"{len(sizes)} files, {_megabytes(sum(sizes))}"
            lines.append(f"{escape(path)}: {kept} ({files})")
    return lines


def listed(images: Sequence[CachedImage]) -> list[str]:
    """Format a line for each image, below the titles."""
    rows = [("IMAGE ID", "SIZE", "LAST USED", "NAME")]
    for image in images:
        used = dt.datetime.fromtimestamp(image.used).astimezone()
        when = used.isoformat(sep=" ", timespec="minutes")
        rows.append((image.id[:12], _megabytes(image.size), when, escape(image.name)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [line.replace("\n", "\\n") for line in lines]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
