"""The flags with which a runsc saves a running sandbox that runs on, by its own answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_gvisor.errors import SnapshotError
from pytest_gvisor.hints import Hint, option
from pytest_gvisor.runsc import features
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.settings import Platform

if TYPE_CHECKING:
    from pytest_gvisor.runsc.binary import Runsc

_PLATFORMS = (Platform.SYSTRAP, Platform.PTRACE)

# Releases without this flag implement --leave-running by a new container: the sandbox that is saved
# ends, and with it the command that waits for it.
_RUNS_ON = "compression"

_known: dict[str, frozenset[str]] = {}
"""By the digest of a binary, the flags of its ``checkpoint``."""


def check(runsc: Runsc, platform: Platform, way: Way) -> None:
    """Raise `SnapshotError` where no sandbox can be saved, nor be started from what was saved."""
    if platform not in _PLATFORMS:
        names = " and ".join(_PLATFORMS)
        raise SnapshotError(
            f"there are no snapshots on platform {platform}, only on {names}",
            next_step=Hint("Use ", option("platform", _PLATFORMS[0]), "."),
        )
    if way is Way.FLAG:
        raise SnapshotError("runsc restores no sandbox with --rootless")
    if not {"checkpoint", "restore"} <= runsc.subcommands:
        raise _too_old(runsc)


def is_possible(runsc: Runsc) -> bool:
    """Whether this runsc saves sandboxes that run on. Raises what `features.ask` raises."""
    try:
        save_flags(runsc)
    except SnapshotError:
        return False
    return True


def save_flags(runsc: Runsc) -> tuple[str, ...]:
    """Return the flags with which this runsc saves quickly.

    Raises `SnapshotError` for one that ends the sandbox instead, and what `features.ask` raises.
    """
    if runsc.sha256 not in _known:
        (answer,) = features.ask(runsc, questions=[("help", "checkpoint")])
        _known[runsc.sha256] = features.flag_names(answer)
    if _RUNS_ON not in _known[runsc.sha256]:
        raise _too_old(runsc)
    # To compress takes longer than to write: measured 0.22 against 0.05 s.
    return ("--compression=none",)


def _too_old(runsc: Runsc) -> SnapshotError:
    return SnapshotError(
        f"runsc {runsc.version} cannot save a sandbox that runs on",
        next_step="Install a newer release: `pytest-gvisor install`.",
    )
