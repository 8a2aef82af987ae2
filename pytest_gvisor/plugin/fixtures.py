"""The fixtures. Everything heavy is imported when a test asks for it: see `fixture_values`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_gvisor.plugin.placement import FIXTURES, here_is_inside

if TYPE_CHECKING:
    from pytest_gvisor.base.settings import Platform
    from pytest_gvisor.base.traced import Trace
    from pytest_gvisor.harness.gvisor import Gvisor
    from pytest_gvisor.plugin.fixture_values import BundleFactory, ImageFactory, Values
    from pytest_gvisor.plugin.shared_sandboxes import SharedSandboxes, SharedSnapshots
    from pytest_gvisor.runsc.binary import Runsc
    from pytest_gvisor.sandbox.sandbox import Sandbox

# ruff: noqa: PLC0415 -- idle costs nothing


def __dir__() -> list[str]:
    """Name the fixtures alone: pytest looks at each name of a plugin."""
    return sorted([*FIXTURES, "gvisor_trace"])


def _values(request: pytest.FixtureRequest) -> Values:
    """Import what makes the fixtures. Fails a test inside, which can have no sandbox."""
    if here_is_inside():
        pytest.fail(
            f"the fixture {request.fixturename} cannot be had inside gVisor. As an argument of the "
            "test, or with @pytest.mark.usefixtures, it keeps the test on the host.",
            pytrace=False,
        )
    from pytest_gvisor.plugin.fixture_values import Values

    return Values(request)


@pytest.fixture(scope="session")
def runsc(request: pytest.FixtureRequest) -> Runsc:
    """The validated runsc. Skips (or fails, when strict) if there is none; a refused one fails.

    Of several releases it is the first: that of a test is ``gvisor_runsc``.
    """
    return _values(request).runsc()


@pytest.fixture
def gvisor_runsc(request: pytest.FixtureRequest) -> Runsc:
    """The validated runsc that this test runs on: of several releases, the one in its id."""
    return _values(request).gvisor_runsc()


@pytest.fixture
def gvisor_platform(request: pytest.FixtureRequest, gvisor_runsc: Runsc) -> Platform:  # noqa: ARG001
    """The platform that this test runs on; one that does not work skips or, if strict, fails."""
    return _values(request).gvisor_platform()


@pytest.fixture
def gvisor(
    request: pytest.FixtureRequest,
    gvisor_platform: Platform,
    gvisor_runsc: Runsc,  # noqa: ARG001
) -> Iterator[Gvisor]:
    """Runs workloads under gVisor: ``gvisor.run(["python3", "-c", "…"])``."""
    with _values(request).gvisor(gvisor_platform) as harness:
        yield harness


@pytest.fixture
def gvisor_sandbox(gvisor: Gvisor) -> Iterator[Sandbox]:
    """A warm sandbox: many ``gvisor_sandbox.exec(["true"])`` at the price of one start."""
    with gvisor.sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def gvisor_sandboxes(request: pytest.FixtureRequest) -> Iterator[SharedSandboxes]:
    """Factory of warm sandboxes that the session shares: ``gvisor_sandboxes(platform, …)``."""
    with contextlib.closing(_values(request).gvisor_sandboxes()) as shared:
        yield shared


@pytest.fixture(scope="session")
def gvisor_snapshot(request: pytest.FixtureRequest) -> Iterator[SharedSnapshots]:
    """Factory of saved sandboxes: ``gvisor.sandbox(snapshot=gvisor_snapshot(prepare))``."""
    with contextlib.closing(_values(request).gvisor_snapshot()) as shared:
        yield shared


@pytest.fixture(scope="session")
def gvisor_image(request: pytest.FixtureRequest) -> ImageFactory:
    """Factory: an image as a root file system, ``gvisor.run(rootfs=gvisor_image("app.tar"))``."""
    return _values(request).gvisor_image()


@pytest.fixture
def gvisor_trace(request: pytest.FixtureRequest) -> Callable[[], Trace]:
    """Function: the trace of a test inside so far; on the host that of its last run or exec."""
    return lambda: _trace_of(request)


def _trace_of(request: pytest.FixtureRequest) -> Trace:
    import pickle

    from pytest_gvisor.base.errors import TraceError

    if here_is_inside():
        worker = request.config.pluginmanager.get_plugin("gvisor-worker")
        told = worker and worker.ask_for_trace()
        trace: Trace | None = told and pickle.loads(bytes.fromhex(told))
    else:
        from pytest_gvisor.plugin.stash import harnesses

        runs = [run.completed for each in harnesses(request.node) for run in each.records]
        trace = next((run.trace for run in reversed(runs) if run and run.trace), None)
    if trace is None:
        step = "Trace it by --gvisor-trace or @pytest.mark.gvisor(trace=True)."
        raise TraceError("this test is not traced, or has run no workload", next_step=step)
    return trace


@pytest.fixture
def oci_bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BundleFactory:
    """Factory: writes an OCI bundle with this test's settings and returns the `Bundle`.

    Run it with ``gvisor.run_bundle(bundle)``, or with anything else that runs OCI bundles.
    """
    return _values(request).oci_bundle(tmp_path_factory)
