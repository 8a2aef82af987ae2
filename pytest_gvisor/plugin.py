"""pytest's hooks: a table of contents. What each does is in the module that it calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_gvisor import header, hookspecs, options, requirements, xdist
from pytest_gvisor.errors import PytestGvisorWarning
from pytest_gvisor.fixtures import (
    failed_key,
    gvisor,
    gvisor_platform,
    gvisor_sandbox,
    gvisor_sandboxes,
    oci_bundle,
    runsc,
    settle,
)
from pytest_gvisor.report import tracebacks
from pytest_gvisor.state import harnesses, settings_key

__all__ = [
    "PytestGvisorWarning", "gvisor", "gvisor_platform", "gvisor_sandbox", "gvisor_sandboxes",
    "oci_bundle", "runsc",
]  # fmt: skip

pytest_plugins = ("pytest_gvisor.inside.plugin",)

_MARKERS = (
    (
        "gvisor(**settings): settings of this test's sandboxes: platform, network, netns, runsc, "
        "timeout, rootless, memory, pids, cpus, max_output"
    ),
    "requires_runsc: skip, or fail with --gvisor-strict, where there is no runsc",
    "requires_kvm: the same where gVisor's kvm platform does not work",
    "requires_platform(name): the same for the platform of that name",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our own hooks."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and read the settings."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    config.stash[settings_key] = options.read_settings(config)
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(xdist.Controller(), "gvisor-xdist")


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line where anyone has configured gVisor."""
    return header.early(config)


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> str | None:
    """The same line where nothing is configured but a test uses gVisor."""
    return header.late(config, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per platform where two or more are asked for."""
    requirements.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Judge the markers before any fixture is set up."""
    requirements.check(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Add the sections of a failed test that ran workloads, and escape its report."""
    tracebacks.leave_out(item, call)
    report: pytest.TestReport = yield  # type: ignore[assignment]
    tracebacks.place(item, call, report)
    item.stash[failed_key] = item.stash.get(failed_key, False) or report.failed
    runs = harnesses(item)
    if runs:
        from pytest_gvisor.report import sections  # noqa: PLC0415 -- idle costs nothing

        sections.complete(report, item, runs)
        if call.when == "teardown":
            settle(item)
    return report  # type: ignore[return-value]
