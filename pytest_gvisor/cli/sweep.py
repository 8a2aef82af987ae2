"""``pytest-gvisor sweep``: removes the remains of dead sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.cli import parsers
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.sessions import session_folder


def parser() -> parsers.Parser:
    """The subcommand's options."""
    return parsers.Parser(
        "sweep",
        description="Removes the remains of this user's dead sessions: processes, files, mounts, "
        "cgroups. Live sessions are not touched.",
        statuses={
            "0": "nothing of a dead session is left",
            "1": "some of it could not be removed; it is named",
        },
    )


def main(arguments: Sequence[str]) -> int:
    """Sweep; return 0 if nothing of a dead session is left, else 1."""
    parser().parse_args(arguments)
    removed = [*session_folder.sweep(waits=True)]
    bases = session_folder.base_folders()
    with contextlib.suppress(ImageError):  # whoever uses the images comes upon it again
        removed += Cache().sweep()
    for path in removed:
        print(f"removed {path}")
    left = [path for base in bases for path in session_folder.dead(base)]
    for path in left:
        print(f"not removed: {path}")
    if not removed and not left:
        print("found no dead session of this user")
    return 1 if left else 0
