"""The files that come back: their places, by options and by an ini key, and each one checked.

Only output options are in the tables here. Reports that the host writes itself (``--junitxml``,
``--html``, ``--report-log``) are not, nor is any option that names what pytest reads. The sender is
untrusted: landing.py keeps what it sends.
"""

from __future__ import annotations

import base64
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.errors import GvisorError, UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.guest.returns import MOST_NAMES, REASONS, Place, refusal
from pytest_gvisor.inside import configuration, rules
from pytest_gvisor.inside.landing import Arriving, Store
from pytest_gvisor.inside.link import Died, Hangs, Link, gone
from pytest_gvisor.plugin.placement import BASETEMP_GIVEN, RETURNS
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.budget import MOST_MESSAGES, Budget

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

MOST_OF_FAILED = 64 * 1024 * 1024
LAST_ACTS = 10.0
"""Seconds that plugins inside may take after the last fixture has been torn down."""

_PATIENCE = 30.0

_TEMPORARY = frozenset({"tmp_path", "tmp_path_factory", "tmpdir", "tmpdir_factory"})
_OPENED_BY_THE_HOST = (".coverage", ".testmondata", ".pymon")
_NEVER = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The places of one sandbox."""

    places: tuple[Place, ...] = ()
    project: str
    """The folder in which other files that tests wrote are counted."""

    writable: tuple[str, ...] = ()
    basetemp: str | None = None


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
        place = _place(config, basetemp)
        if not _is_basetemp_given(config):
            place = place._replace(failed_only=True, most=MOST_OF_FAILED)
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
            yield _place(config, folder, name=name)
            yield _place(config, path)
        else:
            folder, below = "/".join(parts[:fixed]) or "/", "/".join(parts[fixed:])
            yield _place(config, folder, below)


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
        value = getattr(config.option, dest, None)
        if dest == "log_file":
            value = value or config.getini(dest)
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            continue
        path = os.path.normpath(os.path.join(here, os.fspath(value)))
        if dest in OUTPUT_FILES:
            folder, name = os.path.split(path)
            yield _place(config, folder, name=name, merged=dest in MERGED)
        else:
            yield _place(config, path)


def _snapshots(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[Place]:
    """Yield the places of snapshots whose own update option is given."""
    option = config.option
    for dest, below in SNAPSHOTS.items():
        if getattr(option, dest, False) is True:
            yield _place(config, str(config.rootpath), below)
    for dest in RECORDINGS:
        if isinstance(mode := getattr(option, dest, None), str) and mode != "none":
            yield _place(config, str(config.rootpath), "**/cassettes/**")
    for dest in DATA_FOLDERS:
        if getattr(option, dest, False) is True:
            for path in configuration.files(items):
                yield _place(config, os.path.splitext(path)[0])


def _place(
    config: pytest.Config, folder: str, below: str = "**", *, name: str = "", merged: bool = False
) -> Place:
    guarded = not name and any(
        within(folder, path) or within(path, folder) for path in _guarded(config)
    )
    glob = "" if name else below
    return Place(folder=folder, guarded=guarded, name=name, glob=glob, merged=merged)


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


class Taker:
    """The receiver of one sandbox's files."""

    def __init__(self, store: Store, agreed: Agreed) -> None:
        self.agreed = agreed
        self._sandbox = ""
        self._store = store
        self._file: Arriving | None = None
        self._said: set[str] = set()

    def name_sandbox(self, nodeid: str) -> None:
        """Take the node id of the first test as the name of the sandbox."""
        self._sandbox = self._sandbox or nodeid

    def command(self) -> dict[str, Any]:
        """Return for the first process what it is to send, with the number and size of files."""
        agreed = self.agreed
        wanted = [place.folder for place in agreed.places if os.path.isdir(place.folder)]
        if agreed.basetemp is not None:
            wanted.append(os.path.dirname(agreed.basetemp))
        return {
            "places": [place._asdict() for place in agreed.places],
            "project": agreed.project,
            "writable": agreed.writable,
            "folders": list(dict.fromkeys(wanted)),
            "files": self._store.files_left,
            "bytes": self._store.bytes_left,
        }

    def receive(self, link: Link, start: float) -> bool:
        """Take all that the first process sends; return whether its pytest has ended.

        That has to be within ``start`` seconds.
        """
        link.budget = Budget(start)
        try:
            link.await_end()
            left = self._store.bytes_left
            link.budget = Budget(_PATIENCE, size=2 * left + MOST_MESSAGES)
            while self.take(link.receive_of_first()):
                link.budget.earn(left - self._store.bytes_left)
                left = self._store.bytes_left
        except (Died, Hangs, GvisorError) as error:
            self.lose(gone(error))
        return link.attended

    def lose(self, why: str) -> None:
        """Note that files of this sandbox may be lost, if a test has begun in it."""
        places = self.agreed.places
        if self._sandbox and places:
            named = dict.fromkeys(os.path.join(p.folder, p.name or p.glob) for p in places)
            self._store.tally.say(
                "notes",
                f"the sandbox of {self._sandbox} is lost, and files that tests wrote in it may be: "
                f"{', '.join(named)} ({why})",
            )

    def take(self, message: dict[str, Any]) -> bool:
        """Take a message; return whether another one is to come. Raises `ProtocolError`."""
        kind = message["type"]
        with rules.reading("files from inside that cannot be taken"):
            if kind == "file":
                self._take_file(message)
            elif self._file is not None:
                raise ValueError("half a file")
            elif kind != "end":
                self._take_names(message)
        return bool(kind != "end")

    def _take_file(self, message: dict[str, Any]) -> None:
        read = _FILE(message)
        place, path = self.agreed.places[read["place"]], read["path"]
        if self._file is None:
            _check(place, path)
            sandbox = self._sandbox or "no test"
            self._file = self._store.begin(place.folder, path, merged=place.merged, sandbox=sandbox)
        elif (self._file.folder, self._file.path) != (place.folder, path):
            raise ValueError("half a file, and then another one")
        self._store.add(self._file, read["data"])
        if not read["more"]:
            self._store.keep(self._file)
            self._file = None

    def _take_names(self, message: dict[str, Any]) -> None:
        """Take a number of files that stayed inside, and the first names. Each may come once."""
        count, paths = rules.whole(message["count"]), _NAMES(message["paths"])
        tally, kind = self._store.tally, _KIND(message["type"])
        why = kind if kind == "wrote" else _REASON(message["why"])
        if why in self._said:
            raise ValueError("a number of files that came already")
        self._said.add(why)
        if kind == "wrote":
            tally.more += count
            tally.whole = tally.whole and message.get("whole") is True
            tally.say("others", *paths)
            return
        told = REASONS[why]
        tally.say("notes", *(f"{path} stayed inside: {told}" for path in paths))
        if count > len(paths):
            tally.say("notes", f"{count - len(paths)} more stayed inside: {told}")


def _check(place: Place, path: str) -> None:
    """Raise `ValueError` for a path that its place does not allow."""
    why = refusal(path, guarded=place.guarded)
    if why or not place.has(path):
        told = REASONS.get(why, "it belongs to no place")
        raise ValueError(f"{path!r:.200} was not agreed ({told})")


def _whether(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.50} in the place of true or false")
    return value


_FILE = rules.object_of(
    place=rules.whole,
    path=rules.exact_text,
    data=lambda value: base64.b64decode(rules.exact_text(value), validate=True),
    more=_whether,
)
_NAMES = rules.list_of(rules.exact_text, MOST_NAMES)
_KIND = rules.one_of("wrote", "left out")
_REASON = rules.one_of(*REASONS)
