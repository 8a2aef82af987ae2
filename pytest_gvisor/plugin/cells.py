"""Data of a test's sandboxes, attached to pytest's reports for the matrix.

This runs where tests run, which may be a worker of xdist's. So all of it is plain data, as an
attribute of the report. Nothing here is costly: the details are taken only where a file was asked
for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from pytest_gvisor.base import errors
from pytest_gvisor.base.completed import Usage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_values import IN_PLACE, NATIVE
from pytest_gvisor.base.settings import Platform, Settings
from pytest_gvisor.plugin import placement
from pytest_gvisor.plugin.again import command, section
from pytest_gvisor.plugin.precedence import RELEASE_FIXTURE, settings_of
from pytest_gvisor.plugin.skips import mending, missing_requirement
from pytest_gvisor.plugin.stash import engine_of, harnesses, has_failed, platform_key, take_runs
from pytest_gvisor.report.run_texts import run_of

CELL = "gvisor_cell"
ROSTER = "gvisor_roster"


class _Made(NamedTuple):
    """The cell of a test, as all of its reports have it, and the settings that it was made of."""

    data: dict[str, Any]
    settings: Settings


_cell_key = pytest.StashKey[_Made]()


def attach_cell(item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Attach the sandboxes' data to a report of a test on the host.

    A test inside has a report from here where it is refused, and fails if a hook has called it.
    """
    if call.when == "call" and placement.variant_of(item) and not report.failed:
        report.outcome = "failed"
        report.longrepr = "this test is to run inside, and a hook has called it on the host"
        vars(report).pop("wasxfail", None)
    if (cell := cell_of(item, report.when)) is None:
        return
    data = _told(item, cell, report)
    missing = None if call.excinfo is None else missing_requirement(call.excinfo.value)
    if missing is not None:
        cause, lacking = missing.message, data["platform"]
        if isinstance(missing, errors.PlatformUnavailable):
            cause, lacking = missing.cause, column(missing.platform, data["release"])
        elif isinstance(missing, errors.DaemonUnavailable):
            lacking = ""  # without docker, the platform works
        data["lacking"], data["cause"] = lacking, escape(cause + mending(missing))
    if report.when == "teardown":
        runs = take_runs(item)
        data["starts_ms"] = _milliseconds([start for start, _ in runs if start is not None])
        data["used"] = _used([usage for _, usage in runs if usage is not None])
        if cell.settings.report:
            records = [record for harness in harnesses(item) for record in harness.records]
            many = 5 if has_failed(item) else 1
            data["runs"] = [run_of(record) for record in records[-many:]]
        _add_properties(report, data)
    vars(report)[CELL] = data


def attach_inside_cell(
    item: pytest.Item, report: pytest.TestReport, *, start: float | None, run: dict[str, str] | None
) -> None:
    """Attach the sandbox's data to a report of a test inside.

    ``start`` is the seconds that a start for this test has taken. ``run`` has the details
    of the sandbox for the report files.
    """
    if (cell := cell_of(item, report.when)) is None:
        return
    data = _told(item, cell, report)
    data["starts_ms"] = _milliseconds([] if start is None else [start])
    if report.failed:
        report.sections.append(section(data["command"]))
    if run is not None:
        data["runs"] = [run]
    if report.when == "teardown":
        _add_properties(report, data)
    vars(report)[CELL] = data


def cell_of(item: pytest.Item, when: str | None = None) -> _Made | None:
    """Return a test's cell, made once, and again ``when`` its setup is over: a fixture or a hook
    may have marked it. None for a test without one.
    """
    is_new = when == "setup" or _cell_key not in item.stash
    if is_new and (placement.in_matrix(item) or harnesses(item)):
        with contextlib.suppress(errors.UsageError):  # of a marker: pytest reports it
            settings = settings_of(item)
            item.stash[_cell_key] = _Made(_make_cell(item, settings), settings)
    return item.stash.get(_cell_key, None)


