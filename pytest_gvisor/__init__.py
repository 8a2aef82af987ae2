"""Run workloads, and tests, under gVisor from pytest: the public names.

In a process of pytest, this package's modules are imported as they are written: see `AsWritten`.
"""
# Short: pytest itself imports this module, and reads the byte code of such a one piece by piece.

from __future__ import annotations

import atexit
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from pytest_gvisor.harness.public import *  # noqa: F403 -- each is written there as public

__all__ = """
    Bundle Completed DaemonUnavailable Forward Gvisor GvisorError ImageError InsecureRunsc
    InsideError InvalidBundle LaunchError Launcher MixedReleases Network NotReady Outcome
    Platform PlatformUnavailable Process ProgramNotStarted ProtocolError PytestGvisorWarning
    Rootfs Runsc RunscError RunscFailed RunscNotFound Sandbox SandboxCrashed Settings Snapshot
    SnapshotError UnwantedRelease Usage UsageError WorkloadFailed WorkloadTimeout bind directory
    empty host is_gvisor_kernel session tmpfs
""".split()  # noqa: PLE0605, SIM905 -- one text is read faster than many
_REWRITES = "_pytest.assertion.rewrite"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a project that uses none pays for none."""
    if name not in __all__:  # also asked for each module of the package, before its first import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pytest_gvisor.harness import public  # noqa: PLC0415

    return public.find(name)


class AsWritten:
    """A finder of this package's modules that asks all others but pytest's.

    pytest rewrites the assert statements of a plugin's whole package. Such an import takes twice as
    long, and nobody reads what a rewritten assert of ours would say. It stands here because any
    other module would be rewritten before it.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what Python would find without pytest; None for a module of another package."""
        if not name.startswith("pytest_gvisor."):
            return None
        for finder in [*sys.meta_path]:
            # One of an earlier import of this module may still be there.
            if getattr(finder, "__module__", "") in (__name__, _REWRITES):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def import_as_written() -> None:
    """Have the finder asked before pytest's own, if this process has that."""
    finders: list[Any] = sys.meta_path
    if _REWRITES in sys.modules and AsWritten not in finders:
        finders.insert(0, AsWritten)
        # With it there, Python takes 2 ms longer to clear its modules at its end.
        atexit.register(leave)


def leave() -> None:
    """Have the finder asked no more."""
    finders: list[Any] = sys.meta_path
    finders[:] = [finder for finder in finders if finder is not AsWritten]


import_as_written()
