"""The hooks for tests that run inside. A table of contents, like plugin/__init__.py.

Light until a test runs inside: what starts sandboxes is imported then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.plugin import placement
from pytest_gvisor.programs.paths import caches

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_gvisor.inside.session import InsideSession

_MARKER = (
    "in_gvisor(*, fresh=False, user=None): run this test inside gVisor, if fresh in a sandbox of "
    "its own, as this user"
)
_OPTIONS = (
    "gvisor_env", "gvisor_isolation", "gvisor_readable", "gvisor_user", "gvisor_writable",
)  # fmt: skip
_INI_KEYS = ("gvisor_env", "gvisor_readable", "gvisor_user", placement.FIELDS)
"""The options and ini keys that are checked before anything is collected."""

_RUN_NO_TEST = ("cacheshow", "collectonly", "setupplan", "show_fixtures_per_test", "showfixtures")
"""Options with which pytest begins a session all the same."""

_session_key: pytest.StashKey[InsideSession] = pytest.StashKey()
_taken_key: pytest.StashKey[dict[str, int]] = pytest.StashKey()
"""The names of all tests that are collected, and how many have each node id."""


def __dir__() -> list[str]:
    """Name the hooks alone: pytest and pluggy look at each name of a plugin."""
    return [name for name in globals() if name.startswith("pytest_")]


def _variants() -> ModuleType:
    from pytest_gvisor.inside.boot import variants  # noqa: PLC0415 -- idle costs nothing

    return variants


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Note when the session begins: no code of the project has run."""
    placement.began(early_config)


@pytest.hookimpl(trylast=True)  # the plugin itself has noted the root folder
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; refuse what cannot work inside."""
    placement.check_guard()
    config.addinivalue_line("markers", _MARKER)
    if placement.here_is_inside():
        return
    if config.getoption("lf", False):
        _variants().keep_last_failed(config)
    if any(map(config.getoption, _OPTIONS)) or any(map(config.getini, _INI_KEYS)):
        from pytest_gvisor.inside.view import run_options  # noqa: PLC0415 -- idle costs nothing

        run_options.check(config)
    if os.path.isdir(caches("returned")):
        from pytest_gvisor.inside.back.records import LeftOut  # noqa: PLC0415 -- idle costs nothing

        config.pluginmanager.register(LeftOut())
    if config.getini(placement.RETURNS) and not config.getoption("no_gvisor"):
        from pytest_gvisor.inside.back import returned  # noqa: PLC0415 -- idle costs nothing

        returned.check(config)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the first sandbox: all plugins are configured, and nothing of the session is done."""
    config = session.config
    starts = placement.is_asked_for(config) and _runs_tests(config)
    if starts and not placement.already_inside():
        from pytest_gvisor.inside.boot.early import Early  # noqa: PLC0415 -- idle costs nothing

        early = Early(config)
        config.pluginmanager.register(early, placement.EARLY)
        if early.begin():
            # What the tests need is imported while runsc starts.
            import pytest_gvisor.inside.session  # noqa: F401, PLC0415

            early.greet()


