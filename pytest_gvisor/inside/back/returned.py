"""The files that come back: their places, by options and by an ini key, and each one checked.

Only output options are in the tables here. Reports that the host writes itself (``--junitxml``,
``--html``, ``--report-log``) are not, nor is any option that names what pytest reads. The sender is
untrusted: landing.py keeps what it sends.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from pytest_gvisor.base.errors import LaunchError, UsageError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.guest.tests.returns import MOST_NAMES, REASONS, Place, refusal
from pytest_gvisor.inside.back.anchors import Anchor, Anchors
from pytest_gvisor.inside.back.landing import Arriving, Store, line
from pytest_gvisor.inside.plugins import allure, cassettes
from pytest_gvisor.inside.view import configuration, visible
from pytest_gvisor.inside.wire import rules
from pytest_gvisor.inside.wire.link import LOST, Link, gone
from pytest_gvisor.plugin.placement import BASETEMP_GIVEN, RETURNS
from pytest_gvisor.plugin.skips import misuse_ends_session
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.paths import within
from pytest_gvisor.run.budget import MOST_MESSAGES, Budget

OUTPUT_FOLDERS = ("allure_report_dir", "mpl_generate_path", "mpl_results_path")
"""Options, by their names in `config.option`, whose value is the path of a folder. A plugin writes
it in the process of the tests."""

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
    notes: tuple[str, ...] = ()
    """Lines on files that stay inside."""

    results: str = ""
    """The folder of Allure's results, of which the sandbox may send those of tests that began in
    it."""


def agree(
    config: pytest.Config,
    items: Sequence[pytest.Item],
    *,
    anchors: Anchors,
    writable: Iterable[str],
    basetemp: str | None,
) -> Agreed:
    """Return the places of a sandbox with these tests, which have anchors. Raises `UsageError`."""
    places: list[Place] = []
    notes: list[str] = []
    for place in (*_named(config), *_outputs(config), *_snapshots(config, items)):
        try:
            anchor = anchors.find(place.folder)
        except (UsageError, OSError) as error:
            notes.append(f"files below {place.folder} stay inside: {error}")
            continue
        if anchor is not None:
            # Inside, a project that a link leads to is there by either path, with other changes. By
            # a link in the project, there are the same files.
            linked = os.path.realpath(config.rootpath) != str(config.rootpath)
            ways = dict.fromkeys((place.folder, anchor.folder)) if linked else [anchor.folder]
            places += [place._replace(folder=way, project=anchor.project) for way in ways]
    if basetemp is not None and anchors.find(basetemp) is not None:
        place = Place(basetemp, free=True)
        if not _is_basetemp_given(config):
            place = place._replace(failed_only=True, most=MOST_OF_FAILED)
        if not (folder := _imported_from(config, basetemp)):
            places.append(place)
        elif _needs_basetemp(items):
            notes.append(
                f"files below {basetemp} stay inside, because the host imports or collects what is "
                f"below {folder}. Give --basetemp a folder elsewhere"
            )
    return Agreed(
        # A file belongs to the first of its places: to the one that allows most.
        places=tuple(sorted(places, key=lambda place: (not place.name, not place.own))),
        project=str(config.rootpath),
        writable=tuple(map(os.path.abspath, writable)),
        basetemp=basetemp,
        notes=tuple(notes),
        results=allure.folder(config),
    )


@misuse_ends_session()
def check(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for an entry of the ini key that can name no file to return."""
    with contextlib.closing(Anchors(str(config.rootpath))) as anchors:
        for place in _named(config):
            anchors.find(place.folder)


def _imported_from(config: pytest.Config, base: str) -> str:
    """Return the folder of the project, or of ``sys.path``, that a folder lies in; or nothing."""
    folders = (str(config.rootpath), *visible.import_folders(str(config.invocation_params.dir)))
    return next((path for path in folders if within(base, os.path.realpath(path))), "")


