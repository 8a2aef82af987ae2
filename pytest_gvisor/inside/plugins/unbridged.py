"""Plugins that gather data in the tests' process, sum them up on the host, and have no bridge.

Such a plugin is known by what it does while tests run, and at the end of the session. It acts there
by a hook, or by a fixture that a test inside asks for. Hooks of conftest.py files are the project's
own, and so is a plugin without a distribution. They are not looked at.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from pytest_gvisor.base.escape import escape
from pytest_gvisor.inside.plugins import benchmark
from pytest_gvisor.inside.view import configuration
from pytest_gvisor.plugin.placement import FIELDS

_SUMMING_UP = frozenset({"pytest_sessionfinish", "pytest_terminal_summary"})
# pytest_unconfigure is none: most plugins clean up there.
_RUNNING = frozenset({
    "pytest_assertion_pass", "pytest_fixture_post_finalizer", "pytest_fixture_setup",
    "pytest_pyfunc_call", "pytest_runtest_call", "pytest_runtest_makereport",
    "pytest_runtest_protocol", "pytest_runtest_setup", "pytest_runtest_teardown",
})  # fmt: skip

COMPLETE = frozenset({
    "hypothesis", "pyfakefs", "pytest-asyncio", "pytest-cov", "pytest-gvisor", "pytest-html",
    "pytest-httpserver", "pytest-json-ctrf", "pytest-json-report", "pytest-metadata",
    "pytest-randomly", "pytest-rerunfailures", "pytest-timeout", "pytest-xdist",
    "teamcity-messages",
})  # fmt: skip
"""Distributions that take all from reports of tests, which come from inside, or sum up nothing."""

# Distributions that lose what they gather if one of these options or ini keys says so, or a marker.
_SWITCHES = {
    "flaky": ("force_flaky", "flaky"),
    "inline-snapshot": ("inline_snapshot", ""),
    "pytest-bdd": ("gherkin_terminal_reporter cucumber_json_path", ""),
    "pytest-codspeed": ("codspeed", "codspeed_benchmark"),
    "pytest-memray": ("memray", ""),
    "pytest-retry": ("retries", "flaky"),
    "syrupy": ("warn_unused_snapshots", ""),  # without it, unused snapshots fail the session
}
# Distributions that lose nothing with one of these options, or if the project lets an attribute of
# that name pass.
_KEPT_BY = {
    "pytest-csv": ("_csv_rows",),
    "pytest-monitor": ("mtr_none",),
    "pytest-mpl": ("mpl_generate_path", "mpl_results_path"),
}
_DATABASES = frozenset({"pytest-monitor"})
"""Distributions that write to a database while tests run, whatever their hooks."""

_SYRUPY = "syrupy"
_MOST = 10


def refuse_objects(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for a plugin that acts in tests, and is an object of this process.

    `pytest.main` was called with it. The pytest inside cannot have it.
    """
    if not (given := config.invocation_params.plugins):
        return
    complete = {
        _package(plugin)
        for plugin, found in config.pluginmanager.list_plugin_distinfo()
        if _name(found.metadata) in COMPLETE
    }
    for plugin in given:
        hooks = {hook.name for hook in config.pluginmanager.get_hookcallers(plugin) or ()}
        acts = sorted(hooks & _RUNNING - {"pytest_runtest_protocol"})  # which is called here too
        if acts and _package(plugin) not in complete and not configuration.importable([plugin]):
            raise pytest.UsageError(
                f"pytest-gvisor: pytest.main(plugins=[…]) has an object with {acts[0]}, which would"
                " not be called for tests inside. Give a module in its place, or its name. Or"
                " collect in pytest_runtest_logreport, which is called here"
            )


def find(config: pytest.Config, items: Sequence[pytest.Item]) -> str:
    """Return a warning that names such plugins, or nothing."""
    manager = config.pluginmanager
    distributions = {
        _package(plugin): found.metadata  # which importlib.metadata reads anew each time
        for plugin, found in manager.list_plugin_distinfo()
    }
    hooks: dict[str, set[str]] = defaultdict(set)
    for plugin in manager.get_plugins():
        if (package := _package(plugin)) in distributions:
            hooks[package].update(hook.name for hook in manager.get_hookcallers(plugin) or ())
    asked = _packages_of_fixtures(items)
    suspect = {
        package
        for package, names in hooks.items()
        if names & _SUMMING_UP and (names & _RUNNING or package in asked)
    }
    complete = COMPLETE | ({"pytest-benchmark"} if benchmark.is_known(config) else set())
    named = []
    for package, metadata in distributions.items():
        name = _name(metadata)
        if name in _SWITCHES:
            loses = _is_switched_on(config, items, *_SWITCHES[name])
        else:
            loses = name in _DATABASES or (package in suspect and name not in complete)
        passed = config.getini(FIELDS)
        kept = _KEPT_BY.get(name, ())
        if loses and not any(one in passed or config.getoption(one, None) for one in kept):
            named.append(f"{metadata['Name']} {metadata['Version']}")
    if not named:
        return ""
    more = ", …" if len(named) > _MOST else ""
    return (
        "plugins that sum up on the host, and have no bridge for what they gather in tests inside: "
        f"{escape(', '.join(sorted(named)[:_MOST]))}{more}. Their summaries and files may lack "
        'these tests: see "Plugins" in docs/inside-plugins.md.'
    )


def _is_switched_on(
    config: pytest.Config, items: Iterable[pytest.Item], options: str, marker: str
) -> bool:
    for option in options.split():
        with contextlib.suppress(ValueError):  # an option or key that there is not
            if config.getoption(option, None) or config.getini(option):
                return True
    return bool(marker) and any(item.get_closest_marker(marker) for item in items)


def _name(metadata: Any) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", metadata["Name"]).lower()


def _package(plugin: Any) -> str:
    """Return the package that a plugin belongs to: a module, or an object of some class."""
    name = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
    return str(name).partition(".")[0]


def _packages_of_fixtures(items: Iterable[pytest.Item]) -> set[str]:
    """Return the packages whose fixtures these tests ask for."""
    known: dict[int, Any] = {}
    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        for definitions in () if info is None else info.name2fixturedefs.values():
            known |= {id(one): one.func for one in definitions}
    asked = (function for function in known.values() if not _is_autouse(function))
    return {str(function.__module__).partition(".")[0] for function in asked}


def _is_autouse(function: Any) -> bool:
    """Whether a fixture is one that each test has, and none asks for."""
    module = sys.modules.get(function.__module__)
    definition = getattr(module, function.__name__, None)
    return bool(getattr(getattr(definition, "_fixture_function_marker", None), "autouse", False))


def keep_snapshots(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Let syrupy on the host look for no unused snapshots if tests inside have some.

    It knows of none that they have used: it would fail the session, and delete them all with
    ``--snapshot-update``. The updates of tests on the host are written.
    """
    session: Any = getattr(config, "_syrupy", None)
    if session is None or _SYRUPY not in _packages_of_fixtures(items):
        return
    for name in ("flush_snapshot_write_queue", "flush_snapshot_write_queues"):
        getattr(session, name, lambda: None)()
    for name in _SUMMING_UP:
        hook = getattr(config.hook, name)
        for implementation in hook.get_hookimpls():
            if _package(implementation.plugin) == _SYRUPY:
                hook._remove_plugin(implementation.plugin)
