"""``pytest-gvisor sweep``: removes what dead sessions have left."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_gvisor.harness import verdicts
from pytest_gvisor.sessions import session_folder


def main(arguments: Sequence[str]) -> int:
    """Sweep; 0 where nothing of a dead session is left, else 1."""
    argparse.ArgumentParser(
        prog="pytest-gvisor sweep",
        description="Removes what dead sessions of this user have left: processes, files, mounts, "
        "cgroups. Sessions that live are not touched.",
    ).parse_args(arguments)
    for path in session_folder.sweep(although_waited=True):
        print(f"removed {path}")
    verdicts.sweep()
    left = [path for base in session_folder.base_folders() for path in session_folder.dead(base)]
    for path in left:
        print(f"not removed: {path}")
    return 1 if left else 0