def _named(config: pytest.Config) -> Iterator[Place]:
    """Yield the places that the ini key names."""
    for entry in config.getini(RETURNS):
        path = os.path.normpath(os.path.join(config.rootpath, entry))
        _check_entry(entry, path)
        parts = path.split("/")
        fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), None)
        if fixed is None:
            folder, name = os.path.split(path)
            yield Place(folder, name)
            yield Place(path)
        else:
            yield Place("/".join(parts[:fixed]) or "/", glob="/".join(parts[fixed:]))


def _check_entry(entry: str, path: str) -> None:
    if os.path.basename(path).startswith(_OPENED_BY_THE_HOST):
        raise UsageError(
            f"{RETURNS} = {escape(entry)}: a plugin on the host opens this file as a database, "
            "and tests inside could have made it into anything"
        )
    if path == "/" or any(within(path, folder) for folder in _NEVER):
        raise UsageError(f"{RETURNS} = {escape(entry)}: no file can come back to {escape(path)}")


def _outputs(config: pytest.Config) -> Iterator[Place]:
    """Yield the places that output options name."""
    here = str(config.invocation_params.dir)
    for dest in ("log_file", *OUTPUT_FOLDERS):
        value = getattr(config.option, dest, None)
        if dest == "log_file":
            with contextlib.suppress(ValueError):  # pytest without its logging has no such key
                value = value or config.getini(dest)
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            continue
        path = os.path.normpath(os.path.join(here, value))
        if dest == "log_file":
            yield Place(*os.path.split(path), own=True, merged=True)
        else:
            yield Place(path, own=True)


def _snapshots(config: pytest.Config, items: Sequence[pytest.Item]) -> Iterator[Place]:
    """Yield the places of snapshots whose own update option is given."""
    option = config.option
    for dest, below in SNAPSHOTS.items():
        if getattr(option, dest, False) is True:
            yield Place(str(config.rootpath), glob=below, own=True)
    for dest in RECORDINGS:
        if isinstance(mode := getattr(option, dest, None), str) and mode != "none":
            yield Place(str(config.rootpath), glob="**/cassettes/**", own=True)
    for dest in DATA_FOLDERS:
        if getattr(option, dest, False) is True:
            for path in configuration.files(items):
                yield Place(os.path.splitext(path)[0], own=True)


def basetemp(config: pytest.Config, items: Iterable[pytest.Item], number: int) -> str | None:
    """Return the base temporary folder of this process's sandbox of that number.

    It is the host's, which the host's pytest makes and empties as for tests here. So a path in a
    report names a file that is there. None if no test needs one. Raises `LaunchError` if pytest
    cannot make it: another user may have taken its name.
    """
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is None or not (_needs_basetemp(items) or _is_basetemp_given(config)):
        return None
    try:
        base = str(factory.getbasetemp())
    except OSError as error:
        text = f"pytest has no folder for temporary files: {error}"
        raise LaunchError("basetemp", text, next_step="Give --basetemp a folder.") from error
    return base if number == 1 else os.path.join(base, f"sandbox-{number}")


def _needs_basetemp(items: Iterable[pytest.Item]) -> bool:
    return any(_TEMPORARY.intersection(getattr(item, "fixturenames", ())) for item in items)