def _runs_tests(config: pytest.Config) -> bool:
    """Whether this process is to run tests inside, as far as options tell."""
    if placement.here_is_inside() or config.getoption("no_gvisor"):
        return False
    controls = config.pluginmanager.hasplugin("dsession")  # xdist's
    return not controls and not any(config.getoption(name, False) for name in _RUN_NO_TEST)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Let xdist distribute whole files where each module has a sandbox, unless ``--dist`` is given.

    Else each worker starts a sandbox for nearly every module.
    """
    by_module = config.getoption("gvisor_isolation") == "module"
    if by_module and config.getoption("numprocesses", 0) and config.getoption("dist") == "no":
        config.option.dist = "loadfile"
    return (yield)


@pytest.hookimpl
def pytest_report_header(config: pytest.Config) -> list[str] | str | None:
    """Report that tests run inside, or that they do not although the project asks for it."""
    if placement.here_is_inside() or not placement.is_asked_for(config):
        return None
    where = placement.already_inside()
    if config.getoption("no_gvisor"):
        return f"gvisor: --no-gvisor: the tests run on {where or 'the host'}"
    if where:
        return (
            f"gvisor: ALREADY INSIDE {where}: the tests run in place; this sandbox decides on "
            "their network, user, files, limits and deadlines"
        )
    where = (
        "gvisor: the tests run INSIDE gVisor: its kernel, a /tmp of their own, an environment by "
        "allow-list; what they write stays there, apart from files that come back"
    )
    from pytest_gvisor.inside.view import run_options  # noqa: PLC0415 -- idle costs nothing

    return [where, *run_options.header(config)]


@pytest.hookimpl
def pytest_itemcollected(item: pytest.Item) -> None:
    """Name each test apart whose node id others have too, here and in the pytest inside alike."""
    taken = item.config.stash.setdefault(_taken_key, {})
    node = name = item.nodeid
    while name in taken:
        taken[node] += 1
        name = f"{node} ({taken[node]})"
    taken[name] = 1
    if name is not node:
        setattr(item, placement.APART, name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test inside its plan, and make a copy per platform if there are several."""
    if inside := placement.select_inside(config, items):
        _variants().expand(items, inside)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Plan the tests that hooks have made since, or marked: they too are to run inside.

    Until now, the copies of a test have been together, as pytest orders tests by their parameters.
    From now on, those for a platform are. With ``--stepwise`` nothing is moved, because it has
    deselected tests by their place.
    """
    pytest_collection_modifyitems(session.config, session.items)
    if inside := [item for item in session.items if placement.variant_key in item.stash]:
        _variants().read_marks(inside)
    has_copies = any(placement.twins_key in item.stash for item in inside)
    if has_copies and not session.config.getoption("stepwise", False):
        _variants().put_together(session.items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that is to run inside, and that a hook or fixture would make run here."""
    if placement.variant_key in item.stash:
        told = "a hook runs it on the host: leave that to pytest's own pytest_runtest_protocol"
    elif placement.select_inside(item.config, [item]):
        told = "is known too late: make or mark it while pytest collects"
    else:
        return
    pytest.fail(f"this test is to run inside, and {told}", pytrace=False)


pytest_runtest_call = pytest_runtest_setup
"""A test may have been marked in its setup."""


@pytest.hookimpl
def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note the tests that the pytest inside need not collect."""
    if items and placement.is_asked_for(items[0].config) and not placement.here_is_inside():
        placement.note_deselected(items[0].config, items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test inside, in place of pytest's own protocol.

    The hook is here, and not in a plugin that begins with the loop: that one would come before the
    hook of a project's conftest.py, which comes first on the host.
    """
    inside = item.config.stash.get(_session_key, None)
    return None if inside is None else inside.run(item, nextitem)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Begin and end the sandboxes with the loop.

    As the innermost hook: pytest-cov combines data after it.
    """
    config, inside = session.config, None
    stops = session.testsfailed and not config.option.continue_on_collection_errors
    runs = _runs_tests(config) and not stops
    if runs and any(placement.variant_key in item.stash for item in session.items):
        from pytest_gvisor.inside.session import InsideSession  # noqa: PLC0415 -- idle costs nothing

        inside = config.stash[_session_key] = InsideSession(session)
        config.add_cleanup(inside.end)
    try:
        return (yield)
    finally:
        if inside is not None:
            inside.close(interrupted=isinstance(sys.exception(), KeyboardInterrupt))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of xdist when the session began, and what the user has given.

    xdist gives each of them a folder.
    """
    node.workerinput[placement.BASETEMP_GIVEN] = bool(node.config.getoption("basetemp"))
    node.workerinput[placement.BEGAN] = placement.began(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what came of the files of a worker of xdist, and of its session."""
    output = getattr(node, "workeroutput", {})
    if "gvisor_returned" in output:
        from pytest_gvisor.inside.back import landing  # noqa: PLC0415 -- idle costs nothing

        landing.take_worker(node.config, node.gateway.id, output)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item) -> bool | None:
    """Leave a test's timer to the pytest-timeout inside: a signal here would hit our loop."""
    return True if placement.variant_key in item.stash else None


pytest_timeout_cancel_timer = pytest_timeout_set_timer
"""A test inside has no timer here, so there is none to cancel."""


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, object]
) -> None:
    """Add that the tests run inside, so that pytest-benchmark warns where it compares both."""
    if placement.is_asked_for(config) and not config.getoption("no_gvisor"):
        machine_info["gvisor"] = "inside"
