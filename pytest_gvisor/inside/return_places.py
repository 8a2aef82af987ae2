"""The places whose files come back from sandboxes: by options, and by an ini key.

Only output options are in the tables here. Reports that the host writes itself (``--junitxml``,
``--html``, ``--report-log``) are not, nor is any option that names what pytest reads.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.inside import configuration
from pytest_gvisor.plugin.placement import BASETEMP_GIVEN, RETURNS
from pytest_gvisor.programs.paths import within

OUTPUT_FILES = ("log_file", "cucumber_json_path")
OUTPUT_FOLDERS = ("allure_report_dir", "mpl_generate_path", "mpl_results_path")
"""Options, by their names in `config.option`, whose value is the path of a file or folder. A plugin
writes it in the process of the tests."""

MERGED = frozenset({"log_file"})
"""Those whose file gets what every sandbox wrote, in the order in which sandboxes end."""

SNAPSHOTS = {
    "update_snapshots": "**/__snapshots__/**",
    "snapshot_update": "**/snapshots/**",
}
DATA_FOLDERS = ("force_regen", "regen_all")
"""Options that have snapshots written: below rootdir, or in a folder that is named like the
module."""

RECORDINGS = ("record_mode", "vcr_record")
"""Options by whose value, another than ``none``, recordings of requests are written."""

MOST_OF_PLACE = 1024 * 1024 * 1024
MOST_OF_FAILED = 64 * 1024 * 1024
_TEMPORARY = frozenset({"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory"})
_OPENED_BY_THE_HOST = (".coverage", ".testmondata", ".pymon")
_NEVER = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file, or what matches a glob below a folder: the files of one option or entry."""

    origin: str
    """The option or ini key."""

    folder: str
    name: str = ""
    """The path of the only file below the folder; empty for a glob."""

    glob: str = "**"
    guarded: bool
    """Whether the host may import or run files there, so that only harmless names come back."""

    merged: bool = False
    failed_only: bool = False
    """Whether it has a folder for each test, of which those of failed tests come back."""

    most: int = MOST_OF_PLACE
    """Bytes of it that come back."""


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The places of one sandbox."""

    places: tuple[Place, ...] = ()
    project: str
    """The folder in which other files that tests wrote are counted."""

    writable: tuple[str, ...] = ()
    basetemp: str | None = None

    def command(self, files: int, size: int) -> dict[str, Any]:
        """Return all this for the first process, with the number and size of files to send."""
        wanted = [place.folder for place in self.places if os.path.isdir(place.folder)]
        if self.basetemp is not None:
            wanted.append(os.path.dirname(self.basetemp))
        return {
            "places": [dataclasses.asdict(place) for place in self.places],
            "project": self.project,
            "writable": self.writable,
            "folders": list(dict.fromkeys(wanted)),
            "files": files,
            "bytes": size,
        }


def agree(
    config: pytest.Config,
    items: Sequence[pytest.Item],
    *,
    writable: Iterable[str],
    basetemp: str | None,
) -> Agreed:
    """Return the places of a sandbox with these tests. Raises `UsageError`."""
    through = tuple(map(os.path.abspath, writable))
    places = [*_named(config), *_outputs(config), *_snapshots(config, items)]
    if basetemp is not None:
        place = _place(config, "--basetemp", basetemp)
        if not _is_basetemp_given(config):
            place = dataclasses.replace(place, failed_only=True, most=MOST_OF_FAILED)
        places.append(place)
    return Agreed(
        # What tests write below a writable folder is there already, and so may be their links.
        places=tuple(p for p in places if not any(within(p.folder, path) for path in through)),
        project=str(config.rootpath),
        writable=through,
        basetemp=basetemp,
    )


def check(config: pytest.Config) -> None:
    """Raise `UsageError` for an entry of the ini key that can name no file to return."""
    for _place in _named(config):
        pass


def _named(config: pytest.Config) -> Iterator[Place]:
    """Yield the places that the ini key names."""
    for entry in config.getini(RETURNS):
        path = os.path.normpath(os.path.join(config.rootpath, entry))
        _check_entry(entry, path)
        parts = path.split("/")
        fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), None)
        if fixed is None:
            folder, name = os.path.split(path)
            yield _place(config, RETURNS, folder, name=name)
            yield _place(config, RETURNS, path)
        else:
            folder, below = "/".join(parts[:fixed]) or "/", "/".join(parts[fixed:])
            yield _place(config, RETURNS, folder, below)


def _check_entry(entry: str, path: str) -> None:
    name = os.path.basename(path)
    if name.startswith(_OPENED_BY_THE_HOST):
        raise UsageError(
            f"{RETURNS} = {escape(entry)}: a plugin on the host opens this file as a database, "
            "and tests inside could have made it into anything"
        )
    if path == "/" or any(within(path, folder) for folder in _NEVER):
        raise UsageError(f"{RETURNS} = {escape(entry)}: no file can come back to {escape(path)}")


def _outputs(config: pytest.Config) -> Iterator[Place]:
    """Yield the places that output options name."""
    here = str(config.invocation_params.dir)
    for dest in (*OUTPUT_FILES, *OUTPUT_FOLDERS):
        value = getattr(config.option, dest, None) or _ini(config, dest)
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            continue
        path = os.path.normpath(os.path.join(here, os.fspath(value)))
        if dest in OUTPUT_FILES:
            folder, name = os.path.split(path)
            yield _place(config, dest, folder, name=name, merged=dest in MERGED)
        else:
            yield _place(config, dest, path)


def _ini(config: pytest.Config, dest: str) -> object:
    return config.getini(dest) if dest == "log_file" else None


def _snapshots(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[Place]:
    """Yield the places of snapshots whose own update option is given."""
    option = config.option
    for dest, below in SNAPSHOTS.items():
        if getattr(option, dest, False) is True:
            yield _place(config, dest, str(config.rootpath), below)
    for dest in RECORDINGS:
        if isinstance(mode := getattr(option, dest, None), str) and mode != "none":
            yield _place(config, dest, str(config.rootpath), "**/cassettes/**")
    for dest in DATA_FOLDERS:
        if getattr(option, dest, False) is True:
            for path in configuration.files(items):
                yield _place(config, dest, os.path.splitext(path)[0])


def _place(
    config: pytest.Config,
    origin: str,
    folder: str,
    below: str = "**",
    *,
    name: str = "",
    merged: bool = False,
) -> Place:
    guarded = not name and any(
        within(folder, path) or within(path, folder) for path in _guarded(config)
    )
    return Place(
        origin=origin,
        folder=folder,
        name=name,
        glob="" if name else below,
        guarded=guarded,
        merged=merged,
    )


def _guarded(config: pytest.Config) -> Iterator[str]:
    """Yield the folders where pytest, or the tools of the project, import or run files."""
    for path in (str(config.rootpath), str(config.invocation_params.dir), *sys.path):
        yield os.path.abspath(path)
        yield os.path.realpath(path)


def basetemp(config: pytest.Config, items: Iterable[pytest.Item], number: int) -> str | None:
    """Return the base temporary folder of this process's sandbox of that number.

    It is the host's, which the host's pytest makes and empties as for tests here. So a path in a
    report names a file that is there. None if no test needs one.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    needed = any(_TEMPORARY.intersection(getattr(item, "fixturenames", ())) for item in items)
    if factory is None or not (needed or _is_basetemp_given(config)):
        return None
    base = str(factory.getbasetemp())
    return base if number == 1 else os.path.join(base, f"sandbox-{number}")


def _is_basetemp_given(config: pytest.Config) -> bool:
    """Whether the user has given ``--basetemp``. xdist gives one to each of its workers."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return bool(given.get(BASETEMP_GIVEN, config.getoption("basetemp")))
