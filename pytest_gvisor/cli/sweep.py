"""``pytest-gvisor sweep``: removes the remains of dead sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pytest_gvisor.base.errors import ImageError
from pytest_gvisor.cli import parsers
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.runsc import answers
from pytest_gvisor.sessions import saved_before, session_folder


def parser() -> parsers.Parser:
    """The subcommand's options."""
    return parsers.Parser(
        "sweep",
        description="Removes the remains of this user's dead sessions: processes, files, mounts, "
        "cgroups. Live sessions are not touched. Also removes the sandboxes and the packed images "
        "that earlier versions left in the cache folder.",
        statuses={
            "0": "nothing of a dead session is left",
            "1": "some of it could not be removed; it is named",
        },
    )


def main(arguments: Sequence[str]) -> int:
    """Sweep; return 0 if nothing of a dead session is left, else 1."""
    parser().parse_args(arguments)
    for path in session_folder.sweep(waits=True):
        print(f"removed {path}")
    bases = session_folder.base_folders()
    for base in bases:
        answers.sweep(base)  # verdicts on platforms, of earlier versions
    for path in saved_before.remove():
        print(f"removed {path}")
    with contextlib.suppress(ImageError):  # whoever uses the images comes upon it again
        Cache().sweep()
    left = [path for base in bases for path in session_folder.dead(base)]
    for path in left:
        print(f"not removed: {path}")
    return 1 if left else 0
