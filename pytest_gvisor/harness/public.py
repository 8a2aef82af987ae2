"""The public names of `pytest_gvisor`, and the module of each. Imported when one is used."""

# ruff: noqa: PLC0414 -- so type checkers take each name for public

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_gvisor.completed import Completed as Completed
    from pytest_gvisor.completed import Outcome as Outcome
    from pytest_gvisor.completed import SandboxCrashed as SandboxCrashed
    from pytest_gvisor.completed import Usage as Usage
    from pytest_gvisor.completed import WorkloadFailed as WorkloadFailed
    from pytest_gvisor.completed import WorkloadTimeout as WorkloadTimeout
    from pytest_gvisor.errors import (
        DaemonUnavailable as DaemonUnavailable,
    )
    from pytest_gvisor.errors import (
        GvisorError as GvisorError,
    )
    from pytest_gvisor.errors import (
        ImageError as ImageError,
    )
    from pytest_gvisor.errors import (
        InsecureRunsc as InsecureRunsc,
    )
    from pytest_gvisor.errors import (
        InsideError as InsideError,
    )
    from pytest_gvisor.errors import (
        InvalidBundle as InvalidBundle,
    )
    from pytest_gvisor.errors import (
        LaunchError as LaunchError,
    )
    from pytest_gvisor.errors import (
        MixedReleases as MixedReleases,
    )
    from pytest_gvisor.errors import (
        NotReady as NotReady,
    )
    from pytest_gvisor.errors import (
        PlatformUnavailable as PlatformUnavailable,
    )
    from pytest_gvisor.errors import (
        ProgramNotStarted as ProgramNotStarted,
    )
    from pytest_gvisor.errors import (
        ProtocolError as ProtocolError,
    )
    from pytest_gvisor.errors import (
        PytestGvisorWarning as PytestGvisorWarning,
    )
    from pytest_gvisor.errors import (
        RunscError as RunscError,
    )
    from pytest_gvisor.errors import (
        RunscFailed as RunscFailed,
    )
    from pytest_gvisor.errors import (
        RunscNotFound as RunscNotFound,
    )
    from pytest_gvisor.errors import (
        SnapshotError as SnapshotError,
    )
    from pytest_gvisor.errors import (
        UnwantedRelease as UnwantedRelease,
    )
    from pytest_gvisor.errors import (
        UsageError as UsageError,
    )
    from pytest_gvisor.harness.gvisor import Gvisor as Gvisor
    from pytest_gvisor.harness.session import session as session
    from pytest_gvisor.kernel import is_gvisor_kernel as is_gvisor_kernel
    from pytest_gvisor.oci.bundle import Bundle as Bundle
    from pytest_gvisor.oci.mounts import bind as bind
    from pytest_gvisor.oci.mounts import tmpfs as tmpfs
    from pytest_gvisor.oci.rootfs import (
        Rootfs as Rootfs,
    )
    from pytest_gvisor.oci.rootfs import (
        directory as directory,
    )
    from pytest_gvisor.oci.rootfs import (
        empty as empty,
    )
    from pytest_gvisor.oci.rootfs import (
        host as host,
    )
    from pytest_gvisor.runsc.binary import Runsc as Runsc
    from pytest_gvisor.sandbox.forward import Forward as Forward
    from pytest_gvisor.sandbox.process import Process as Process
    from pytest_gvisor.sandbox.sandbox import Sandbox as Sandbox
    from pytest_gvisor.sandbox.snapshot import Snapshot as Snapshot
    from pytest_gvisor.sessions.launcher import Launcher as Launcher
    from pytest_gvisor.settings import Network as Network
    from pytest_gvisor.settings import Platform as Platform
    from pytest_gvisor.settings import Settings as Settings

_HOMES = {
    "errors": (
        "DaemonUnavailable", "GvisorError", "ImageError", "InsecureRunsc", "InsideError",
        "InvalidBundle", "LaunchError", "MixedReleases", "NotReady", "PlatformUnavailable",
        "ProgramNotStarted", "ProtocolError", "PytestGvisorWarning", "RunscError", "RunscFailed",
        "RunscNotFound", "SnapshotError", "UnwantedRelease", "UsageError",
    ),
    "harness.gvisor": ("Gvisor",),
    "harness.session": ("session",),
    "kernel": ("is_gvisor_kernel",),
    "sessions.launcher": ("Launcher",),
    "completed": (
        "Completed", "Outcome", "SandboxCrashed", "Usage", "WorkloadFailed", "WorkloadTimeout",
    ),
    "oci.bundle": ("Bundle",),
    "oci.mounts": ("bind", "tmpfs"),
    "oci.rootfs": ("Rootfs", "directory", "empty", "host"),
    "runsc.binary": ("Runsc",),
    "sandbox.forward": ("Forward",),
    "sandbox.process": ("Process",),
    "sandbox.sandbox": ("Sandbox",),
    "sandbox.snapshot": ("Snapshot",),
    "settings": ("Network", "Platform", "Settings"),
}  # fmt: skip
HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
"""The module of each name of ``pytest_gvisor.__all__``."""


def find(name: str) -> Any:
    """Import a public name."""
    return getattr(importlib.import_module(f"pytest_gvisor.{HOME_OF[name]}"), name)
