"""``pytest-gvisor cache``: lists the unpacked images that are kept, and prunes them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pytest_gvisor.base.escape import escape
from pytest_gvisor.cli import parsers
from pytest_gvisor.images.cache import Cache, CachedImage


def parser() -> parsers.Parser:
    """The subcommand's options."""
    done = {"0": "done"}
    made = parsers.Parser(
        "cache",
        description="The unpacked images in this user's cache folder, which later sessions use.",
        statuses=done,
        examples=("pytest-gvisor cache list", "pytest-gvisor cache prune --keep 2G"),
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="list|prune")
    commands.add_parser(
        "list",
        help="list the images, the last used first",
        description="Lists the unpacked images, the last used first.",
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
        print("\n".join(listed(cache.images())))
        return 0
    for image in cache.prune(given.keep):
        name = escape(image.name).replace("\n", "\\n")
        print(f"removed {image.id[:12]}  {_megabytes(image.size)}  {name}".rstrip())
    return 0


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