def _is_basetemp_given(config: pytest.Config) -> bool:
    """Whether the user has given ``--basetemp``. xdist gives one to each of its workers."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return bool(given.get(BASETEMP_GIVEN, config.getoption("basetemp")))


class Taker:
    """The receiver of one sandbox's files."""

    def __init__(self, store: Store, agreed: Agreed) -> None:
        self.agreed = agreed
        self._begun: set[pytest.Item] = set()
        self.sandbox = ""
        """The node id of the first test that began in it."""

        self._store = store
        self._file: Arriving | None = None
        self._said: set[str] = set()
        self._left = [place.most for place in agreed.places]
        self._failed: set[str] = set()
        self._failed_here: set[pytest.Item] = set()
        self._folders_of_failed: set[str] = set()
        store.tally.say("notes", *(n for n in agreed.notes if line(n) not in store.tally.notes))

    def note_begun(self, item: pytest.Item) -> None:
        """Note a test that begins in the sandbox, for the host has asked for it."""
        self.sandbox = self.sandbox or item.nodeid
        self._begun.add(item)

    def note_failed(self, item: pytest.Item, inner: str) -> None:
        """Note a test that the host has seen fail, or lost, with its node id inside."""
        self._failed_here.add(item)
        self._failed.add(re.sub(r"\W", "_", inner))

    def _is_wanted(self, place: Place, path: str) -> bool:
        """Whether the host wants a file: of tests that failed, each has one folder.

        pytest names it by the first 30 characters of the test's name, and a number.
        """
        folder, known = path.partition("/")[0], self._folders_of_failed
        name = folder.rstrip("0123456789")
        if len(known) < len(self._failed_here) and any(f"__{name}" in x for x in self._failed):
            known.add(folder)
        return not place.failed_only or folder in known

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
            more = True
            while more:
                message, received = link.receive_of_first(), clock.monotonic()
                more = self.take(message)
                link.budget.earn(left - self._store.bytes_left, clock.monotonic() - received)
                left = self._store.bytes_left
        except LOST as error:
            self.lose(gone(error), "errors" if isinstance(error, MemoryError) else "notes")
        return link.attended

    def lose(self, why: str, kind: str = "notes") -> None:
        """Note that files of this sandbox may be lost, if a test has begun in it.

        ``kind`` is ``errors`` where the host could not take them: the session fails then.
        """
        places = self.agreed.places
        if self.sandbox and places:
            named = dict.fromkeys(os.path.join(p.folder, p.name or p.glob) for p in places)
            self._store.tally.say(
                kind,
                f"the sandbox of {self.sandbox} is lost, and files that tests wrote in it may be: "
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
            file = Arriving(
                place=place, path=path, anchor=self._checked(place, path),
                sandbox=self.sandbox or "no test", wanted=self._is_wanted(place, path),
            )  # fmt: skip
            self._file = self._store.begin(file)
        elif (self._file.place, self._file.path) != (place, path):
            raise ValueError("half a file, and then another one")
        self._left[read["place"]] -= len(read["data"])
        if self._left[read["place"]] < 0:
            raise ValueError(f"more than {place.most} bytes below {place.folder}")
        self._store.add(self._file, read["data"])
        if not read["more"]:
            if (judged := self._judged(self._file)) is None:
                told = "stayed inside: it is no result of a test of its sandbox, or no plain data"
                self._store.tally.say("notes", f"{os.path.join(place.folder, path)} {told}")
            else:
                self._store.keep(judged)
            self._file = None

    def _judged(self, file: Arriving) -> Arriving | None:
        """Return a file as it may land; None if it stays inside.

        Allure would take it for another sandbox's test, or the host would call what a tag names.
        """
        path, folder = os.path.join(file.anchor.folder, file.path), self.agreed.results
        name = path.lower()
        if file.place.own and name.endswith(cassettes.SUFFIXES):
            most = file.size <= cassettes.MOST
            return file if most and cassettes.is_plain(self._store.read(file)) else None
        if not (folder and name.endswith(allure.READ) and within(path, folder)):
            return file
        data = self._store.read(file) if file.size <= allure.MOST_OF_RESULT else b""
        new = allure.judged(path, data, self._begun, self._failed_here)
        if new is None or new == data:
            return None if new is None else file
        file = dataclasses.replace(file, size=0, digest=hashlib.sha256())
        self._store.add(self._store.begin(file), new)
        return file

    def _checked(self, place: Place, path: str) -> Anchor:
        """Return the anchor of a place. Raises `ValueError` for a path that it does not allow."""
        why = refusal(place, path)
        anchor = self._store.anchors.find(place.folder)
        if why or not place.has(path) or anchor is None:
            told = REASONS.get(why, "it belongs to no place")
            raise ValueError(f"{path!r:.200} was not agreed ({told})")
        return anchor

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


_FILE = rules.object_of(
    place=rules.whole,
    path=rules.exact_text,
    data=lambda value: base64.b64decode(rules.exact_text(value), validate=True),
    more=bool,
)
_NAMES = rules.list_of(rules.exact_text, MOST_NAMES)
_KIND = rules.one_of("wrote", "left out")
_REASON = rules.one_of(*REASONS)
