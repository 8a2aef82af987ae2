"""The markers' effects on a test: its parametrization, skips and failures."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import pytest

from pytest_gvisor.base import errors, setting_values
from pytest_gvisor.base.errors import GvisorError, PytestGvisorWarning, RunscError, UsageError
from pytest_gvisor.base.release_range import ReleaseRange
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.plugin import precedence, skips
from pytest_gvisor.plugin.placement import already_inside, native_key, params_of
from pytest_gvisor.plugin.skips import as_outcome, fail_misuse, location, prefix_location
from pytest_gvisor.plugin.stash import engine_of, platform_key

_FIXTURE = "gvisor_platform"
_acts_key = pytest.StashKey[list[tuple[str, Sequence[str]]]]()
"""The forbidden acts of a test, in all its tries."""

_latest_key = pytest.StashKey[pytest.TestReport]()
"""The latest report of a test with such acts."""


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that uses a sandbox with each platform and release of several.

    The lists come from the command line, the configuration and the markers, never from what works
    here. All xdist workers must collect the same tests.
    """
    with fail_misuse():
        settings = precedence.settings_of(metafunc.definition)
    labels = [release.label for release in settings.releases]
    for name, values in ((_FIXTURE, settings.platforms), (precedence.RELEASE_FIXTURE, labels)):
        if name not in metafunc.fixturenames or _is_parametrized(metafunc.definition, name):
            continue
        if len(values) > 1:
            metafunc.parametrize(name, values, ids=list(map(str, values)), indirect=True)


def warn_of_others(item: pytest.Item, settings: Settings, names: Sequence[str]) -> None:
    """Warn, or fail, for a test that cannot run on all of its platforms.

    ``names`` are the platforms, or the labels of the releases, the one that it runs on first.
    pytest parametrizes neither methods of a `unittest.TestCase`, nor doctests, nor what a test asks
    for while it runs.
    """
    if len(names) < 2:
        return
    first, *others = names
    text = (
        f"{location(item)} runs on {first} alone, and not on {', '.join(others)}: pytest makes "
        "no variants of a method of a TestCase, of a doctest, or for request.getfixturevalue()"
    )
    _warn(settings, text, "Choose one with @pytest.mark.gvisor.")


def _warn_of_late_marker(item: pytest.Item, settings: Settings, asked: object) -> None:
    """Warn, or fail, for a test that runs on a platform for which its markers do not ask."""
    # A hook of the project may have chosen it, which no marker shows.
    asks = settings.platforms != precedence.run_settings(item.config).platforms
    if asks and not _is_parametrized(item, _FIXTURE):
        names = ", ".join(settings.platforms)
        text = f"{location(item)} runs on {asked}, though a marker asks for {names}: it came after"
        text += " pytest had made the variants, from a parameter, a hook or a fixture"
        _warn(settings, text, "Mark the function, or parametrize gvisor_platform.")


def _warn(settings: Settings, text: str, step: str) -> None:
    if settings.strict:
        with fail_misuse():
            raise UsageError(text, next_step=step)
    warnings.warn(PytestGvisorWarning(text), stacklevel=1)


def _is_parametrized(node: pytest.Item, fixture: str) -> bool:
    """Whether a test itself parametrizes platforms, or releases."""
    names = [
        mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
        for mark in node.iter_markers("parametrize")
    ]
    return any(fixture in (n.replace(",", " ").split() if isinstance(n, str) else n) for n in names)


def check_requirements(item: pytest.Item, settings: Settings | None = None) -> None:
    """Skip or fail a test whose markers require something that is missing here.

    ``settings`` are the test's, where they are known.
    """
    needed = _needed_platforms(item)
    _check_expected_failures(item)
    if not needed and item.get_closest_marker("requires_runsc") is None:
        return
    with fail_misuse():
        settings = settings or precedence.settings_of(item)
    engine = engine_of(item.config)
    with as_outcome(item, settings):
        runsc = engine.binary(settings, *needed[:1])
        for mark in item.iter_markers("requires_runsc"):
            if mark.args:
                allowed = ReleaseRange.parse(mark.args[0], "requires_runsc")
                allowed.check(runsc.version, runsc.path, "this test")
        for platform in needed:
            engine.availability(platform, settings).check()


def add_xfail_before_setup(item: pytest.Item) -> None:
    """Apply `add_xfail` before anything of a test on the host is set up.

    pytest looks for the mark as the set-up begins. If the mark comes later, failures of the set-up
    count as errors.
    """
    if native_key in item.stash and not already_inside():
        add_xfail(item, setting_values.NATIVE)
    if _FIXTURE not in getattr(item, "fixturenames", ()) or not precedence.expected_failures(item):
        return
    with contextlib.suppress(GvisorError):  # the fixture comes to the same, and reports it
        settings, engine = precedence.settings_of(item), engine_of(item.config)
        platform = engine.platforms_of(settings)[0]
        if (asked := params_of(item).get(_FIXTURE)) is not None:
            platform = setting_values.platform(asked, "")
        if platform in precedence.expected_failures(item):
            engine.availability(platform, settings).check()
            add_xfail(item, platform)


