"""pytest's hooks: a table of contents. Each hook calls the module that does its work."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_gvisor.base.setting_table import names_from
from pytest_gvisor.plugin import arrivals, fixtures, hookspecs, options
from pytest_gvisor.plugin.placement import here_is_inside, in_matrix, uses_gvisor
from pytest_gvisor.programs.paths import projects

# ruff: noqa: PLC0415 -- a session without gVisor imports nothing of what is imported in functions

_TESTS_INSIDE = "pytest_gvisor.inside.hooks"
"""The plugin for tests inside: pytest registers it next to this one."""

_MARKERS = (
    (
        "gvisor(**settings): settings of this test's sandboxes: "
        f"{', '.join(names_from('marker'))}, and xfail={{platform: reason}}"
    ),
    (
        "requires_runsc(releases): skip, or fail with --gvisor-strict, where there is no runsc; "
        "fail where it is of another release than '>=20240729' allows, if that is given"
    ),
    "requires_kvm: the same where gVisor's kvm platform does not work",
    "requires_platform(name): the same for the platform of that name",
)


@pytest.hookimpl
def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add_options(parser)


def __dir__() -> list[str]:
    """Name hooks alone: pytest and pluggy look at each name of a plugin."""
    return [name for name in globals() if name.startswith("pytest_")]


@pytest.hookimpl
def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the plugin's own hooks, and its fixtures."""
    pluginmanager.add_hookspecs(hookspecs)
    pluginmanager.register(fixtures, "gvisor-fixtures")


@pytest.hookimpl(specname="pytest_addhooks")
def pytest_z_tests_inside(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks for tests inside next to this plugin, as a name in ``pytest_plugins`` is.

    For such a name pytest looks through the entry points of all installed packages first.
    This function has the last name, so pluggy has registered the plugin's other hooks before.
    Raises `pytest.UsageError` if ``-p no:NAME`` has blocked a part: tests would run on the host, or
    a report would be missing, and nothing would say so.
    """
    for name, plugin in pluginmanager.list_name_plugin():
        if plugin is None and name.startswith(("gvisor-", "pytest_gvisor.")):
            raise pytest.UsageError(
                f"pytest-gvisor: -p no:{name} blocks a part of the plugin. Write -p no:gvisor to "
                "leave out the whole"
            )
    pluginmanager.register(importlib.import_module(_TESTS_INSIDE), _TESTS_INSIDE)


@pytest.hookimpl
def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and read the settings."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    if here_is_inside():
        return
    root = os.path.realpath(config.rootpath)
    projects.append(root)
    config.add_cleanup(lambda: projects.remove(root))
    options.refuse_unknown(config)
    if options.written(config):
        from pytest_gvisor.plugin.precedence import run_settings

        if run_settings(config).report:
            from pytest_gvisor.plugin import matrix

            matrix.prepare(config)
    config.pluginmanager.register(arrivals.Arrivals(config), "gvisor-arrivals")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a platform of the run that no binary lists, once for all xdist workers."""
    config = session.config
    if options.written(config) and not here_is_inside() and not hasattr(config, "workerinput"):
        from pytest_gvisor.plugin import precedence

        precedence.check_platforms(config)


@pytest.hookimpl
def pytest_report_header(config: pytest.Config) -> str | None:
    """Return one line if gVisor is configured."""
    if here_is_inside() or not options.written(config):
        return None
    from pytest_gvisor.plugin import header

    return header.line(config)


@pytest.hookimpl
def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> str | None:
    """Return the same line if a test uses gVisor and nothing is configured."""
    # As pytest does with its own header: the output of --collect-only -q is read by programs.
    quiet = config.get_verbosity() < 0 or bool(options.written(config))
    if quiet or here_is_inside() or not any(map(uses_gvisor, items)):
        return None
    from pytest_gvisor.plugin import header

    return header.line(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Note the tests that pytest-split divides: its hook, registered later, comes after this."""
    if config.getoption("splits", None):
        from pytest_gvisor.plugin import matrix

        matrix.take_collection(config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Make the matrix if a test belongs to a platform."""
    if any(map(in_matrix, session.items)):
        from pytest_gvisor.plugin import matrix

        matrix.ensure(session.config)


@pytest.hookimpl
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test with each platform if there are two or more."""
    if uses_gvisor(metafunc.definition):
        from pytest_gvisor.plugin import markers

        markers.parametrize(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check the markers before any fixture is set up. For tests inside, the host has done it."""
    if (uses_gvisor(item) or in_matrix(item)) and not here_is_inside():
        from pytest_gvisor.plugin import markers

        markers.running(item.config)
        markers.check_requirements(item)
        markers.add_xfail_before_setup(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Add the sections of a failed test that ran workloads, and escape its report."""
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        from pytest_gvisor.plugin import skips

        skips.hide_own_frames()
    report: pytest.TestReport = yield  # type: ignore[assignment]
    from pytest_gvisor.plugin import stash

    if "pytest_gvisor.base.settings" in sys.modules:  # else the test has not used gVisor
        from pytest_gvisor.plugin import markers, skips

        skips.move_skip(item, report)
        markers.undo_pass(item, call, report)
    if here_is_inside():  # where no test runs workloads
        return report  # type: ignore[return-value]
    stash.record_outcome(item, report)
    if in_matrix(item) or stash.platform_key in item.stash:
        from pytest_gvisor.plugin import cells

        cells.attach_cell(item, call, report)
    if stash.is_untrusted(item):
        from pytest_gvisor.plugin import sections

        sections.add_sections(report, item, stash.harnesses(item))
    if call.when == "teardown" and stash.harnesses(item):
        from pytest_gvisor.plugin import fixture_values

        fixture_values.settle_kept_runs(item)
        stash.forget_harnesses(item)
    return report  # type: ignore[return-value]
