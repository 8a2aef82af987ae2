"""Run workloads, and tests, under gVisor from pytest: the public names."""
# ruff: noqa: I001 -- one statement a module, as isort does with combine_as_imports

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from pytest_gvisor.completed import (
        Completed as Completed,
        Outcome as Outcome,
        SandboxCrashed as SandboxCrashed,
        Usage as Usage,
        WorkloadFailed as WorkloadFailed,
        WorkloadTimeout as WorkloadTimeout,
    )
    from pytest_gvisor.errors import (
        DaemonUnavailable as DaemonUnavailable,
        GvisorError as GvisorError,
        ImageError as ImageError,
        InsecureRunsc as InsecureRunsc,
        InsideError as InsideError,
        InvalidBundle as InvalidBundle,
        LaunchError as LaunchError,
        MixedReleases as MixedReleases,
        NotReady as NotReady,
        PlatformUnavailable as PlatformUnavailable,
        ProgramNotStarted as ProgramNotStarted,
        ProtocolError as ProtocolError,
        PytestGvisorWarning as PytestGvisorWarning,
        RunscError as RunscError,
        RunscFailed as RunscFailed,
        RunscNotFound as RunscNotFound,
        SnapshotError as SnapshotError,
        UnwantedRelease as UnwantedRelease,
        UsageError as UsageError,
    )
    from pytest_gvisor.harness.gvisor import Gvisor as Gvisor
    from pytest_gvisor.harness.engine import session as session
    from pytest_gvisor.kernel import is_gvisor_kernel as is_gvisor_kernel
    from pytest_gvisor.oci.bundle import Bundle as Bundle
    from pytest_gvisor.oci.mounts import bind as bind, tmpfs as tmpfs
    from pytest_gvisor.oci.rootfs import (
        Rootfs as Rootfs,
        directory as directory,
        empty as empty,
        host as host,
    )
    from pytest_gvisor.runsc.binary import Runsc as Runsc
    from pytest_gvisor.sandbox.forward import Forward as Forward
    from pytest_gvisor.sandbox.process import Process as Process
    from pytest_gvisor.sandbox.sandbox import Sandbox as Sandbox
    from pytest_gvisor.sandbox.snapshot import Snapshot as Snapshot
    from pytest_gvisor.settings import (
        Network as Network,
        Platform as Platform,
        Settings as Settings,
    )

_MODULES = {
    "completed": [
        "Completed", "Outcome", "SandboxCrashed", "Usage", "WorkloadFailed", "WorkloadTimeout",
    ],
    "errors": [
        "DaemonUnavailable", "GvisorError", "ImageError", "InsecureRunsc", "InsideError",
        "InvalidBundle", "LaunchError", "MixedReleases", "NotReady", "PlatformUnavailable",
        "ProgramNotStarted", "ProtocolError", "PytestGvisorWarning", "RunscError", "RunscFailed",
        "RunscNotFound", "SnapshotError", "UnwantedRelease", "UsageError",
    ],
    "harness.gvisor": ["Gvisor"],
    "harness.engine": ["session"],
    "kernel": ["is_gvisor_kernel"],
    "oci.bundle": ["Bundle"],
    "oci.mounts": ["bind", "tmpfs"],
    "oci.rootfs": ["Rootfs", "directory", "empty", "host"],
    "runsc.binary": ["Runsc"],
    "sandbox.forward": ["Forward"],
    "sandbox.process": ["Process"],
    "sandbox.sandbox": ["Sandbox"],
    "sandbox.snapshot": ["Snapshot"],
    "settings": ["Network", "Platform", "Settings"],
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_HOMES)  # noqa: PLE0605 -- it is a list


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a project that uses none pays for none."""
    if name == "Launcher":
        from pytest_gvisor import removed  # noqa: PLC0415 -- only for who writes it

        raise ImportError(f"{__name__}.{name} is removed. {removed.LAUNCHER}")
    if name not in _HOMES:  # also asked for each module of the package, before its first import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib  # noqa: PLC0415 -- a session that uses no name needs none

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


if "_pytest.assertion.rewrite" in sys.modules:
    from pytest_gvisor import as_written

    as_written.install()