def _check_expected_failures(item: pytest.Item) -> None:
    """Fail a test that expects a failure on an unknown platform, such as a misspelt one.

    Where there is no binary to ask, nothing runs on that platform either.
    """
    for name in precedence.expected_failures(item):
        if name == setting_values.NATIVE:
            continue
        with fail_misuse(), prefix_location(item), contextlib.suppress(RunscError):
            named = setting_values.platform(name, "xfail")
            engine_of(item.config).check_listed(named, precedence.settings_of(item))


def add_xfail(item: pytest.Item, platform: str) -> None:
    """Mark a test that is expected to fail on this platform as a strict xfail.

    Only when the platform is known to work: for want of a platform no test fails as expected.
    """
    reason = precedence.expected_failures(item).get(platform)
    if reason is not None:
        item.add_marker(pytest.mark.xfail(reason=f"{platform}: {reason}", strict=True))


def choose_platform(
    item: pytest.Item, settings: Settings, asked: object, *, in_gvisor: bool = False
) -> Platform:
    """Decide on a test's platform: the one in its id, or the first of its settings.

    Skips or fails the test if there is no runsc. ``in_gvisor`` is as for `skips.skip_missing`.
    """
    if asked is not None and settings.platforms and asked not in settings.platforms:
        _warn_of_late_marker(item, settings, asked)
    engine = engine_of(item.config)
    with as_outcome(item, settings, in_gvisor=in_gvisor):
        platform = None if asked is None else setting_values.platform(asked, _FIXTURE)
        platform = platform or engine.platforms_of(settings)[0]
        engine.binary(settings, platform)
        engine.check_listed(platform, settings)
    item.stash[platform_key] = platform
    return platform


def check_platform(
    item: pytest.Item, settings: Settings, platform: Platform, *, in_gvisor: bool = False
) -> None:
    """Skip or fail a test whose platform does not work."""
    with as_outcome(item, settings, in_gvisor=in_gvisor):
        engine_of(item.config).availability(platform, settings).check()


def _needed_platforms(item: pytest.Item) -> list[Platform]:
    needed = [Platform.KVM] if item.get_closest_marker("requires_kvm") else []
    with fail_misuse():
        for mark in item.iter_markers("requires_runsc"):
            _check_arguments(item, mark, (">=20240729",) if mark.args else ())
        for mark in item.iter_markers("requires_kvm"):
            _check_arguments(item, mark, ())
        for mark in item.iter_markers("requires_platform"):
            _check_arguments(item, mark, ("systrap",))
            with prefix_location(item):
                needed.append(setting_values.platform(mark.args[0], "requires_platform"))
    return needed


def _check_arguments(item: pytest.Item, mark: pytest.Mark, example: tuple[str, ...]) -> None:
    """Raise `UsageError` unless the marker has as many positional arguments as the example."""
    if len(mark.args) == len(example) and not mark.kwargs:
        return
    right = f"@pytest.mark.{mark.name}" + (f'("{example[0]}")' if example else "")
    raise UsageError(f"{location(item)}: write {right}, not with {mark.args!r} {mark.kwargs!r}")


def undo_pass(item: pytest.Item, call: pytest.CallInfo[object], report: pytest.TestReport) -> None:
    """Undo the xfail of a test that cannot have failed so, or that did what is forbidden.

    If its marker or the ini key forbids acts of a kind that the program's call forbids, no skip and
    no pass hides it either, whatever became of the error: a thread, a plugin or the test may have
    it. It counts until the test's end, in each try. A test that shows a failure keeps that alone.
    """
    acts = item.stash.setdefault(_acts_key, [])
    acts += [errors.forbidden.pop(0) for _ in range(len(errors.forbidden))]
    shows = (latest := item.stash.get(_latest_key, None)) is not None and latest.failed
    hides = report.skipped or (call.when == "teardown" and report.passed and not shows)
    undo = hasattr(report, "wasxfail") and not report.passed and (acts or skips.is_unexpected(call))
    forbids = precedence.settings_of(item).forbid if acts and hides else ()
    kinds = {one.partition(":")[0] for one in forbids}
    if undo or any(one.partition(":")[0] in kinds for _, forbid in acts for one in forbid):
        report.outcome = "failed"
        if vars(report).pop("wasxfail", None) is None:
            report.longrepr = "it did what is forbidden, and hid that (a test that may: forbid=[])"
        report.sections += [("gvisor: forbidden acts", text) for text, _ in acts[:8]]
    if acts:
        item.stash[_latest_key] = report  # pytest-retry changes its outcome


class Running:
    """The acts that the running test forbids; none while fixtures are set up or torn down.

    It is a plugin of its own, because a test may run already when it asks for ``gvisor_sandboxes``.
    """

    def __init__(self) -> None:
        self.forbid: Sequence[str] = ()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Note what the running test forbids."""
        with contextlib.suppress(UsageError):  # its own fixtures have reported that
            self.forbid = precedence.settings_of(item).forbid
        try:
            return (yield)
        finally:
            self.forbid = ()


def running(config: pytest.Config) -> Running:
    """Return the plugin of this process; it is registered before the first test is set up."""
    found: Running | None = config.pluginmanager.get_plugin("gvisor-running")
    if found is None:
        config.pluginmanager.register(found := Running(), "gvisor-running")
    return found
