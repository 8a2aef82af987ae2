"""``pytest-gvisor sweep``: removes the remains of dead sessions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_gvisor.cli import usage
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.run.saved_store import SavedStore
from pytest_gvisor.sessions import boot_notes, session_folder

if TYPE_CHECKING:
    import argparse


def parser() -> argparse.ArgumentParser:
    """The subcommand's options."""
    return usage.parser(
        "sweep",
        description="Removes the remains of this user's dead sessions: processes, files, mounts, "
        "cgroups. Live sessions are not touched. Removes sandboxes kept for later sessions that "
        "are broken, from before the last boot, or unused for 14 days.",
        statuses={
            "0": "nothing of a dead session is left",
            "1": "some of it could not be removed; it is named",
        },
    )


def main(arguments: Sequence[str]) -> int:
    """Sweep; return 0 if nothing of a dead session is left, else 1."""
    parser().parse_args(arguments)
    for path in session_folder.sweep(although_waited=True):
        print(f"removed {path}")
    bases = session_folder.base_folders()
    boot_notes.sweep(bases)
    for path in _kept():
        print(f"removed {path}")
    left = [path for base in bases for path in session_folder.dead(base)]
    for path in left:
        print(f"not removed: {path}")
    return 1 if left else 0


def _kept() -> list[str]:
    """Remove old sandboxes that earlier sessions have kept; return their paths."""
    try:
        store = SavedStore.open(make=False)
        return store.sweep() if store else []
    except (GvisorError, OSError) as error:
        print(f"pytest-gvisor sweep: kept sandboxes are left alone: {error}", file=sys.stderr)
        return []
