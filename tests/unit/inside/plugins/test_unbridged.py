"""The warning of plugins whose summaries lack what tests inside have gathered."""

import sys
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_gvisor.inside.plugins.unbridged import COMPLETE, find, keep_snapshots

SUMS = "pytest_terminal_summary"
RUNS = "pytest_runtest_call"


class Project:
    """A configuration with plugins of distributions."""

    def __init__(self, config: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self._found: list[tuple[object, object]] = []
        self._patch = monkeypatch
        monkeypatch.setattr(config.pluginmanager, "list_plugin_distinfo", lambda: self._found)

    def plugin(self, distribution: str, *hooks: str, package: str = "some_plugin") -> Any:
        """A plugin of a distribution with these hooks."""
        module = types.ModuleType(f"{package}.plugin{len(self._found)}")
        for hook in hooks:
            setattr(module, hook, lambda: None)
        self._patch.setitem(sys.modules, module.__name__, module)
        self.config.pluginmanager.register(module)
        found = SimpleNamespace(metadata={"Name": distribution, "Version": "1.0"})
        self._found.append((module, found))
        return module

    def find(self, *items: Any) -> str:
        """The warning for these tests inside."""
        return find(self.config, items)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A configuration without plugins of distributions."""
    return Project(pytester.parseconfig(), monkeypatch)


def item(*functions: Callable[[], None], marker: str = "") -> Any:
    """A test that uses these fixtures."""
    fixtures = {one.__name__: [SimpleNamespace(func=one)] for one in functions}
    return SimpleNamespace(
        _fixtureinfo=SimpleNamespace(name2fixturedefs=fixtures),
        get_closest_marker=lambda name: name == marker,
    )


def fixture(module: Any, *, autouse: bool = False) -> Callable[[], None]:
    """A fixture of a plugin."""

    def own() -> None:
        pass

    own.__module__ = module.__name__
    marker = SimpleNamespace(autouse=autouse)
    module.own = SimpleNamespace(_fixture_function_marker=marker)
    return own


def test_a_plugin_that_runs_inside_and_sums_up_here_is_named(project: Project) -> None:
    """Each once, by name and version."""
    project.plugin("Second_One", RUNS, SUMS, "pytest_sessionfinish", package="second")
    project.plugin("first.one", SUMS, package="first")
    project.plugin("first.one", RUNS, package="first")
    said = project.find(item())
    assert ": Second_One 1.0, first.one 1.0. Their" in said


@pytest.mark.parametrize("hooks", [(), (RUNS,), (SUMS,), (RUNS, "pytest_unconfigure")])
def test_a_plugin_that_does_one_of_both_is_not_named(
    hooks: tuple[str, ...], project: Project
) -> None:
    """Such a plugin sums up reports, or nothing."""
    project.plugin("some", *hooks)
    assert project.find(item()) == ""


def test_a_fixture_that_a_test_asks_for_runs_inside(project: Project) -> None:
    """A fixture with autouse tells nothing, since every test has it."""
    module = project.plugin("some", SUMS)
    assert project.find(item()) == ""
    assert project.find(item(fixture(module, autouse=True))) == ""
    assert "some 1.0" in project.find(item(fixture(module)))


@pytest.mark.parametrize("name", [*sorted(COMPLETE), "Pytest_COV"])
def test_a_plugin_whose_reports_are_complete_is_not_named(name: str, project: Project) -> None:
    """The names of distributions are compared as package indexes do."""
    project.plugin(name, RUNS, SUMS)
    assert project.find(item()) == ""


def test_pytest_benchmark_has_a_bridge_in_the_form_that_it_knows(project: Project) -> None:
    """In another form it loses what it measures."""
    project.plugin("pytest-benchmark", RUNS, SUMS)
    assert "pytest-benchmark 1.0" in project.find(item())
    session = SimpleNamespace(benchmarks=[], disabled=True)
    project.config._benchmarksession = session  # type: ignore[attr-defined]
    assert project.find(item()) == ""


def test_hooks_of_the_project_s_own_are_not_looked_at(project: Project) -> None:
    """A plugin without a distribution is the project's."""
    project.plugin("some", RUNS, SUMS)
    project._found.clear()
    assert project.find(item()) == ""


@pytest.mark.parametrize(
    ("name", "hooks", "option", "value", "named"),
    [
        ("flaky", (RUNS, SUMS), "force_flaky", True, True),
        ("inline-snapshot", (RUNS, SUMS), "inline_snapshot", "create", True),
        ("pytest-bdd", (RUNS, SUMS), "gherkin_terminal_reporter", True, True),
        ("pytest-bdd", (RUNS, SUMS), "cucumber_json_path", "out.json", True),
        ("pytest-mpl", (RUNS, SUMS), "mpl_results_path", "results", False),
        ("pytest-monitor", (RUNS,), "mtr_none", True, False),
    ],
)
def test_some_plugins_are_named_by_an_option(
    name: str, hooks: tuple[str, ...], option: str, value: object, *, named: bool, project: Project
) -> None:
    """With it they lose something, or their files come back, or they write nothing."""
    project.plugin(name, *hooks)
    assert bool(project.find(item())) is not named
    setattr(project.config.option, option, value)
    assert (f"{name} 1.0" in project.find(item())) is named


def test_a_plugin_may_be_asked_by_a_marker_of_a_test(project: Project) -> None:
    """Without one it does nothing."""
    project.plugin("flaky", RUNS, SUMS)
    assert "flaky 1.0" in project.find(item(), item(marker="flaky"))


def test_a_plugin_whose_rows_are_plain_data_is_named_until_the_project_lets_them_pass(
    project: Project,
) -> None:
    """pytest-csv, by the attribute of its reports."""
    project.plugin("pytest-csv", RUNS, SUMS)
    assert "pytest-csv 1.0" in project.find(item())
    project.config.addinivalue_line("gvisor_report_fields", "_csv_rows")
    assert project.find(item()) == ""


def test_syrupy_is_named_only_where_its_summary_alone_has_the_unused(project: Project) -> None:
    """Without that option they fail the session. New snapshots come back."""
    module = project.plugin("syrupy", SUMS, package="syrupy")
    assert project.find(item(fixture(module))) == ""
    project.config.option.warn_unused_snapshots = True
    assert "syrupy 1.0" in project.find(item(fixture(module)))


def test_a_long_list_is_shortened_and_escaped(project: Project) -> None:
    """A name is what its author has written."""
    for number in range(20):
        project.plugin(f"some\x1b{number:02}", RUNS, SUMS, package=f"some{number}")
    said = project.find(item())
    assert "some\\x1b09 1.0, …. Their" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("used", [True, False])
def test_syrupy_deletes_no_snapshots_that_tests_inside_use(used: bool, project: Project) -> None:
    """syrupy would delete them all. The snapshots of tests on the host are written first."""
    written = []
    module = project.plugin("syrupy", SUMS, "pytest_sessionfinish", package="syrupy")
    other = project.plugin("other", SUMS, package="other")
    project.config._syrupy = SimpleNamespace(  # type: ignore[attr-defined]
        flush_snapshot_write_queue=lambda: written.append(1)
    )
    keep_snapshots(project.config, [item(fixture(module)) if used else item()])
    hooks = project.config.hook
    left = {
        implementation.plugin
        for hook in (hooks.pytest_terminal_summary, hooks.pytest_sessionfinish)
        for implementation in hook.get_hookimpls()
    }
    assert (module in left) == (not used)
    assert other in left
    assert len(written) == used
