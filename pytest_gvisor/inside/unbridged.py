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
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_gvisor.escape import escape
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

# Distributions that lose what they gather if an option or ini key says so, or a marker.
_SWITCHES = {
    "flaky": ("force_flaky", "flaky"),
    "inline-snapshot": ("inline_snapshot", ""),
    "pytest-bdd": ("gherkin_terminal_reporter", ""),
    "pytest-codspeed": ("codspeed", "codspeed_benchmark"),
    "pytest-memray": ("memray", ""),
    "pytest-retry": ("retries", "flaky"),
}
# Distributions that write to a database while tests run, and the option that switches them off.
_DATABASES = {"pytest-monitor": "mtr_none"}
# Distributions that gather all in an attribute of reports, of a shape that nothing checks.
_FIELDS = {"pytest-csv": "_csv_rows"}
# Distributions that write files while tests run, and the options that let the files come back.
_PATHS = {"pytest-mpl": ("mpl_generate_path", "mpl_results_path")}

_SYRUPY = "syrupy"
_MOST = 10


def find(config: pytest.Config, items: Sequence[pytest.Item], bridged: Collection[str]) -> str:
    """Return a warning that names such plugins, or nothing.

    ``bridged`` names the distributions that have a bridge.
    """
    manager = config.pluginmanager
    distributions = {
        _package(plugin): (_normal(found.project_name), f"{found.project_name} {found.version}")
        for plugin, found in manager.list_plugin_distinfo()
    }
    hooks: dict[str, set[str]] = defaultdict(set)
    for plugin in manager.get_plugins():
        if (package := _package(plugin)) in distributions:
            hooks[package].update(hook.name for hook in manager.get_hookcallers(plugin) or ())
    summing = {package for package, names in hooks.items() if names & _SUMMING_UP}
    running = {package for package, names in hooks.items() if names & _RUNNING}
    suspect = summing & running
    if summing - running:
        suspect |= summing & _packages_of_fixtures(items)
    named = []
    for package, (name, shown) in distributions.items():
        off = _DATABASES.get(name)
        if name in _SWITCHES:
            loses = _is_switched_on(config, items, *_SWITCHES[name])
        else:
            loses = package in suspect if off is None else not config.getoption(off, False)
        if loses and name not in {*COMPLETE, *bridged} and not _travels(config, name):
            named.append(shown)
    return _warning(sorted(named))


def _warning(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > _MOST else ""
    return (
        "plugins that sum up on the host, and have no bridge for what they gather in tests inside: "
        f"{escape(', '.join(names[:_MOST]))}{more}. Their summaries and files may lack these "
        'tests: see "Plugins" in docs/inside.md.'
    )


def _travels(config: pytest.Config, name: str) -> bool:
    """Whether the project lets all that a plugin gathers come to the host."""
    if name in _FIELDS and _FIELDS[name] in config.getini(FIELDS):
        return True
    return any(config.getoption(path, None) for path in _PATHS.get(name, ()))


def _is_switched_on(
    config: pytest.Config, items: Iterable[pytest.Item], option: str, marker: str
) -> bool:
    with contextlib.suppress(ValueError):  # an option or key that there is not
        if config.getoption(option, None) or config.getini(option):
            return True
    return bool(marker) and any(item.get_closest_marker(marker) for item in items)


def _package(plugin: Any) -> str:
    """Return the package that a plugin belongs to: a module, or an object of some class."""
    name = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__module__
    return str(name).partition(".")[0]


def _normal(name: str) -> str:
    """Return the name of a distribution as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _packages_of_fixtures(items: Iterable[pytest.Item]) -> set[str]:
    """Return the packages whose fixtures these tests ask for."""
    return {module.partition(".")[0] for module in _modules_of_fixtures(items)}


def _modules_of_fixtures(items: Iterable[pytest.Item]) -> Iterator[str]:
    seen: set[int] = set()
    for item in items:
        info = getattr(item, "_fixtureinfo", None)
        for definitions in () if info is None else info.name2fixturedefs.values():
            for one in definitions:
                if id(one) not in seen:
                    seen.add(id(one))
                    if not _is_autouse(one.func):
                        yield str(one.func.__module__)


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
