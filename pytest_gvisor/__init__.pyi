# The public names, each with its module: for type checkers, and for __getattr__ of the package.
# ruff: noqa: I001 -- one statement a module, as isort does with combine_as_imports

from pytest_gvisor.base.completed import (
    Completed as Completed,
    NoAnswer as NoAnswer,
    Outcome as Outcome,
    SandboxCrashed as SandboxCrashed,
    Usage as Usage,
    WorkloadFailed as WorkloadFailed,
    WorkloadTimeout as WorkloadTimeout,
)
from pytest_gvisor.base.egress import (
    Egress as Egress,
    SandboxPort as SandboxPort,
    Traffic as Traffic,
)
from pytest_gvisor.base.errors import (
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
    RemoteAttributeError as RemoteAttributeError,
    RemoteError as RemoteError,
    RunscError as RunscError,
    RunscFailed as RunscFailed,
    RunscNotFound as RunscNotFound,
    SnapshotError as SnapshotError,
    TraceError as TraceError,
    UnwantedRelease as UnwantedRelease,
    UsageError as UsageError,
)
from pytest_gvisor.base.traced import Trace as Trace
from pytest_gvisor.harness.asandbox import (
    AsyncProcess as AsyncProcess,
    AsyncSandbox as AsyncSandbox,
)
from pytest_gvisor.harness.gvisor import Gvisor as Gvisor
from pytest_gvisor.harness.engine import session as session
from pytest_gvisor.base.kernel import is_gvisor_kernel as is_gvisor_kernel
from pytest_gvisor.images.streams import Limits as Limits
from pytest_gvisor.oci.bundle import Bundle as Bundle
from pytest_gvisor.oci.mounts import bind as bind, tmpfs as tmpfs
from pytest_gvisor.oci.rootfs import (
    Rootfs as Rootfs,
    directory as directory,
    empty as empty,
    host as host,
)
from pytest_gvisor.oci.spec import Mount as Mount
from pytest_gvisor.plugin.fixture_values import (
    BundleFactory as BundleFactory,
    ImageFactory as ImageFactory,
)
from pytest_gvisor.plugin.shared_sandboxes import (
    SharedSandboxes as SharedSandboxes,
    SharedSnapshots as SharedSnapshots,
)
from pytest_gvisor.runsc.binary import Runsc as Runsc
from pytest_gvisor.sandbox.forward import Forward as Forward
from pytest_gvisor.sandbox.load import Loaded as Loaded, Remote as Remote
from pytest_gvisor.sandbox.process import Process as Process
from pytest_gvisor.sandbox.sandbox import Sandbox as Sandbox
from pytest_gvisor.sandbox.snapshot import Snapshot as Snapshot
from pytest_gvisor.base.settings import (
    Network as Network,
    Platform as Platform,
    Settings as Settings,
)

__all__: list[str]  # noqa: PYI035 -- all of these