def _make_cell(item: pytest.Item, settings: Settings) -> dict[str, Any]:
    variant, params = placement.variant_of(item), placement.params_of(item)
    if placement.native_key in item.stash:
        platform = IN_PLACE if placement.already_inside() else NATIVE
        row, binary = item.stash[placement.native_key], ["", ""]
        release = network = ""
    else:
        asked = params.get("gvisor_platform") if variant is None else variant.platform
        platform, *binary = _binary(item, settings, asked)
        release, network = settings.label, settings.network.value
        row = item.nodeid if variant is None else variant.inner
        # A project's own fixture of this name may have parameters that are no platforms.
        for name, word in (("gvisor_platform", platform), (RELEASE_FIXTURE, release)):
            if word and params.get(name) == word:
                row = strip_platform(row, word)
    return {
        "nodeid": item.nodeid,
        "row": escape(row),
        "platform": column(platform, release),
        "release": release,
        "network": network,
        "runsc": binary,
        "asked": bool(settings.platforms),
    }


def _told(item: pytest.Item, cell: _Made, report: pytest.TestReport) -> dict[str, Any]:
    """Return a cell for one report, with the command that repeats the test where it is shown.

    Nobody asks for it where the test passes, and neither a report file nor an explanation is made.
    """
    data, settings = {**cell.data}, cell.settings
    if not report.passed or settings.report or settings.explain or hasattr(report, "wasxfail"):
        data["command"] = escape(command(item, settings, _platform(data)))
    return data


def _platform(cell: dict[str, Any]) -> str:
    return str(cell["platform"]).removesuffix(f"-{cell['release']}")


def _binary(item: pytest.Item, settings: Settings, asked: object) -> tuple[str, ...]:
    """Return a test's platform, and its binary's version, path and origin, escaped."""
    engine = engine_of(item.config)
    platform, binary = str(next(iter(settings.platforms), "auto")), ("", "", "")
    listed = {*Platform, *settings.platforms}
    with contextlib.suppress(errors.GvisorError):
        runsc = engine.runsc(settings.runsc)
        binary = escape(runsc.version), escape(runsc.path), str(runsc.origin)
        listed |= runsc.platforms
        platform = engine.platforms_of(settings)[0].value
    if platform_key in item.stash:
        platform = item.stash[platform_key].value
    elif asked is not None:
        if asked not in listed:
            raise errors.UsageError(f"gvisor_platform={asked!r} is no platform of this run")
        platform = str(asked)
    return platform, *binary


def column(platform: str, release: str) -> str:
    """Return the name of a cell's column: the platform, and the label of one of several
    releases.
    """
    return f"{platform}-{release}" if release else platform


def strip_platform(nodeid: str, platform: str) -> str:
    """Return a node id without the part in brackets that names the platform.

    ``test_x[systrap]`` is ``test_x``, ``test_x[systrap-1]`` and ``test_x[1-systrap]`` are
    ``test_x[1]``.
    """
    # A folder's name may have brackets too, those of classes and functions cannot.
    path, colons, name = nodeid.partition("::")
    head, bracket, rest = name.partition("[")
    before, found, after = f"-{rest.removesuffix(']')}-".partition(f"-{platform}-")
    if not bracket or not found:
        return nodeid
    left = "-".join(filter(None, (before[1:], after[:-1])))
    return f"{path}{colons}{head}" + (f"[{left}]" if left else "")


def roster(session: pytest.Session) -> list[list[str]]:
    """Return node id, row and platform of each test that is to run, in order."""
    cells = ((item.nodeid, cell_of(item)) for item in session.items)
    return [[nodeid, cell.data["row"], cell.data["platform"]] for nodeid, cell in cells if cell]


def _add_properties(report: pytest.TestReport, data: dict[str, Any]) -> None:
    """Add properties for JUnit files, and for other readers of pytest's user properties."""
    found = {
        "gvisor.platform": _platform(data),
        "gvisor.release": data["release"],
        "gvisor.runsc": data["runsc"][0],
        "gvisor.network": data["network"],
        "gvisor.start_ms": ",".join(f"{start:g}" for start in data["starts_ms"]),
    }
    # A list of its own: pytest may share one between all reports of a test.
    report.user_properties = [*report.user_properties, *((k, v) for k, v in found.items() if v)]


def _used(usages: Sequence[Usage]) -> dict[str, float | int]:
    """Return the figures of a test's sandboxes by the names of `Cell`: nothing of what none has."""
    found = {
        "cpu_time": round(sum(usage.cpu_time or 0 for usage in usages), 3),
        "peak_memory": max((usage.peak_memory or 0 for usage in usages), default=0),
        "peak_tasks": max((usage.peak_tasks or 0 for usage in usages), default=0),
    }
    return {name: figure for name, figure in found.items() if figure}


def _milliseconds(seconds: Sequence[float]) -> list[float]:
    return [round(one * 1000, 1) for one in seconds]
